"""How one request is sampled and when it stops."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from qwartet.engine.structure import Structure
from qwartet.errors import SettingError

MAX_LOGPROBS = 20  # alternatives of a token, as in OpenAI's API
MAX_COMPLETIONS = 128  # of one prompt
MAX_LOGIT_BIAS = 100  # either way: more than any two logits differ by
_GREEDY_BELOW = 1e-5  # temperature; a smaller one would only make the logits overflow
_PUBLISHED_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}


class SamplingOptions(TypedDict, total=False):
    """The fields of SamplingParams as keywords, and the published names of three of them; None changes nothing."""

    max_tokens: int | None
    min_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] | None
    seed: int | None
    n: int | None
    logprobs: int | None
    prompt_logprobs: int | None
    stop: Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    structure: Structure | None
    priority: int | None
    do_sample: bool | None
    max_new_tokens: int | None
    min_new_tokens: int | None


def _check(name: str, value: Any, kind: type, low: float, high: float, bounds: str, *, of: str = "") -> None:
    is_number = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # NaN lies nowhere
        number = "a whole number" if kind is int else "a number"
        raise SettingError(f"{name}{of} is {value!r}; it must be {number} {bounds}", param=name)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class SamplingParams:
    """Sampling settings of a request.

    Logits are changed in this order: repetition, presence and frequency penalty, logit_bias, min_tokens, structure;
    then, unless the choice is greedy, temperature, top_k, top_p, min_p. The published ones are in the original's order.
    """

    max_tokens: int = 512  # completion tokens at most
    min_tokens: int = 0  # no stop token before so many
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # candidates kept; 0 keeps all
    top_p: float = 1.0  # probability mass kept
    min_p: float = 0.0  # candidates at least so probable as this part of the most probable one
    repetition_penalty: float = 1.0  # divides positive and multiplies negative logits of ids seen before
    presence_penalty: float = 0.0  # taken off logits of ids that the completion has
    frequency_penalty: float = 0.0  # the same for each time that it has them
    logit_bias: tuple[tuple[int, float], ...] = ()  # added to logits of ids; a dict is taken too
    seed: int | None = None  # None: a fresh one
    n: int = 1  # completions of the prompt
    logprobs: int | None = None  # log-probabilities of the completion, and of so many alternatives
    prompt_logprobs: int | None = None  # the same of the prompt
    stop: tuple[str, ...] = ()  # texts that end the completion and are not part of it
    stop_token_ids: tuple[int, ...] = ()  # besides the model's own stop tokens
    ignore_eos: bool = False  # go on after the model's own stop tokens
    structure: Structure | None = None  # what the text must be
    priority: int = 0  # smaller ones are served first

    def __post_init__(self) -> None:
        _check("max_tokens", self.max_tokens, int, 1, 2**31, "of at least 1")
        _check("min_tokens", self.min_tokens, int, 0, self.max_tokens, f"from 0 to max_tokens ({self.max_tokens})")
        _check("temperature", self.temperature, float, 0, 100, "from 0 (greedy) to 100")
        _check("top_k", self.top_k, int, 0, 2**31, "of at least 0 (0 keeps all)")
        _check("top_p", self.top_p, float, 0, 1, "from 0 to 1")
        _check("min_p", self.min_p, float, 0, 1, "from 0 to 1")
        _check("repetition_penalty", self.repetition_penalty, float, 0.01, 100, "from 0.01 to 100")
        for name in ("presence_penalty", "frequency_penalty"):
            _check(name, getattr(self, name), float, -100, 100, "from -100 to 100")
        _check("n", self.n, int, 1, MAX_COMPLETIONS, f"from 1 to {MAX_COMPLETIONS}")
        _check("priority", self.priority, int, -(2**31), 2**31, "of 32 bits")
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), int, 0, MAX_LOGPROBS, f"from 0 to {MAX_LOGPROBS}")
        if self.seed is not None:
            _check("seed", self.seed, int, 0, 2**63 - 1, "of at least 0")
        if not isinstance(self.stop, tuple | list) or not all(isinstance(text, str) and text for text in self.stop):
            raise SettingError(f"stop is {self.stop!r}; it must be a list of non-empty texts", param="stop")
        if not isinstance(self.stop_token_ids, tuple | list) or not all(map(_is_id, self.stop_token_ids)):
            raise SettingError(
                f"stop_token_ids is {self.stop_token_ids!r}; it must be a list of token ids", param="stop_token_ids"
            )
        if self.structure is not None and not isinstance(self.structure, Structure):
            raise SettingError(f"structure is {self.structure!r:.80}; it must be a Structure", param="structure")
        object.__setattr__(self, "logit_bias", _bias_pairs(self.logit_bias))

    @property
    def is_greedy(self) -> bool:
        return self.temperature < _GREEDY_BELOW or self.top_k == 1

    @property
    def changes_logits(self) -> bool:
        """Whether anything but min_tokens changes the logits before the most probable token is taken."""
        return self.has_penalties or bool(self.logit_bias) or self.structure is not None

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def updated(self, changes: Mapping[str, Any]) -> SamplingParams:
        """A copy with some settings changed; also takes the published names do_sample, max_new_tokens, min_new_tokens.

        SettingError for a name that does not exist, with the nearest one that does.
        """
        known = {field.name for field in fields(self)}
        renamed = {_PUBLISHED_NAMES.get(name, name): value for name, value in changes.items() if value is not None}
        do_sample = renamed.pop("do_sample", True)
        for name in renamed:
            if name not in known:
                near = difflib.get_close_matches(name, [*known, *_PUBLISHED_NAMES, "do_sample"], n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"
                raise SettingError(f"unknown sampling setting {name!r}{hint}")
        if not do_sample:
            renamed["temperature"] = 0.0
        for name in ("stop", "stop_token_ids"):
            if isinstance(renamed.get(name), list):
                renamed[name] = tuple(renamed[name])
        if "max_tokens" in renamed and "min_tokens" not in renamed and isinstance(renamed["max_tokens"], int):
            renamed["min_tokens"] = min(self.min_tokens, max(renamed["max_tokens"], 0))
        return replace(self, **renamed)


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
        bounds = (-MAX_LOGIT_BIAS, MAX_LOGIT_BIAS, "from -100 to 100")
        _check("logit_bias", value, float, *bounds, of=f" of token {token_id}")
        biases[token_id] = biases.get(token_id, 0.0) + value
    return tuple(biases.items())
