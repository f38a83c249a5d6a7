"""Which ids may not follow, given the text so far. transformers 4.37's processors are the specification."""

from __future__ import annotations

from collections.abc import Sequence

from qwartet.engine.request import Request


class NgramIndex:
    """Which ids have followed each run of `size` - 1 ids: kept from step to step, since a prompt may be long."""

    def __init__(self, size: int) -> None:
        self._width = size - 1
        self._tail: list[int] = []  # the last ids, which the next one follows
        self._followers: dict[tuple[int, ...], set[int]] = {}

    def add(self, token_id: int) -> None:
        """Records one more id of the text."""
        if len(self._tail) == self._width:
            self._followers.setdefault(tuple(self._tail), set()).add(token_id)
        self._tail = [*self._tail, token_id][-self._width :] if self._width else []

    def followers(self, drafts: Sequence[int]) -> set[int]:
        """The ids that would repeat a run of `size` ids, as if the text continued with `drafts`."""
        ids = [*self._tail, *drafts]
        start = len(ids) - self._width
        if start < 0:
            return set()
        last = ids[start:]
        drafted = {ids[place] for place in range(self._width, len(ids)) if ids[place - self._width : place] == last}
        return self._followers.get(tuple(last), set()) | drafted


def forbidden_ids(request: Request, num_drafts: int, ngrams: NgramIndex | None) -> set[int]:
    """The ids that may not follow the first `num_drafts` drafts of a request."""
    params, place = request.params, len(request.completion_ids) + num_drafts
    forbidden = set(params.suppress_tokens)
    if place == 0:
        forbidden.update(params.begin_suppress_tokens)
    if place < params.min_completion(request.num_prompt_tokens):
        forbidden |= request.stop_token_ids
    if ngrams is not None:
        forbidden |= ngrams.followers(request.draft_ids[:num_drafts])
    length = request.num_tokens + num_drafts
    for run in params.bad_words_ids:
        if len(run) == 1:
            forbidden |= {*run} - request.stop_token_ids  # stop tokens are exempt, as published
        elif len(run) <= length and request.token_ids(length - len(run) + 1, length) == list(run[:-1]):
            forbidden.add(run[-1])
    return forbidden
