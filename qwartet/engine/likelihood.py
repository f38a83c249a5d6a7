"""How probable given continuations of given contexts are: as few requests as that takes.

Continuations that differ only in their last token share a request, so a multiple-choice question with one-token
answers is one request; the last token is predicted where a completion would begin, the others inside the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from qwartet.engine.engine_thread import Prompt
from qwartet.engine.request import Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import RequestError

# Whether a continuation has tokens inside the prompt -> how its request is sampled.
_PARAMS = {
    within: SamplingParams(max_tokens=1, temperature=0.0, logprobs=0, prompt_logprobs=1 if within else None)
    for within in (False, True)
}


@dataclass(frozen=True)
class Likelihood:
    """Of one continuation after its context."""

    logprob: float  # nats, summed over the continuation's tokens
    is_greedy: bool  # whether greedy decoding would write exactly this continuation
    num_tokens: int


@dataclass
class LikelihoodRequest:
    """A request that answers for every continuation with the same tokens but the last."""

    prompt_ids: tuple[int, ...]  # context, and the continuation without its last token
    num_context_tokens: int
    last_ids: dict[int, list[int]] = field(default_factory=dict)  # last token -> indices of the pairs that end with it

    @property
    def prompt(self) -> Prompt:
        """The request for the engine."""
        params = _PARAMS[len(self.prompt_ids) > self.num_context_tokens]
        options = RequestOptions(
            prompt_logprobs_from=self.num_context_tokens, logprob_token_ids=tuple(self.last_ids), speculates=False
        )
        return Prompt(self.prompt_ids, params, options)

    def read(self, request: Request) -> Iterator[tuple[int, Likelihood]]:
        """Each pair's index and what the request, once complete, says of it; raises the request's error."""
        if request.error is not None:
            raise request.error
        [end] = request.logprobs
        inner = [one for one in request.prompt_logprobs[self.num_context_tokens :] if one is not None]
        logprob = sum(one.logprob for one in inner)
        is_greedy = all(one.top[0][0] == one.token_id for one in inner)
        for token_id, last_logprob in end.top:
            found = Likelihood(logprob + last_logprob, is_greedy and token_id == end.token_id, len(inner) + 1)
            for index in self.last_ids[token_id]:
                yield index, found


def likelihood_requests(pairs: Iterable[tuple[Sequence[int], Sequence[int]]]) -> list[LikelihoodRequest]:
    """The requests for pairs (context ids, continuation ids), in the order of their first pair.

    RequestError, with the pair's number, where a context or a continuation is empty.
    """
    found: dict[tuple[int, ...], dict[tuple[int, ...], LikelihoodRequest]] = {}  # context, inner tokens -> request
    requests: list[LikelihoodRequest] = []
    last: Sequence[int] | None = None
    for index, (context, continuation) in enumerate(pairs):
        if not len(context) or not len(continuation):
            what = "continuation" if len(context) else "context"
            raise RequestError(f"pair {index}: the {what} has no tokens")
        if context is not last:  # most pairs have the context of the one before
            last, of_context = context, found.setdefault(tuple(context), {})
        inner = tuple(continuation[:-1])
        request = of_context.get(inner)
        if request is None:
            request = of_context[inner] = LikelihoodRequest((*context, *inner), len(context))
            requests.append(request)
        request.last_ids.setdefault(continuation[-1], []).append(index)
    return requests
