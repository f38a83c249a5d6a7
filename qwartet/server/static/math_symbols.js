// Symbols of LaTeX commands, with the names of TeX and AMS. math.js builds the formulas.

function table(text) {
  const pairs = text.trim().split(/\s+/);
  return new Map(pairs.map((pair) => [pair.slice(0, pair.indexOf(":", 1)), pair.slice(pair.indexOf(":", 1) + 1)]));
}

/** Letters; <mi> decides whether they are upright. */
export const LETTERS = table(`
  alpha:α beta:β gamma:γ delta:δ epsilon:ϵ varepsilon:ε zeta:ζ eta:η theta:θ vartheta:ϑ iota:ι kappa:κ lambda:λ mu:μ
  nu:ν xi:ξ omicron:ο pi:π varpi:ϖ rho:ρ varrho:ϱ sigma:σ varsigma:ς tau:τ upsilon:υ phi:ϕ varphi:φ chi:χ psi:ψ omega:ω
  Gamma:Γ Delta:Δ Theta:Θ Lambda:Λ Xi:Ξ Pi:Π Sigma:Σ Upsilon:Υ Phi:Φ Psi:Ψ Omega:Ω
  infty:∞ partial:∂ nabla:∇ hbar:ℏ ell:ℓ Re:ℜ Im:ℑ aleph:ℵ emptyset:∅ varnothing:∅ imath:ı jmath:ȷ wp:℘
  ldots:… cdots:⋯ vdots:⋮ ddots:⋱ dots:… dotsc:… dotsb:⋯ top:⊤ bot:⊥ angle:∠ triangle:△ square:□ Box:□ degree:° prime:′
  checkmark:✓ star:⋆ clubsuit:♣ diamondsuit:♢ heartsuit:♡ spadesuit:♠ S:§ P:¶ pounds:£ copyright:©
`);

export const OPERATORS = table(`
  pm:± mp:∓ times:× div:÷ cdot:⋅ ast:∗ circ:∘ bullet:∙ oplus:⊕ ominus:⊖ otimes:⊗ odot:⊙ cap:∩ cup:∪ sqcap:⊓ sqcup:⊔
  vee:∨ lor:∨ wedge:∧ land:∧ setminus:∖ wr:≀ dagger:† ddagger:‡ amalg:⨿ neg:¬ lnot:¬ forall:∀ exists:∃ nexists:∄
  le:≤ leq:≤ leqslant:⩽ ge:≥ geq:≥ geqslant:⩾ ne:≠ neq:≠ lt:< gt:> ll:≪ gg:≫ equiv:≡ sim:∼ simeq:≃ approx:≈ cong:≅
  propto:∝ doteq:≐ prec:≺ succ:≻ preceq:⪯ succeq:⪰ in:∈ notin:∉ ni:∋ subset:⊂ supset:⊃ subseteq:⊆ supseteq:⊇
  subsetneq:⊊ supsetneq:⊋ mid:∣ nmid:∤ parallel:∥ perp:⊥ vdash:⊢ dashv:⊣ models:⊨ asymp:≍ bowtie:⋈ triangleq:≜
  to:→ rightarrow:→ gets:← leftarrow:← leftrightarrow:↔ Rightarrow:⇒ Leftarrow:⇐ Leftrightarrow:⇔ implies:⟹ impliedby:⟸
  iff:⟺ longrightarrow:⟶ longleftarrow:⟵ longleftrightarrow:⟷ Longrightarrow:⟹ Longleftarrow:⟸ mapsto:↦ longmapsto:⟼
  uparrow:↑ downarrow:↓ updownarrow:↕ Uparrow:⇑ Downarrow:⇓ hookrightarrow:↪ hookleftarrow:↩ rightharpoonup:⇀
  rightleftharpoons:⇌ leadsto:⇝ nearrow:↗ searrow:↘ swarrow:↙ nwarrow:↖ therefore:∴ because:∵ colon:: coloneqq:≔
  lbrace:{ rbrace:} lbrack:[ rbrack:] langle:⟨ rangle:⟩ lfloor:⌊ rfloor:⌋ lceil:⌈ rceil:⌉ vert:| lvert:| rvert:|
  Vert:‖ lVert:‖ rVert:‖ backslash:\\ {:{ }:} |:‖ %:% $:$ #:# &:& _:_
`);

/** Operators with limits above and below in display formulas. */
export const LARGE = table(`
  sum:∑ prod:∏ coprod:∐ bigcup:⋃ bigcap:⋂ bigoplus:⨁ bigotimes:⨂ bigodot:⨀ bigvee:⋁ bigwedge:⋀ bigsqcup:⨆ biguplus:⨄
`);

export const INTEGRALS = table("int:∫ iint:∬ iiint:∭ oint:∮");

const names = (text) => new Set(text.trim().split(/\s+/));

export const FUNCTIONS = names(`
  sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp deg dim hom ker arg
`);

/** Functions with limits below. */
export const LIMITS = names("lim max min sup inf limsup liminf argmax argmin det gcd Pr");

export const ACCENTS = table(`
  hat:^ widehat:^ bar:‾ overline:‾ vec:→ overrightarrow:→ overleftarrow:← tilde:~ widetilde:~ dot:˙ ddot:¨ check:ˇ breve:˘
  acute:´ grave:\` mathring:˚ overbrace:⏞
`);

export const UNDER_ACCENTS = table("underline:_ underbrace:⏟");

/** Widths in em. */
export const SPACES = new Map([
  [",", 0.167], [":", 0.222], [">", 0.222], [";", 0.278], ["!", -0.167], [" ", 0.25], ["quad", 1], ["qquad", 2],
  ["thinspace", 0.167], ["enspace", 0.5],
]);

/** Commands without effect here. */
export const IGNORED = names(`
  displaystyle textstyle scriptstyle limits nolimits big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr middle
  hline nonumber notag mathstrut
`);

/** Alphabets: the first letter of each case in Unicode, and the exceptions. */
export const ALPHABETS = new Map([
  ["mathbb", { upper: 0x1d538, lower: 0x1d552, digit: 0x1d7d8, apart: table("C:ℂ H:ℍ N:ℕ P:ℙ Q:ℚ R:ℝ Z:ℤ") }],
  ["mathcal", { upper: 0x1d49c, lower: 0x1d4b6, apart: table("B:ℬ E:ℰ F:ℱ H:ℋ I:ℐ L:ℒ M:ℳ R:ℛ e:ℯ g:ℊ o:ℴ") }],
  ["mathfrak", { upper: 0x1d504, lower: 0x1d51e, apart: table("C:ℭ H:ℌ I:ℑ R:ℜ Z:ℨ") }],
]);
ALPHABETS.set("mathscr", ALPHABETS.get("mathcal"));

/** Environments: the brackets around their cells. */
export const ENVIRONMENTS = new Map([
  ["matrix", ["", ""]], ["smallmatrix", ["", ""]], ["pmatrix", ["(", ")"]], ["bmatrix", ["[", "]"]],
  ["Bmatrix", ["{", "}"]], ["vmatrix", ["|", "|"]], ["Vmatrix", ["‖", "‖"]], ["array", ["", ""]], ["cases", ["{", ""]],
  ["rcases", ["", "}"]], ["aligned", ["", ""]], ["align", ["", ""]], ["align*", ["", ""]], ["alignat*", ["", ""]],
  ["split", ["", ""]], ["gather", ["", ""]], ["gather*", ["", ""]], ["gathered", ["", ""]], ["equation", ["", ""]],
  ["equation*", ["", ""]], ["eqnarray", ["", ""]], ["eqnarray*", ["", ""]],
]);
