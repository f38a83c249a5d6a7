"""A card's content as Markdown, in one language: the template's text around the tables. Same content, same text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qwartet.bench.profile.row import Row
from qwartet.bench.profile.table import WORDS as PROFILE_WORDS
from qwartet.bench.profile.table import markdown_table
from qwartet.card.compression import OTHERS
from qwartet.card.file import CardData, Measured
from qwartet.card.published import published_tables
from qwartet.card.scores import OTHER_DATA, comparison_table, quantization_table, score_table, scores
from qwartet.card.steps import PROMPTS
from qwartet.card.subject import (
    Checkpoint,
    architecture_table,
    checkpoint,
    compression_table,
    requirements_table,
)
from qwartet.card.table import Language, fenced, plain
from qwartet.card.words import word

FILES: dict[Language, str] = {"en": "card.md", "zh": "card.zh.md"}
NEEDLE, ROOFLINE = "needle.svg", "roofline.svg"  # pictures beside the card
TASKS = (
    "ceval",
    "ceval-test",
    "mmlu",
    "humaneval",
    "gsm8k",
    "leval",
    "needle",
    "tools",
    "code-interpreter",
    "perplexity",
)
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Evaluation:
    """One section about a task."""

    title: str
    table: str | None  # None: not measured
    reason: str  # why not, where that is known
    notes: list[str]
    picture: str | None
    published: str | None
    source: str


def markdown(data: CardData, pictures: frozenset[str], language: Language) -> str:
    """The card; `pictures` are the names of those that exist."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=False, undefined=StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["plain"] = plain
    template = environment.get_template(f"card.{language}.md")
    return _without_blank_runs(template.render(_context(data, pictures, language)))


def _context(data: CardData, pictures: frozenset[str], language: Language) -> dict[str, Any]:
    own = checkpoint(data, data.subject)
    quantization = quantization_table(data, language).markdown()
    comparison = comparison_table(data, language)
    evaluations = [_evaluation(data, task, pictures, language) for task in TASKS]
    return {
        **_identity(data, own, language),
        "requirements": requirements_table(data, language).markdown(),
        "answers": list(_answers(data)),
        "quantization": quantization,
        "has_other_units": any(scores(data, "perplexity")),
        "other_data": OTHER_DATA if OTHER_DATA in quantization else "",
        "comparison": None if comparison is None else comparison.markdown(),
        **_speed(data, pictures, language),
        "compression": compression_table(data, language).markdown() if data.compression else None,
        "has_others": any(name in counts for counts in data.compression.values() for name in OTHERS),
        "architecture": architecture_table(data, language).markdown(),
        "evaluations": evaluations,
        "missing": list(_missing(data, evaluations, language)),
        "environment": _environment(data, language),
        "commands": [step.command for step in data.steps],
    }


def _identity(data: CardData, own: Checkpoint, language: Language) -> dict[str, Any]:
    """What the introduction says of the checkpoint."""
    model, quantization = own.model, own.quantization
    machine = data.output("environment")
    tokenizer = data.output("inspect", own.name).get("tokenizer") or {}
    command = next((step.command for step in data.of("inspect", own.name)), "qwartet inspect MODEL")
    location = command.removeprefix("qwartet inspect ")
    return {
        "name": own.name,
        "version": data.version,
        "date": data.date,
        "machine": _machine(machine, language),
        "is_chat": own.is_chat,
        "parameters": _parameters(model.get("num_parameters")),
        "layers": model.get("num_layers"),
        "heads": model.get("num_heads"),
        "hidden": f"{model.get('hidden_size', 0):,}",
        "precision_text": _precision_text(own, quantization, language),
        "context": f"{model.get('max_length', 0):,}",
        "trained": f"{model.get('train_length', 0):,}",
        "ntk": bool(model.get("use_dynamic_ntk")),
        "tokens": f"{tokenizer.get('num_tokens', 0):,}",
        "is_published_vocabulary": bool(tokenizer.get("is_published")),
        "location": location,
        "location_literal": repr(location.strip("'")).replace("'", '"'),
    }


def _parameters(count: int | None) -> str:
    if count is None:
        return "?"
    return f"{count / 1e9:.1f} B" if count >= 10**9 else f"{count / 1e6:.1f} M"


def _precision_text(own: Checkpoint, quantization: dict[str, Any] | None, language: Language) -> str:
    if quantization is None:
        return f"Weights: {own.precision_name}." if language == "en" else f"权重为 {own.precision_name}。"
    size, acts, method = quantization["group_size"], quantization["desc_act"], quantization["method"].upper()
    if language == "en":
        order = ", act-order" if acts else ""
        return f"Weights: {method} {own.precision_name}, groups of {size}{order}."
    return f"权重为 {method} {own.precision_name} 量化，组大小 {size}{'，act-order' if acts else ''}。"


def _machine(environment: dict[str, Any], language: Language) -> str:
    processor = environment.get("processor") or {}
    name, cores = processor.get("name", "?"), processor.get("usable_cores", "?")
    return f"{cores} cores of an {name}" if language == "en" else f"{name}（{cores} 核）"


def _environment(data: CardData, language: Language) -> str:
    found = data.output("environment")
    versions = found.get("versions") or {}
    kernels = (found.get("kernels") or {}).get("cpu") or {}
    memory = (found.get("memory") or {}).get("total", 0) / 2**30
    parts = [f"{name} {version}" for name, version in versions.items() if version != "not installed"]
    texts = [plain(_machine(found, language)), f"{memory:.0f} GiB", *map(plain, kernels.values()), *map(plain, parts)]
    return ", ".join(dict.fromkeys(texts)) + "." if language == "en" else "，".join(dict.fromkeys(texts)) + "。"


def _answers(data: CardData) -> Iterator[str]:
    """Each prompt of the card with the model's answer, as a block of text."""
    for step, (system, prompt) in zip(data.of("answer"), PROMPTS, strict=False):
        lines = [*([f"system: {system}"] if system else []), f"> {prompt}", (step.output or {})["response"]]
        yield fenced("\n".join(lines), "text")


def _speed(data: CardData, pictures: frozenset[str], language: Language) -> dict[str, Any]:
    rows = [Row.from_dict(values) for step in data.of("profile") for values in (step.output or {})["rows"]]
    words = PROFILE_WORDS[language]
    notes = [*words.notes, *([words.note_published] if any(row.published for row in rows) else [])]
    return {
        "speed": markdown_table(rows, language) if rows else None,
        "speed_notes": "\n".join(f"- {note}" for note in notes),
        "roofline": ROOFLINE if ROOFLINE in pictures else None,
    }


def _evaluation(data: CardData, task: str, pictures: frozenset[str], language: Language) -> Evaluation:
    table = score_table(data, task, language)
    published = published_tables()[task]
    note = published.note.get(language)
    shown = published.table(language).markdown() + (f"\n\n{note}" if note else "")
    return Evaluation(
        title=published.title[language],
        table=None if table is None else table.markdown(),
        reason="",
        notes=list(_notes(data, task, language)),
        picture=NEEDLE if task == "needle" and table is not None and NEEDLE in pictures else None,
        published=shown,
        source=published.source[language],
    )


def _notes(data: CardData, task: str, language: Language) -> Iterator[str]:
    """Which questions a task's runs were asked, where they can be told from the published ones."""
    known = {score.is_published_data for score in scores(data, task)} - {None}
    if known == {True}:
        yield f"{_data(language)}{word('the published data', language)}."
    elif False in known:
        yield f"{_data(language)}{word('other data than the published', language)}."


def _data(language: Language) -> str:
    return "Data: " if language == "en" else "数据："


def _missing(data: CardData, evaluations: list[Evaluation], language: Language) -> Iterator[str]:
    yield from (evaluation.title for evaluation in evaluations if evaluation.table is None)
    if not any(data.of("profile")):
        yield published_tables()["speed"].title[language]
    for step in data.steps:
        if step.output is None:
            yield _failed(step, language)


def _failed(step: Measured, language: Language) -> str:
    colon = ": " if language == "en" else "："
    return f"`{step.command.replace('`', '')}`{colon}{plain(step.failure or '')}"


def _without_blank_runs(text: str) -> str:
    """Sections apart by one blank line, whatever a template leaves out between them."""
    lines: list[str] = []
    is_code = False
    for line in text.split("\n"):
        is_code ^= line.startswith("```")
        if is_code or line.strip() or (lines and lines[-1]):
            lines.append(line.rstrip() if not is_code else line)
    return "\n".join(lines).strip("\n") + "\n"
