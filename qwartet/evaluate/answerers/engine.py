"""Answers from a model in this process: the engine's batch is kept full, shared beginnings are computed once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from qwartet import __version__
from qwartet.engine.blocking_reader import BlockingReader
from qwartet.engine.engine_thread import EngineThread, Prompt
from qwartet.engine.likelihood import Likelihood, LikelihoodRequest, likelihood_requests
from qwartet.engine.request import Request as EngineRequest
from qwartet.engine.request import RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import NotAChatModelError, RequestError
from qwartet.evaluate.question import Answer, Chat, Choose, Continue, Question, Text
from qwartet.llm import LLM
from qwartet.tokenizer.tokenizer import Tokenizer

NUM_CHECKED = 8  # longest questions whose tokens are counted before a run; the others are counted when they are asked
QUEUED_PER_SEQUENCE = 2  # prompts that the engine holds, running and waiting, for each place of its batch


class EngineAnswerer:
    """An LLM as an answerer. Answers do not depend on the order or the batch."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._thread = EngineThread.of(llm.engine)
        self._choice_ids: dict[Text, list[int]] = {}  # of one-token choices: most questions have the same letters

    @property
    def description(self) -> dict[str, Any]:
        config = self._llm.model.config
        return {
            "model": self._llm.model_path.name,
            "parameters": config.num_parameters,
            "qwartet": __version__,
        }

    @property
    def tokenizer(self) -> Tokenizer:
        return self._llm.tokenizer

    @property
    def is_chat(self) -> bool:
        return self._llm.generation_defaults.is_chat

    @property
    def max_model_len(self) -> int:
        return self._llm.engine.max_model_len

    def work(self, num_tokens: int) -> float:
        """Operations: of the weights for each token, of attention for each pair of tokens."""
        config = self._llm.model.config
        attention = 2 * config.num_layers * config.num_heads * config.head_dim * num_tokens
        return num_tokens * (2.0 * config.num_parameters + attention)

    def check(self, questions: Sequence[Question]) -> None:
        defaults = self._llm.generation_defaults
        if not defaults.is_chat and any(isinstance(question.request, Chat) for question in questions):
            raise NotAChatModelError(f"{self._llm.model_path}: {defaults.chat_refusal}")
        for question in sorted(questions, key=lambda one: -_num_characters(one))[:NUM_CHECKED]:
            self._jobs(question)

    def answers(self, waiting: deque[Question]) -> Iterator[tuple[Question, Answer]]:
        room = QUEUED_PER_SEQUENCE * self._llm.engine.scheduler.max_num_seqs
        open_jobs: dict[int, tuple[Question, list[_Job], _Job]] = {}  # by number of the prompt; all of its question's
        is_alone = bool(waiting and waiting[0].prefix)  # until what others begin with is in the cache
        with BlockingReader(self._thread, only_ends=True) as reader:
            numbered, num_submitted = reader.numbered(), 0
            while waiting or open_jobs:
                while waiting and len(open_jobs) < room and not (is_alone and open_jobs):
                    question = waiting.popleft()
                    try:
                        jobs = self._jobs(question)
                    except RequestError as error:
                        yield question, Answer(error=str(error), finish_reason="length")
                        continue
                    for job in jobs:
                        open_jobs[num_submitted] = question, jobs, job
                        num_submitted += 1
                    reader.submit([job.prompt for job in jobs])
                if not open_jobs:
                    continue
                number, added = next(numbered)
                question, jobs, job = open_jobs.pop(number)
                is_alone = False
                job.request = added.request
                if all(one.request is not None for one in jobs):
                    yield question, _answer(question, jobs)

    def close(self) -> None:
        self._llm.close()

    def _jobs(self, question: Question) -> list[_Job]:
        """The requests that a question takes; RequestError where it does not fit the context."""
        jobs = list(self._jobs_of(question))
        for job in jobs:
            try:
                self._llm.engine.check(job.prompt.ids, job.prompt.params)
            except RequestError as error:
                raise RequestError(f"question {question.id}: {error}") from None
        return jobs

    def _jobs_of(self, question: Question) -> Iterator[_Job]:
        asked, llm = question.request, self._llm
        if isinstance(asked, Choose):
            context = self._ids(asked.prompt)
            pairs = [self._pair(context, choice, asked.max_length) for choice in asked.choices]
            yield from (_Job(request.prompt, likelihood=request) for request in likelihood_requests(pairs))
            return
        params = SamplingParams(max_tokens=asked.max_tokens, temperature=0.0, stop=asked.stop)
        if isinstance(asked, Chat):
            params = params.updated({"repetition_penalty": asked.repetition_penalty})
            ids = llm.prompt_ids(asked.messages, answer_start=asked.answer_start)
        else:
            ids = llm.tokenizer.encode(asked.prompt)
        yield _Job(Prompt(ids, params, RequestOptions(llm.stop_token_ids)))

    def _pair(self, context: list[int], choice: Text, max_length: int | None) -> tuple[list[int], list[int]]:
        continuation = self._choice_ids.get(choice) or self._ids(choice)
        if len(continuation) == 1:
            self._choice_ids[choice] = continuation
        if max_length is not None:
            context = context[max(len(context) + len(continuation) - max_length, 0) :]
        return context or [self._llm.tokenizer.eod_id], continuation

    def _ids(self, text: Text) -> list[int]:
        return self._llm.tokenizer.encode(text) if isinstance(text, str) else list(text)


class _Job:
    """One request of a question, and the engine's request once it has ended."""

    def __init__(self, prompt: Prompt, likelihood: LikelihoodRequest | None = None) -> None:
        self.prompt, self.likelihood = prompt, likelihood
        self.request: EngineRequest | None = None


def _answer(question: Question, jobs: Sequence[_Job]) -> Answer:
    requests = [job.request for job in jobs if job.request is not None]
    if error := next((request.error for request in requests if request.error is not None), None):
        return Answer(error=str(error), finish_reason="error")
    if not isinstance(question.request, Choose):
        [request] = requests
        return Answer(request.completion_text, finish_reason=request.finish_reason or "stop")
    found: dict[int, Likelihood] = {}
    for job, request in zip(jobs, requests, strict=True):
        assert job.likelihood is not None, "a choice is scored by its likelihood"
        found.update(job.likelihood.read(request))
    in_order = [found[index] for index in range(len(question.request.choices))]
    return Answer(logprobs=tuple(one.logprob for one in in_order), num_tokens=tuple(one.num_tokens for one in in_order))


def _num_characters(question: Question) -> int:
    asked = question.request
    if isinstance(asked, Chat):
        return sum(len(message.content) for message in asked.messages) + len(asked.answer_start)
    if isinstance(asked, Continue):
        return len(asked.prompt)
    return min(len(asked.prompt), (asked.max_length or 10**9) * 4) + max(map(len, asked.choices))
