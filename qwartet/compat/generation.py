"""The published generate(): transformers 4.37's greedy and sampling loops and Qwen's stop words, on our engine.

Behaves like the original, as the golden set `generation_cases` checks:

- a stop word is noticed one step late: once the ids end with it, the next id is forced to be EOS;
- this includes the end of the prompt, and overrides min_new_tokens;
- the repetition penalty covers prompt, padding and completion;
- a batch of one ignores its attention mask; without a mask, padding counts unless pad and EOS differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qwartet.compat.generation_config import ENGINE_SETTINGS, GenerationConfig
from qwartet.compat.logits_processors import BatchProcessor, row_processor
from qwartet.engine.blocking_reader import BlockingReader
from qwartet.engine.engine_thread import EngineThread, Prompt
from qwartet.engine.logits_processors import forbid, penalise_repetition
from qwartet.engine.request import LogitsProcessor, Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.stop_words import FORCED_EOS_LOGIT, StopWords
from qwartet.errors import RequestError, SettingError

NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class Row:
    """One row of a batch: `ids` are attended, `padding`, on their left, is not."""

    ids: list[int]
    padding: list[int]

    @property
    def length(self) -> int:
        return len(self.padding) + len(self.ids)


def _force_eos_after(stop_words: StopWords) -> LogitsProcessor:
    def process(logits: Tensor, token_ids: list[int]) -> Tensor:
        if stop_words.is_stopped(token_ids):
            logits = logits.clone()
            logits[stop_words.eos_token_id] = FORCED_EOS_LOGIT
        return logits

    return process


def _forbid_eos_before(length: int, eos: frozenset[int]) -> LogitsProcessor:
    def process(logits: Tensor, token_ids: list[int]) -> Tensor:
        return forbid(logits, eos) if len(token_ids) < length else logits

    return process


def _row_processor(
    row: Row, settings: GenerationConfig, eos: list[int], processors: Sequence[BatchProcessor]
) -> LogitsProcessor:
    """Everything that changes this row's logits before temperature, in transformers' order, over its padded ids."""
    steps: list[LogitsProcessor] = []
    penalty = settings.repetition_penalty
    if penalty not in (None, 1.0):
        steps.append(lambda logits, token_ids: penalise_repetition(logits, token_ids, penalty))
    minimum = max(settings.min_length or 0, row.length + (settings.min_new_tokens or 0))  # None or 0: no minimum
    if minimum > row.length and eos:
        steps.append(_forbid_eos_before(minimum, frozenset(eos)))
    if processors:
        steps.append(row_processor(processors))
    if settings.stop_words_ids is not None:
        if not eos:
            raise SettingError("stop_words_ids end a row with EOS, but eos_token_id is None; set eos_token_id")
        steps.append(_force_eos_after(StopWords(settings.stop_words_ids, eos[0])))

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
    # Drawn from torch's global generator, so that torch.manual_seed makes a run repeatable, as in transformers.
    seed = int(torch.randint(2**62, (1,)))
    shared: dict[str, Any] = {"max_tokens": min(int(limit), NO_LIMIT), "seed": seed}
    shared |= {name: getattr(settings, name) for name in ENGINE_SETTINGS if getattr(settings, name) is not None}
    if not settings.do_sample:
        return SamplingParams(temperature=0, **shared)
    return SamplingParams(
        temperature=1.0 if settings.temperature is None else float(settings.temperature),
        top_k=0 if settings.top_k is None else int(settings.top_k),
        top_p=1.0 if settings.top_p is None else float(settings.top_p),
        **shared,
    )


def eos_ids(settings: GenerationConfig) -> list[int]:
    """eos_token_id as a list."""
    eos = settings.eos_token_id
    return [] if eos is None else list(eos) if isinstance(eos, list | tuple) else [eos]


def _prompt(thread: EngineThread, row: Row, settings: GenerationConfig, processors: Sequence[BatchProcessor]) -> Prompt:
    """A row as a prompt; RequestError or SettingError if it cannot be served."""
    eos = eos_ids(settings)
    own = (_row_processor(row, settings, eos, processors),)
    options = RequestOptions(eos, len(row.padding), own, speculates=not processors)
    params = _sampling_params(row, settings)
    thread.engine.check(row.ids, params, options.first_position)
    return Prompt(row.ids, params, options)


def batch_of(ids: Any, name: str = "input_ids") -> Tensor:
    """Ids [B, L] or [L], as a tensor, an array or lists, as a tensor [B, L]; RequestError for anything else."""
    try:
        batch = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RequestError(f"{name} is not a batch of equally long rows; pad them on the left", param=name) from error
    if batch.is_floating_point() or batch.is_complex() or (batch.dtype is torch.bool and name == "input_ids"):
        raise RequestError(f"{name} has the dtype {batch.dtype}; pass integers, at least one", param=name)
    if batch.dim() not in (1, 2):
        raise RequestError(f"{name} has {batch.dim()} dimensions; pass rows [B, L] or one row [L]", param=name)
    return batch if batch.dim() == 2 else batch.unsqueeze(0)


def split_rows(input_ids: Tensor, attention_mask: Tensor | None, settings: GenerationConfig) -> list[Row]:
    """Rows of input_ids [B, L] and a left-padding mask [B, L] or None; RequestError for any other mask."""
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


def stream_row(
    thread: EngineThread, row: Row, settings: GenerationConfig, processors: Sequence[BatchProcessor] = ()
) -> Iterator[int]:
    """The completion of one row, id by id, the forced EOS included."""
    with BlockingReader(thread) as reader:
        reader.submit([_prompt(thread, row, settings, processors)])
        for output in reader:
            yield from output.token_ids
    [[request]] = reader.requests
    _raise_error(request)


def _raise_error(request: Request) -> None:
    if request.error is not None:
        raise request.error


def generate(
    thread: EngineThread, rows: Sequence[Row], settings: GenerationConfig, processors: Sequence[BatchProcessor] = ()
) -> Tensor:
    """Prompt and completion ids [B * num_return_sequences, longest], rows that end early filled with the pad id."""
    rows = [row for row in rows for _ in range(settings.num_return_sequences)]
    with BlockingReader(thread, only_ends=True) as reader:
        reader.submit([_prompt(thread, row, settings, processors) for row in rows])
        for output in reader:
            _raise_error(output.request)
    requests = [request for [request] in reader.requests]
    longest = max(len(request.completion_ids) for request in requests)
    eos = eos_ids(settings)
    pad = settings.pad_token_id if settings.pad_token_id is not None else (eos[0] if eos else 0)
    outputs = [
        row.padding + row.ids + request.completion_ids + [pad] * (longest - len(request.completion_ids))
        for row, request in zip(rows, requests, strict=True)
    ]
    return torch.tensor(outputs, dtype=torch.int64)
