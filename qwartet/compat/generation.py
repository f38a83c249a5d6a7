"""The published generate(): transformers 4.37's greedy and sampling loops and Qwen's stop words, on our engine.

Kept as the original has it, and held by the golden set `generation_cases`:

- a stop word is noticed one step late: once the ids end with it, the next id is forced to be EOS;
- that holds for the tail of the prompt too, and beats min_new_tokens;
- the repetition penalty covers prompt, padding and completion;
- a batch of one ignores its attention mask; without a mask, padding counts unless pad and EOS differ.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qwartet.checkpoint.directory import has_file
from qwartet.checkpoint.json_file import read_json
from qwartet.engine.engine import Engine
from qwartet.engine.logits_processors import forbid, penalise_repetition
from qwartet.engine.request import LogitsProcessor, Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import RequestError, SettingError

FORCED_EOS_LOGIT = 32768.0  # the value that the original gives to EOS
NO_LIMIT = 2**31 - 1

_DEFAULTS: dict[str, Any] = {
    "max_length": 20, "max_new_tokens": None, "min_length": 0, "min_new_tokens": None, "do_sample": False,
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0, "num_return_sequences": 1,
    "eos_token_id": None, "pad_token_id": None, "chat_format": None, "max_window_size": 6144, "stop_words_ids": None,
}  # fmt: skip
# Accepted because callers pass them, and without effect here: one cache, one kind of result.
_IGNORED = {"use_cache", "return_dict_in_generate", "token_type_ids", "trust_remote_code", "transformers_version"}
_ONLY = {"num_beams": 1, "num_beam_groups": 1, "penalty_alpha": None, "output_scores": False}


class GenerationConfig:
    """Generation settings as attributes that may be changed, e.g. `model.generation_config.do_sample = False`."""

    def __init__(self, **settings: Any) -> None:
        self.__dict__.update(_DEFAULTS)
        self.__dict__.update(settings)

    if TYPE_CHECKING:  # any name: a checkpoint's file may hold more than _DEFAULTS

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    @classmethod
    def from_pretrained(cls, directory: str | Path, **changes: Any) -> GenerationConfig:
        """Reads generation_config.json of a directory; transformers' defaults where it is absent."""
        path = Path(directory) / "generation_config.json"
        return cls(**{**(read_json(path) if has_file(path) else {}), **changes})

    def to_dict(self) -> dict[str, Any]:
        """A copy of all settings."""
        return dict(self.__dict__)

    def changed(self, changes: dict[str, Any]) -> GenerationConfig:
        """A copy with changes; SettingError for a setting that does not exist or cannot be honoured."""
        for name, value in changes.items():
            if name in _IGNORED or name in self.__dict__:
                continue
            if name not in _ONLY:
                near = difflib.get_close_matches(name, _DEFAULTS, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(_DEFAULTS)}"
                raise SettingError(f"generate() has no setting {name!r}{hint}")
            if value not in (None, _ONLY[name]):
                raise SettingError(f"{name}={value!r} is not supported; only {_ONLY[name]!r} is")
        return GenerationConfig(**{**self.__dict__, **changes})

    def __repr__(self) -> str:
        return f"GenerationConfig({', '.join(f'{key}={value!r}' for key, value in self.__dict__.items())})"


@dataclass(frozen=True)
class Row:
    """One row of a batch: `ids` are attended, `padding` stands left of them and is not."""

    ids: list[int]
    padding: list[int]

    @property
    def length(self) -> int:
        return len(self.padding) + len(self.ids)


def checked_stop_words(stop_words_ids: Any, eos_token_id: int | None) -> list[list[int]]:
    """Stop words without [eos]; SettingError unless they are a non-empty list of lists of ids."""
    is_valid = isinstance(stop_words_ids, list) and len(stop_words_ids) > 0
    is_valid = is_valid and all(isinstance(words, list) for words in stop_words_ids)
    if not is_valid or not all(isinstance(i, int) and i >= 0 for words in stop_words_ids for i in words):
        raise SettingError(f"stop_words_ids is {stop_words_ids!r}; it must be a non-empty list of lists of token ids")
    return [words for words in stop_words_ids if words and words != [eos_token_id]]


def _force_eos_after(stop_words: list[list[int]], eos_token_id: int) -> LogitsProcessor:
    def process(logits: Tensor, token_ids: list[int]) -> Tensor:
        if any(token_ids[-len(words) :] == words for words in stop_words):
            logits = logits.clone()
            logits[eos_token_id] = FORCED_EOS_LOGIT
        return logits

    return process


def _forbid_eos_before(length: int, eos: frozenset[int]) -> LogitsProcessor:
    def process(logits: Tensor, token_ids: list[int]) -> Tensor:
        return forbid(logits, eos) if len(token_ids) < length else logits

    return process


def _row_processor(row: Row, settings: GenerationConfig, eos: list[int]) -> LogitsProcessor:
    """All that changes this row's logits before temperature, in transformers' order, over its padded ids."""
    steps: list[LogitsProcessor] = []
    penalty = settings.repetition_penalty
    if penalty not in (None, 1.0):
        steps.append(lambda logits, token_ids: penalise_repetition(logits, token_ids, penalty))
    minimum = max(settings.min_length or 0, row.length + (settings.min_new_tokens or 0))
    if minimum > row.length and eos:
        steps.append(_forbid_eos_before(minimum, frozenset(eos)))
    if settings.stop_words_ids is not None and eos:
        steps.append(_force_eos_after(checked_stop_words(settings.stop_words_ids, eos[0]), eos[0]))

    def process(logits: Tensor, token_ids: list[int]) -> Tensor:
        padded = row.padding + token_ids
        for step in steps:
            logits = step(logits, padded)
        return logits

    return process


def _sampling_params(row: Row, settings: GenerationConfig) -> SamplingParams:
    limit = settings.max_new_tokens
    if limit is None:
        limit = settings.max_length - row.length
        if limit < 1:
            raise RequestError(f"max_length is {settings.max_length} and the prompt has {row.length} tokens; raise it")
    # Drawn from torch's global generator, so that torch.manual_seed makes a run repeatable, as it does in transformers.
    seed = int(torch.randint(2**62, (1,)))
    if not settings.do_sample:
        return SamplingParams(max_tokens=min(limit, NO_LIMIT), temperature=0, seed=seed)
    return SamplingParams(
        max_tokens=min(limit, NO_LIMIT),
        temperature=settings.temperature or 1.0,
        top_k=settings.top_k or 0,
        top_p=1.0 if settings.top_p is None else settings.top_p,
        seed=seed,
    )


def eos_ids(settings: GenerationConfig) -> list[int]:
    """eos_token_id as a list."""
    eos = settings.eos_token_id
    return [] if eos is None else list(eos) if isinstance(eos, list) else [eos]


def add_row(engine: Engine, row: Row, settings: GenerationConfig) -> Request:
    """Queues one row."""
    eos = eos_ids(settings)
    options = RequestOptions(eos, len(row.padding), (_row_processor(row, settings, eos),))
    return engine.add_request(row.ids, _sampling_params(row, settings), options)


def split_rows(input_ids: Tensor, attention_mask: Tensor | None, settings: GenerationConfig) -> list[Row]:
    """Rows of input_ids [B, L] and a left-padding mask [B, L] or None; RequestError for a mask with other holes."""
    pad, eos = settings.pad_token_id, eos_ids(settings)
    if attention_mask is None and pad is not None and pad not in eos and bool((input_ids == pad).any()):
        attention_mask = input_ids != pad
    if attention_mask is None or len(input_ids) == 1:
        attention_mask = torch.ones_like(input_ids)
    if attention_mask.shape != input_ids.shape:
        raise RequestError(f"attention_mask is {list(attention_mask.shape)}, input_ids {list(input_ids.shape)}")
    mask = attention_mask.bool()
    if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
        raise RequestError("attention_mask has zeros right of ones; pad on the left (padding_side='left')")
    padding = (~mask).sum(-1).tolist()
    ids = input_ids.tolist()
    return [Row(row[width:], row[:width]) for row, width in zip(ids, padding, strict=True)]


def stream_row(engine: Engine, row: Row, settings: GenerationConfig) -> Iterator[int]:
    """The completion of one row, id by id, the forced EOS included."""
    request = add_row(engine, row, settings)
    num_read = 0
    try:
        while not request.is_finished or num_read < len(request.completion_ids):
            if num_read == len(request.completion_ids):
                engine.step()
            yield from request.completion_ids[num_read:]
            num_read = len(request.completion_ids)
    finally:
        engine.finish(request)
    _raise_error(request)


def _raise_error(request: Request) -> None:
    if request.error is not None:
        raise request.error


def generate(engine: Engine, rows: Sequence[Row], settings: GenerationConfig) -> Tensor:
    """Prompt and completion ids [B * num_return_sequences, longest], rows that end early filled with the pad id."""
    rows = [row for row in rows for _ in range(settings.num_return_sequences or 1)]
    requests = [add_row(engine, row, settings) for row in rows]
    try:
        while not all(request.is_finished for request in requests):
            engine.step()
    finally:
        for request in requests:
            engine.finish(request)
    for request in requests:
        _raise_error(request)
    longest = max(len(request.completion_ids) for request in requests)
    eos = eos_ids(settings)
    pad = settings.pad_token_id if settings.pad_token_id is not None else (eos[0] if eos else 0)
    outputs = [
        row.padding + row.ids + request.completion_ids + [pad] * (longest - len(request.completion_ids))
        for row, request in zip(rows, requests, strict=True)
    ]
    return torch.tensor(outputs, dtype=torch.int64)
