"""How one request is sampled and when it stops."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from qwartet.engine.structure import Structure
from qwartet.errors import SettingError
from qwartet.models.generation_keys import BOUNDS, NEUTRAL, PUBLISHED_NAMES, Bounds, is_neutral

MAX_LOGPROBS = 20  # alternatives of a token, as in OpenAI's API
MAX_COMPLETIONS = 128  # of one prompt
MAX_LOGIT_BIAS = 100  # either way: more than any two logits differ
_BIAS = Bounds(float, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS, "from -100 to 100")
_GREEDY_BELOW = 1e-5  # temperature; a smaller one would only make the logits overflow


class SamplingOptions(TypedDict, total=False):
    """The fields of SamplingParams as keywords, and the published names of three of them; None means not set."""

    max_tokens: int | None
    min_tokens: int | None
    max_length: int | None
    min_length: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] | None
    no_repeat_ngram_size: int | None
    bad_words_ids: Sequence[Sequence[int]] | None
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    seed: int | None
    n: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    stop: Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    structure: Structure | None
    priority: int | None
    adapter: str | None
    do_sample: bool | None
    max_new_tokens: int | None
    min_new_tokens: int | None


def _check(name: str, value: Any, bounds: Bounds, *, of: str = "") -> None:
    if not bounds.holds(value):
        raise SettingError(f"{name}{of} is {value!r:.80}; it must be {bounds}", param=name)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class SamplingParams:
    """Sampling settings of a request.

    Logits are changed in this order: repetition, presence and frequency penalty, logit_bias, forbidden ids (from
    min_tokens, min_length, no_repeat_ngram_size, bad_words_ids, suppress_tokens), structure; then, unless the choice is
    greedy, temperature, top_k, top_p, min_p. The published ones are in the original's order.
    """

    max_tokens: int = 512  # most tokens of a completion
    min_tokens: int = 0  # no stop token before this many
    max_length: int | None = None  # the same limits for prompt and completion together, as published
    min_length: int = 0
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # candidates to keep; 0 keeps all
    top_p: float = 1.0  # probability mass kept
    min_p: float = 0.0  # keeps candidates at least this fraction as probable as the most probable one
    repetition_penalty: float = 1.0  # divides positive and multiplies negative logits of ids seen before
    presence_penalty: float = 0.0  # subtracted from logits of ids in the completion
    frequency_penalty: float = 0.0  # the same, once for each occurrence
    logit_bias: tuple[tuple[int, float], ...] = ()  # added to logits of ids; also accepts a dict
    no_repeat_ngram_size: int = 0  # no run of this many ids occurs twice in prompt and completion; 0 turns it off
    bad_words_ids: tuple[tuple[int, ...], ...] = ()  # runs of ids that never occur in the completion
    suppress_tokens: tuple[int, ...] = ()  # ids that are never chosen
    begin_suppress_tokens: tuple[int, ...] = ()  # ids that are not chosen first
    seed: int | None = None  # None: a random one
    n: int = 1  # completions of the prompt
    logprobs: int | None = None  # log-probabilities of the completion, with this many alternatives
    prompt_logprobs: int | None = None  # the same for the prompt
    stop: tuple[str, ...] = ()  # strings that end the completion and are not part of it
    stop_token_ids: tuple[int, ...] = ()  # besides the model's own stop tokens
    ignore_eos: bool = False  # continue after the model's own stop tokens
    structure: Structure | None = None  # the form that the text must have
    priority: int = 0  # smaller values are served first
    adapter: str | None = None  # name of a loaded LoRA adapter; None: the model alone

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            if getattr(self, name) is not None or name not in ("max_length", "seed"):
                _check(name, getattr(self, name), BOUNDS[name])
        at_most = self.max_tokens
        _check("min_tokens", self.min_tokens, Bounds(int, 0, at_most, f"from 0 to max_tokens ({at_most})"))
        _check("n", self.n, Bounds(int, 1, MAX_COMPLETIONS, f"from 1 to {MAX_COMPLETIONS}"))
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), Bounds(int, 0, MAX_LOGPROBS, f"from 0 to {MAX_LOGPROBS}"))
        if not isinstance(self.stop, tuple | list) or not all(isinstance(text, str) and text for text in self.stop):
            raise SettingError(f"stop is {self.stop!r}; it must be a list of non-empty strings", param="stop")
        for name in ("stop_token_ids", "suppress_tokens", "begin_suppress_tokens"):
            object.__setattr__(self, name, _ids(name, getattr(self, name)))
        object.__setattr__(self, "bad_words_ids", _id_runs(self.bad_words_ids))
        if self.structure is not None and not isinstance(self.structure, Structure):
            raise SettingError(f"structure is {self.structure!r:.80}; it must be a Structure", param="structure")
        object.__setattr__(self, "logit_bias", _bias_pairs(self.logit_bias))

    @property
    def is_greedy(self) -> bool:
        return self.temperature < _GREEDY_BELOW or self.top_k == 1

    @property
    def changes_logits(self) -> bool:
        """Whether anything changes the logits before the most probable token is chosen, at any position."""
        return self.has_penalties or bool(self.logit_bias) or self.forbids or self.structure is not None

    @property
    def forbids(self) -> bool:
        """Whether ids may be forbidden at any position."""
        return self.no_repeat_ngram_size > 0 or bool(self.bad_words_ids) or bool(self.suppress_tokens)

    @property
    def names_tokens(self) -> bool:
        """Whether any of the settings about logits names ids of the vocabulary."""
        return bool(self.logit_bias or self.bad_words_ids or self.suppress_tokens or self.begin_suppress_tokens)

    def min_completion(self, num_prompt_tokens: int) -> int:
        """The least number of tokens before a stop token may follow."""
        return max(self.min_tokens, self.min_length - num_prompt_tokens)

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def updated(self, changes: Mapping[str, Any]) -> SamplingParams:
        """A copy with some settings changed; accepts the published names do_sample, max_new_tokens, min_new_tokens too.

        SettingError for an unknown name, with the nearest known one.
        """
        known = {field.name for field in fields(self)}
        renamed = {
            PUBLISHED_NAMES.get(name, name): value
            for name, value in changes.items()
            if value is not None and not (name in NEUTRAL and is_neutral(name, value))
        }
        do_sample = renamed.pop("do_sample", True)
        for name in renamed:
            if name in NEUTRAL:
                raise SettingError(f"{name} is {renamed[name]!r:.80}: {NEUTRAL[name][1]}; leave it out", param=name)
            if name not in known:
                near = difflib.get_close_matches(name, [*known, *PUBLISHED_NAMES, "do_sample"], n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; use one of {', '.join(sorted(known))}"
                raise SettingError(f"unknown sampling setting {name!r}{hint}")
        if not do_sample:
            renamed["temperature"] = 0.0
        if isinstance(renamed.get("stop"), list):
            renamed["stop"] = tuple(renamed["stop"])
        if "max_tokens" in renamed and "max_length" not in renamed:
            renamed["max_length"] = None  # as published: max_new_tokens overrides it
        if "max_tokens" in renamed and "min_tokens" not in renamed and isinstance(renamed["max_tokens"], int):
            renamed["min_tokens"] = min(self.min_tokens, max(renamed["max_tokens"], 0))
        return replace(self, **renamed)


_NUMBERS = tuple(field.name for field in fields(SamplingParams) if field.name in BOUNDS)


def _ids(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or not all(map(_is_id, value)):
        raise SettingError(f"{name} is {value!r:.80}; it must be a list of token ids", param=name)
    return tuple(value)


def _id_runs(value: Any) -> tuple[tuple[int, ...], ...]:
    is_list = isinstance(value, tuple | list) and all(isinstance(run, tuple | list) and run for run in value)
    if not is_list or not all(_is_id(token_id) for run in value for token_id in run):
        reason = "it must be a list of lists of token ids, none of them empty"
        raise SettingError(f"bad_words_ids is {value!r:.80}; {reason}", param="bad_words_ids")
    return tuple(map(tuple, value))


def _bias_pairs(bias: Any) -> tuple[tuple[int, float], ...]:
    pairs = tuple(bias.items()) if isinstance(bias, Mapping) else bias
    if not isinstance(pairs, tuple | list) or not all(
        isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs
    ):
        raise SettingError(f"logit_bias is {bias!r:.80}; it must map token ids to numbers", param="logit_bias")
    biases: dict[int, float] = {}
    for token_id, value in pairs:
        if not _is_id(token_id):
            raise SettingError(f"logit_bias has {token_id!r}; it must map token ids to numbers", param="logit_bias")
        _check("logit_bias", value, _BIAS, of=f" of token {token_id}")
        biases[token_id] = biases.get(token_id, 0.0) + value
    return tuple(biases.items())
