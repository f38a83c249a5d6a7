"""Tokens for the requests of a step, from their hidden states.

A request with drafts has a row for each of them and one more. How the logits of a row are changed depends on the tokens
before it, and the row matters only if those are the drafts. So all rows of all requests are sampled at once, each as if
the drafts before it were right; then each request takes tokens as long as they match its drafts, and one more. The text
is the same as without drafts.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qwartet.engine.forbidden import NgramIndex, forbidden_ids
from qwartet.engine.gumbel import Sampling, sample_rows
from qwartet.engine.logits_processors import LogitsChange, change_logits
from qwartet.engine.logprobs import logprobs_of, token_logprobs
from qwartet.engine.one_thread import one_thread
from qwartet.engine.request import Request, TokenConstraint, TokenLogprobs
from qwartet.engine.scheduler import ScheduledRequest
from qwartet.errors import NotFiniteError, RequestError, is_out_of_memory
from qwartet.layers.head import Head

LOGITS_ROWS = 64  # of logits that are in memory at once


@dataclass
class Sampled:
    """The result of a step for one request: at least one token, or an error."""

    request: Request
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    error: Exception | None = None


@dataclass
class Row:
    """The logits after the first drafts of a request, and what is sampled from them."""

    request: Request
    num_drafts: int
    index: int  # of its hidden state
    token: int | Exception = -1
    logprobs: TokenLogprobs | None = None

    @property
    def drafts(self) -> list[int]:
        return self.request.draft_ids[: self.num_drafts]

    @property
    def place(self) -> int:
        """Index of the token in the completion."""
        return len(self.request.completion_ids) + self.num_drafts

    @property
    def takes_largest_logit(self) -> bool:
        """Whether the token is the argmax of the unchanged logits: greedy, without processors."""
        request, params = self.request, self.request.params
        is_changed = params.changes_logits or self.place < params.min_completion(request.num_prompt_tokens)
        is_changed |= self.place == 0 and bool(params.begin_suppress_tokens)
        is_plain = request.constraint is None and not request.logits_processors
        return params.is_greedy and not is_changed and params.logprobs is None and is_plain


class Sampler:
    """Keeps the state of each request that penalties and no_repeat_ngram_size need."""

    def __init__(self, head: Head, num_valid_tokens: int | None = None, gaps: Sequence[int] = ()) -> None:
        """Never chosen: ids from `num_valid_tokens` on (padding rows of the vocabulary), and the `gaps` below it."""
        self._head = head
        self.num_valid_tokens = head.weight.shape[0] if num_valid_tokens is None else num_valid_tokens
        self._gaps = list(gaps)
        self._seen: dict[int, SeenIds] = {}

    def sample(self, hidden: Tensor, items: Sequence[ScheduledRequest]) -> list[Sampled]:
        """The next ids of each item that needs some, from hidden states [R, C] in the order of the items' rows."""
        sampled, rows, start = [], [], 0
        for item in items:
            num_prompt = len(item.predicted_prompt)
            result = Sampled(item.request)
            sampled.append(result)
            if num_prompt:
                try:
                    self._predict_prompt(hidden[start : start + num_prompt], result)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    result.error = error
            start += num_prompt
            rows.append([Row(item.request, place, start + place) for place in range(item.num_sampled_rows)])
            start += item.num_sampled_rows
        all_rows = [row for own in rows for row in own]
        largest = [] if self._gaps else [row for row in all_rows if row.takes_largest_logit]
        self._in_pieces(self._take_largest, largest, hidden)
        self._in_pieces(self._choose, [row for row in all_rows if self._gaps or not row.takes_largest_logit], hidden)
        for result, own in zip(sampled, rows, strict=True):
            if own and result.error is None:
                try:
                    _walk(result, own)
                except Exception as error:
                    result.error = error
                if result.request.request_id in self._seen:
                    for token_id in result.token_ids:
                        self._seen[result.request.request_id].add(token_id)
        return [result for result in sampled if result.token_ids or result.error]

    def release(self, request: Request) -> None:
        """Drops the state of a request that ended."""
        self._seen.pop(request.request_id, None)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self._head(hidden)[:, : self.num_valid_tokens].float()
        if self._gaps:
            logits[:, self._gaps] = -torch.inf
        return logits

    def _predict_prompt(self, hidden: Tensor, result: Sampled) -> None:
        request = result.request
        if not bool(hidden.isfinite().all()):
            result.error = _not_finite(request)
            return
        for start in range(0, len(hidden), LOGITS_ROWS):
            logits = self._logits(hidden[start : start + LOGITS_ROWS])
            place = len(request.prompt_logprobs)
            token_ids = request.prompt_ids[place : place + len(logits)]
            with one_thread():
                request.prompt_logprobs += token_logprobs(logits, token_ids, request.params.prompt_logprobs or 0)

    def _in_pieces(self, choose: Callable[[Tensor, list[Row]], None], rows: list[Row], hidden: Tensor) -> None:
        for start in range(0, len(rows), LOGITS_ROWS):
            self._in_piece(choose, rows[start : start + LOGITS_ROWS], hidden)

    def _in_piece(self, choose: Callable[[Tensor, list[Row]], None], rows: list[Row], hidden: Tensor) -> None:
        """Falls back to row by row when memory runs out; a row that still does not fit ends its request."""
        try:
            choose(hidden if len(rows) == len(hidden) else hidden[[row.index for row in rows]], rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                rows[0].token = error
            else:
                for row in rows:
                    self._in_piece(choose, [row], hidden)

    def _take_largest(self, hidden: Tensor, rows: list[Row]) -> None:
        """The most probable tokens, without computing logits where the head can."""
        for row, token_id in zip(rows, self._head.argmax(hidden, self.num_valid_tokens), strict=True):
            row.token = token_id if token_id >= 0 else _not_finite(row.request)

    def _choose(self, hidden: Tensor, rows: list[Row]) -> None:
        """Tokens of rows whose logits are changed, sampled from or reported."""
        logits = self._logits(hidden)
        with one_thread():
            told = [index for index, row in enumerate(rows) if row.request.params.logprobs is not None]
            untouched = logits[told] if told else logits
            is_finite = logits.amax(-1).isfinite()
            process_rows(logits, rows, self._seen)
            logits[:, 0] += torch.where(is_finite, 0.0, torch.nan)  # so that the row's result shows it
            settings = [Sampling(row.request.params, row.request.seed, row.place) for row in rows]
            token_ids = sample_rows(logits, settings)
            for index, (row, token_id) in enumerate(zip(rows, token_ids, strict=True)):
                has_failed = token_id < 0 or isinstance(row.token, Exception)
                row.token = _why_none(row, bool(is_finite[index])) if has_failed else token_id
            if told:
                _tell([rows[index] for index in told], untouched, [max(token_ids[index], 0) for index in told])


class SeenIds:
    """The ids of a request: kept from step to step, since a prompt may be long."""

    def __init__(self, request: Request) -> None:
        size = request.params.no_repeat_ngram_size
        self.ngrams = NgramIndex(size) if size else None
        if self.ngrams is not None:
            for token_id in request.prompt_ids:
                self.ngrams.add(token_id)
        self._places = {token_id: place for place, token_id in enumerate(dict.fromkeys(request.prompt_ids))}
        self._ids = array("q", self._places)
        self._counts = array("q", bytes(8 * len(self._ids)))  # in the completion
        for token_id in request.completion_ids:
            self.add(token_id)

    def add(self, token_id: int) -> None:
        """Records one more id of the completion."""
        place = self._places.setdefault(token_id, len(self._ids))
        if place == len(self._ids):
            self._ids.append(token_id)
            self._counts.append(0)
        self._counts[place] += 1
        if self.ngrams is not None:
            self.ngrams.add(token_id)

    def arrays(self, drafts: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids and how often each occurs in the completion, as if it continued with `drafts`."""
        ids, counts = np.array(self._ids), np.array(self._counts)
        new: dict[int, int] = {}
        for token_id in drafts:
            if token_id in self._places:
                counts[self._places[token_id]] += 1
            else:
                new[token_id] = new.get(token_id, 0) + 1
        return np.append(ids, np.array([*new], ids.dtype)), np.append(counts, np.array([*new.values()], ids.dtype))


def process_rows(logits: Tensor, rows: Sequence[Row], seen: dict[int, SeenIds]) -> None:
    """Changes logits [R, V] in place, whether or not the choice is greedy: penalties, logit_bias, forbidden ids, then
    the requests' own processors and structures, whose exceptions become the row's token. `seen` is by request id.
    """
    penalties, biases, bans = [], [], []
    for index, row in enumerate(rows):
        request, params = row.request, row.request.params
        if (params.has_penalties or params.no_repeat_ngram_size) and request.request_id not in seen:
            seen[request.request_id] = SeenIds(request)
        if params.has_penalties:
            ids, counts = seen[request.request_id].arrays(row.drafts)
            added = -params.presence_penalty * (counts > 0) - params.frequency_penalty * counts
            penalties.append(LogitsChange(index, ids, added, params.repetition_penalty))
        if params.logit_bias:
            biased, values = zip(*params.logit_bias, strict=True)
            biases.append(LogitsChange(index, np.array(biased), np.array(values)))
        ngrams = seen[request.request_id].ngrams if params.no_repeat_ngram_size else None
        if forbidden := forbidden_ids(request, row.num_drafts, ngrams):
            bans.append(LogitsChange(index, np.array([*forbidden]), -np.inf))
    for changes in (penalties, biases, bans):
        change_logits(logits, changes)
    ahead: dict[int, tuple[TokenConstraint, int]] = {}  # constraints, and how many drafts they have accepted
    for row, row_logits in zip(rows, logits, strict=True):
        if row.request.logits_processors or row.request.constraint is not None:
            try:
                _restrict(row_logits, row, ahead)
            except Exception as error:  # only this request's: its processors and its structure are the caller's
                row.token = error


def _restrict(logits: Tensor, row: Row, ahead: dict[int, tuple[TokenConstraint, int]]) -> None:
    """Applies a request's own processors and its structure to its row [V]."""
    request = row.request
    for processor in request.logits_processors:
        logits.copy_(processor(logits, request.prompt_ids + request.completion_ids + row.drafts))
    constraint = request.constraint
    if constraint is not None:
        if row.num_drafts:
            constraint, num_taken = ahead.get(request.request_id) or (constraint.fork(), 0)
            for token_id in row.drafts[num_taken:]:
                constraint.accept(token_id)
            ahead[request.request_id] = constraint, row.num_drafts
        allowed = torch.from_numpy(constraint.mask(logits.shape[0])).to(logits.device)
        logits.masked_fill_(~allowed, -torch.inf)


def _tell(rows: Sequence[Row], logits: Tensor, token_ids: Sequence[int]) -> None:
    """Sets the logprobs of rows, from their unchanged logits."""
    most = max(row.request.params.logprobs or 0 for row in rows)
    for index, (row, one) in enumerate(zip(rows, token_logprobs(logits, token_ids, most), strict=True)):
        wanted = row.request.logprob_token_ids
        top = logprobs_of(logits[index], wanted) if wanted else one.top[: row.request.params.logprobs]
        row.logprobs = replace(one, top=top)


def _walk(result: Sampled, rows: Sequence[Row]) -> None:
    """Takes tokens row by row, as long as each is the draft that the next row was computed for."""
    request = result.request
    for row, draft in zip_longest(rows, request.draft_ids):
        if isinstance(row.token, Exception):
            raise row.token
        result.token_ids.append(row.token)
        if row.logprobs is not None:
            result.logprobs.append(row.logprobs)
        if request.constraint is not None:
            request.constraint.accept(row.token)
        is_complete = request.constraint is not None and request.constraint.is_finished
        if row.token != draft or row.token in request.stop_token_ids or is_complete:
            return


def _why_none(row: Row, is_finite: bool) -> Exception:
    """Why a row has no token: non-finite logits, an error in the caller's processors, or no candidate left."""
    if not is_finite:
        return _not_finite(row.request)
    if isinstance(row.token, Exception):
        return row.token
    message = "no token may follow: logit_bias, forbidden ids, processors and structure together leave none"
    return RequestError(message, param="logit_bias")


def _not_finite(request: Request) -> NotFiniteError:
    return NotFiniteError(
        f"token {request.num_tokens} of request {request.request_id}: the logits are not finite; "
        "the checkpoint may be damaged (check it with qwartet inspect), or its values too large for this dtype"
    )
