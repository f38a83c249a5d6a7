"""Tokens for the requests of a step, from their hidden states.

A request that was given guesses has a row for each of them and one more. Its rows are walked in order: as long as the
token that is taken is the one that was guessed, the next row is right too. So the text is the same as without guesses.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qwartet.engine.draw import draw
from qwartet.engine.logits_processors import add_bias, forbid, penalise_counts, penalise_repetition
from qwartet.engine.logprobs import token_logprobs
from qwartet.engine.request import Request, TokenLogprobs
from qwartet.engine.scheduler import ScheduledRequest
from qwartet.errors import NotFiniteError, RequestError
from qwartet.layers.head import Head

LOGITS_ROWS = 64  # of logits that are in memory at once


@dataclass
class Sampled:
    """What a step brings one request: at least one token, or an error."""

    request: Request
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    error: Exception | None = None


@dataclass
class _Rows:
    """A request's rows of the hidden states: those that predict its prompt, then those that a token is sampled from."""

    item: ScheduledRequest
    start: int
    num_prompt: int
    num_sampled: int

    @property
    def sampled(self) -> range:
        return range(self.start + self.num_prompt, self.start + self.num_prompt + self.num_sampled)


def takes_largest_logit(request: Request) -> bool:
    """Whether the request's next token is the argmax of the logits as they are: greedy, and nothing changes them."""
    params = request.params
    is_changed = params.changes_logits or len(request.completion_ids) < params.min_tokens
    is_plain = request.constraint is None and not request.logits_processors
    return params.is_greedy and not is_changed and params.logprobs is None and is_plain


class Sampler:
    """Keeps what penalties have to know of each request."""

    def __init__(self, head: Head, num_valid_tokens: int | None = None) -> None:
        """Ids from `num_valid_tokens` on (padding rows of the vocabulary) are never chosen; None allows all."""
        self._head = head
        self.num_valid_tokens = num_valid_tokens or head.weight.shape[0]
        self._seen: dict[int, SeenIds] = {}

    def sample(self, hidden: Tensor, items: Sequence[ScheduledRequest]) -> list[Sampled]:
        """The next ids of each item that needs some, from hidden states [R, C] in the order of the items' rows."""
        rows = _rows_of(items)
        is_finite = hidden.isfinite().all(-1).tolist()
        sampled = {row.item.request.request_id: Sampled(row.item.request) for row in rows}
        for row in rows:
            if not all(is_finite[row.start : row.sampled.stop]):
                sampled[row.item.request.request_id].error = _not_finite(row.item.request)
            elif row.num_prompt:
                self._predict_prompt(hidden[row.start : row.start + row.num_prompt], row.item.request)
        healthy = [row for row in rows if row.num_sampled and sampled[row.item.request.request_id].error is None]
        self._take_largest([row for row in healthy if takes_largest_logit(row.item.request)], hidden, sampled)
        self._choose([row for row in healthy if not takes_largest_logit(row.item.request)], hidden, sampled)
        return [one for one in sampled.values() if one.token_ids or one.error]

    def forget(self, request: Request) -> None:
        """Drops what is kept for a request that ended."""
        self._seen.pop(request.request_id, None)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._head(hidden)[:, : self.num_valid_tokens].float()

    def _predict_prompt(self, hidden: Tensor, request: Request) -> None:
        num_top = request.params.prompt_logprobs or 0
        for piece in hidden.split(LOGITS_ROWS):
            place = len(request.prompt_logprobs)
            token_ids = request.prompt_ids[place : place + len(piece)]
            logits = self._logits(piece)
            with _one_thread():
                request.prompt_logprobs += token_logprobs(logits, token_ids, num_top)

    def _take_largest(self, rows: list[_Rows], hidden: Tensor, sampled: dict[int, Sampled]) -> None:
        """The most probable tokens, without logits where the head can."""
        for some in _pieces(rows):
            token_ids = self._head.argmax(_select(hidden, some), self.num_valid_tokens)
            start = 0
            for row in some:
                result, found = sampled[row.item.request.request_id], token_ids[start : start + row.num_sampled]
                start += row.num_sampled
                if min(found) < 0:
                    result.error = _not_finite(row.item.request)
                else:
                    _walk(result, found.__getitem__)

    def _choose(self, rows: list[_Rows], hidden: Tensor, sampled: dict[int, Sampled]) -> None:
        """Tokens of requests whose logits are changed, drawn from or told."""
        for some in _pieces(rows):
            logits = self._logits(_select(hidden, some))
            start = 0
            with _one_thread():
                for row in some:
                    self._choose_for(sampled[row.item.request.request_id], logits[start : start + row.num_sampled])
                    start += row.num_sampled

    def _choose_for(self, result: Sampled, logits: Tensor) -> None:
        """An exception is this request's alone: its processors and its structure are the caller's."""
        try:
            _walk(result, lambda place: self._choose_token(result, logits[place]))
        except Exception as error:
            result.error = error

    def _choose_token(self, result: Sampled, logits: Tensor) -> int:
        request, params = result.request, result.request.params
        if not bool(logits.max().isfinite()):
            raise _not_finite(request)
        seen = self._seen_by(request)
        processed = process_logits(logits, request, result.token_ids, seen)
        best = processed.max()
        if bool(best == -torch.inf):
            message = "no token may follow: logit_bias, processors and structure together forbid all of them"
            raise RequestError(message, param="logit_bias")
        if params.is_greedy:
            token_id = int(processed.argmax())
        else:
            token_id = draw(processed, params, request.seed, len(request.completion_ids) + len(result.token_ids))
        if params.logprobs is not None:
            result.logprobs += token_logprobs(logits.unsqueeze(0), [token_id], params.logprobs)
        if seen is not None:
            seen.add(token_id)
        if request.constraint is not None:
            request.constraint.accept(token_id)
        return token_id

    def _seen_by(self, request: Request) -> SeenIds | None:
        params = request.params
        if params.repetition_penalty == 1.0 and params.presence_penalty == 0.0 and params.frequency_penalty == 0.0:
            return None
        if request.request_id not in self._seen:
            self._seen[request.request_id] = SeenIds(request)
        return self._seen[request.request_id]


class SeenIds:
    """The ids that a request holds, for penalties: kept from step to step, since a prompt may be long."""

    def __init__(self, request: Request) -> None:
        self._known = set(request.prompt_ids)
        self.token_ids = array("q", self._known)
        self.counts: dict[int, int] = {}  # of the completion
        for token_id in request.completion_ids:
            self.add(token_id)

    def add(self, token_id: int) -> None:
        self.counts[token_id] = self.counts.get(token_id, 0) + 1
        if token_id not in self._known:
            self._known.add(token_id)
            self.token_ids.append(token_id)


def process_logits(logits: Tensor, request: Request, new_ids: list[int], seen: SeenIds | None) -> Tensor:
    """What changes the scores whether or not the choice is greedy: [V] fp32 -> [V] fp32.

    `new_ids` are those that this step has added already; `seen` is there where a penalty asks for it.
    """
    params = request.params
    if seen is not None and params.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, seen.token_ids, params.repetition_penalty)
    if seen is not None and (params.presence_penalty or params.frequency_penalty):
        logits = penalise_counts(logits, seen.counts, params.presence_penalty, params.frequency_penalty)
    if params.logit_bias:
        logits = add_bias(logits, params.logit_bias)
    if len(request.completion_ids) + len(new_ids) < params.min_tokens:
        logits = forbid(logits, request.stop_token_ids)
    for processor in request.logits_processors:
        logits = processor(logits, request.prompt_ids + request.completion_ids + new_ids)
    if request.constraint is not None:
        allowed = torch.from_numpy(request.constraint.mask(logits.shape[0])).to(logits.device)
        logits = logits.masked_fill(~allowed, -torch.inf)
    return logits


def _walk(result: Sampled, choose: Callable[[int], int]) -> None:
    """Takes tokens row by row, as long as each is the one that the next row was computed for."""
    request = result.request
    drafts = request.draft_ids
    for place in range(len(drafts) + 1):
        token_id = choose(place)
        result.token_ids.append(token_id)
        is_guessed = place < len(drafts) and drafts[place] == token_id
        is_last = token_id in request.stop_token_ids or (
            request.constraint is not None and request.constraint.is_finished
        )
        if not is_guessed or is_last:
            return


@contextmanager
def _one_thread() -> Iterator[None]:
    """Rows of a vocabulary are short work for torch, whose threads would spin on after it beside the native ones."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rows_of(items: Sequence[ScheduledRequest]) -> list[_Rows]:
    rows, start = [], 0
    for item in items:
        row = _Rows(item, start, len(item.predicted_prompt), item.num_sampled_rows)
        start = row.sampled.stop
        rows.append(row)
    return rows


def _select(hidden: Tensor, rows: list[_Rows]) -> Tensor:
    """The rows of the hidden states that tokens are sampled from; all of them without a copy."""
    index = [place for row in rows for place in row.sampled]
    return hidden if len(index) == len(hidden) else hidden[index]


def _pieces(rows: list[_Rows]) -> list[list[_Rows]]:
    """Neighbours of at most LOGITS_ROWS rows together."""
    pieces: list[list[_Rows]] = []
    room = 0
    for row in rows:
        if row.num_sampled > room or not pieces:
            pieces.append([])
            room = LOGITS_ROWS
        pieces[-1].append(row)
        room -= row.num_sampled
    return pieces


def _not_finite(request: Request) -> NotFiniteError:
    return NotFiniteError(
        f"token {request.num_tokens} of request {request.request_id}: the network's numbers are not finite; "
        "the checkpoint may be damaged (qwartet inspect), or its values too large for this dtype"
    )
