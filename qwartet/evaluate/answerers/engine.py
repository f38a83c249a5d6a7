"""Answers from a model in this process: the engine's batch is kept full, shared beginnings are computed once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

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
from qwartet.tokenizer.templates.prompt import PromptForm
from qwartet.tokenizer.thinking import ThinkingPart, begins_in, split_thinking
from qwartet.tokenizer.tokenizer import Tokenizer

NUM_CHECKED = 8  # longest questions whose tokens are counted before a run; the others are counted when they are asked
QUEUED_PER_SEQUENCE = 2  # prompts that the engine holds, running and waiting, for each place of its batch


class EngineAnswerer:
    """An LLM as an answerer. Answers do not depend on the order or the batch."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._thread = EngineThread.of(llm.engine)
        self._choice_ids: dict[Text, list[int]] = {}  # of one-token choices: most questions have the same letters
        self._prefix_ids: dict[str, list[int]] = {}  # of worked examples, which many questions begin with

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
        most = QUEUED_PER_SEQUENCE * self._llm.engine.scheduler.max_num_seqs
        # One alone, until what others begin with is in the cache.
        room = 1 if waiting and waiting[0].prefix else most
        ready: deque[_Asked] = deque()
        open_jobs: dict[int, _Asked] = {}  # by the number of the prompt
        answered: list[tuple[Question, Answer]] = []
        with BlockingReader(self._thread, only_ends=True) as reader:
            numbers, steps = count(), reader.steps()
            while waiting or ready or open_jobs or answered:
                while waiting and len(ready) < most:
                    answered += self._prepare(waiting.popleft(), ready)
                asked = [ready.popleft() for _ in range(min(room - len(open_jobs), len(ready)))]
                if asked:
                    reader.submit([one.job.prompt for one in asked])
                    open_jobs.update((number, one) for one, number in zip(asked, numbers, strict=False))
                yield from answered  # while the engine is at work
                answered = []
                for number, added in next(steps) if open_jobs else ():
                    question, jobs, job = open_jobs.pop(number)
                    reader.forget(number)
                    job.request = added.request
                    if all(one.request is not None for one in jobs):
                        answered.append((question, _answer(question, jobs)))
                    room = most

    def close(self) -> None:
        self._llm.close()

    def _prepare(self, question: Question, ready: deque[_Asked]) -> Iterator[tuple[Question, Answer]]:
        """Puts a question's requests into `ready`, before the others where it goes on; or gives the error of one that
        does not fit.
        """
        try:
            jobs = self._jobs(question)
        except RequestError as error:
            yield question, Answer(error=str(error), finish_reason="length")
            return
        asked = [_Asked(question, jobs, job) for job in jobs]
        ready.extend(asked) if question.so_far is None else ready.extendleft(reversed(asked))

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
            context = self._prompt_ids(asked.prompt, question.prefix)
            pairs = [self._pair(context, choice, asked.max_length) for choice in asked.choices]
            yield from (_Job(request.prompt, likelihood=request) for request in likelihood_requests(pairs))
            return
        params = SamplingParams(max_tokens=asked.max_tokens, temperature=0.0, stop=asked.stop)
        thinking: ThinkingPart = "answer"
        if isinstance(asked, Chat):
            params = params.updated({"repetition_penalty": asked.repetition_penalty})
            ids = llm.prompt_ids(asked.messages, answer_start=asked.answer_start, **without_thinking(llm))
            thinking = begins_in(llm.tokenizer, ids, has_text=asked.answer_start != "")
        else:
            ids = self._prompt_ids(asked.prompt, question.prefix)
        yield _Job(Prompt(ids, params, RequestOptions(llm.stop_token_ids, thinking=thinking)))

    def _pair(self, context: list[int], choice: Text, max_length: int | None) -> tuple[list[int], list[int]]:
        continuation = self._choice_ids.get(choice) or self._ids(choice)
        if len(continuation) == 1:
            self._choice_ids[choice] = continuation
        if max_length is not None and len(context) + len(continuation) > max_length:
            context = context[len(context) + len(continuation) - max_length :]
        return context or [self._llm.tokenizer.eod_id], continuation

    def _prompt_ids(self, prompt: Text, prefix: str) -> list[int]:
        """The ids of a prompt, whose prefix is tokenised once for all questions."""
        place = len(prefix)
        if isinstance(prompt, str) and prompt.startswith(prefix) and self._llm.tokenizer.splits_at(prompt, place):
            if prefix not in self._prefix_ids:
                self._prefix_ids[prefix] = self._ids(prefix)
            return self._prefix_ids[prefix] + self._ids(prompt[place:])
        return self._ids(prompt)

    def _ids(self, text: Text) -> list[int]:
        return self._llm.tokenizer.encode(text) if isinstance(text, str) else list(text)


class _Job:
    """One request of a question, and the engine's request once it has ended."""

    def __init__(self, prompt: Prompt, likelihood: LikelihoodRequest | None = None) -> None:
        self.prompt, self.likelihood = prompt, likelihood
        self.request: EngineRequest | None = None


def without_thinking(llm: LLM) -> PromptForm:
    """The form of prompts whose answers do not think, if the model can: tasks limit the length of answers."""
    return llm.thinking_form(None if llm.answer_form.thinking == "always" else False)


class _Asked(NamedTuple):
    """A request, and all requests of its question."""

    question: Question
    jobs: list[_Job]
    job: _Job


def _answer(question: Question, jobs: Sequence[_Job]) -> Answer:
    requests = [job.request for job in jobs if job.request is not None]
    for request in requests:
        if request.error is not None:
            return Answer(error=str(request.error), finish_reason="error")
    if not isinstance(question.request, Choose):
        [request] = requests
        _, text = split_thinking(request.completion_text, jobs[0].prompt.options.thinking)
        return Answer(text, finish_reason=request.finish_reason or "stop")
    found: dict[int, Likelihood] = {}
    for job, request in zip(jobs, requests, strict=True):
        assert job.likelihood is not None, "a choice is scored by its likelihood"
        found.update(job.likelihood.read(request))
    in_order = [found[index] for index in range(len(found))]
    return Answer(logprobs=tuple(one.logprob for one in in_order), num_tokens=tuple(one.num_tokens for one in in_order))


def _num_characters(question: Question) -> int:
    asked = question.request
    if isinstance(asked, Chat):
        return sum(len(message.content) for message in asked.messages) + len(asked.answer_start)
    if isinstance(asked, Continue):
        return len(asked.prompt)
    return min(len(asked.prompt), (asked.max_length or 10**9) * 4) + max(map(len, asked.choices))
