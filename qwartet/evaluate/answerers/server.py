"""Answers from a server with OpenAI's API, so that other engines are measured with the same command."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from qwartet.client.openai_server import OpenAIServer
from qwartet.errors import PromptTooLongError, RequestError, ServerError
from qwartet.evaluate.question import Answer, Chat, Choose, Question
from qwartet.tokenizer.tokenizer import Tokenizer

MAX_FAILURES = 8  # one after another, before the server is given up
LOOK_SECONDS = 0.5  # between looks for questions that were added


class ServerAnswerer:
    """A server as an answerer of chat questions; each is a request of its own, `concurrency` at a time."""

    def __init__(
        self,
        server: OpenAIServer,
        model: str | None = None,
        *,
        concurrency: int = 16,
        tokenizer: Tokenizer | None = None,
        max_model_len: int | None = None,
    ) -> None:
        """Takes the server's only model where `model` is None. RequestError where that is ambiguous.

        `tokenizer` and `max_model_len` are the served model's, for tasks that count tokens: a server tells neither.
        """
        models = {one.name: one for one in server.models()}
        served = list(models)
        if model is None and len(served) > 1:
            raise RequestError(f"{server.address} serves {', '.join(served[:8])}; choose one with --model-name")
        if model is not None and model not in served:
            raise RequestError(f"{server.address} does not serve {model!r}; it serves {', '.join(served[:8])}")
        self._server, self._model, self._concurrency = server, model or served[0], concurrency
        self._skips_thinking = models[self._model].can_skip_thinking
        self._tokenizer, self._max_model_len = tokenizer, max_model_len

    @property
    def description(self) -> dict[str, Any]:
        return {"model": self._model, "server": str(self._server.address)}

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._tokenizer

    @property
    def is_chat(self) -> bool:
        return True

    @property
    def max_model_len(self) -> int | None:
        return self._max_model_len

    def work(self, num_tokens: int) -> float:
        return float(num_tokens)

    def check(self, questions: Sequence[Question]) -> None:
        wrong = next((one for one in questions if not isinstance(one.request, Chat)), None)
        if wrong is not None:
            needs = "log-probabilities of choices" if isinstance(wrong.request, Choose) else "plain continuation"
            raise RequestError(
                f"the task needs {needs}, but a server is queried through chat only; evaluate a checkpoint"
            )

    def answers(self, waiting: deque[Question]) -> Iterator[tuple[Question, Answer]]:
        failures = 0
        with ThreadPoolExecutor(self._concurrency) as pool:
            running: dict[Future[Answer], Question] = {}
            while waiting or running:
                while waiting and len(running) < self._concurrency:
                    question = waiting.popleft()
                    running[pool.submit(self._ask, question)] = question
                done, _ = wait(running, LOOK_SECONDS, FIRST_COMPLETED)
                for future in done:
                    question = running.pop(future)
                    try:
                        answer = future.result()
                        failures = 0
                    except PromptTooLongError as error:
                        answer = Answer(error=str(error), finish_reason="length")
                    except ServerError as error:
                        failures += 1
                        if failures >= MAX_FAILURES:
                            raise
                        answer = Answer(error=str(error), finish_reason="error")
                    yield question, answer

    def close(self) -> None:
        """Nothing stays open between requests."""

    def _ask(self, question: Question) -> Answer:
        asked = question.request
        assert isinstance(asked, Chat), "`check` lets nothing else through"
        fields: dict[str, Any] = {"temperature": 0, "max_tokens": asked.max_tokens}
        if self._skips_thinking:  # as in EngineAnswerer
            fields["chat_template_kwargs"] = {"enable_thinking": False}
        if asked.stop:
            fields["stop"] = list(asked.stop)
        if asked.repetition_penalty != 1.0:
            fields["repetition_penalty"] = asked.repetition_penalty
        messages = [{"role": message.role, "content": message.content} for message in asked.messages]
        if asked.answer_start:  # as Qwartet and vLLM take it
            messages.append({"role": "assistant", "content": asked.answer_start})
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        return _collect(self._server.chat_stream(messages, model=self._model, **fields))


def _collect(stream: Generator[str, None, Any]) -> Answer:
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as end:
            return Answer("".join(pieces), finish_reason=end.value.finish_reason)
