"""model.chat and model.chat_stream as in the model card, over transformers' generate.

The published behaviour, quirks included (docs/fidelity.md): the caller's stop_words_ids grow in place, an answer that
reaches max_new_tokens loses its last token, and the stream neither strips nor drops.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from queue import Queue
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList

from qwartet.errors import NotAChatModelError, SettingError
from qwartet.tokenizer import chatml
from qwartet.tokenizer.history import GivenHistory, Turns, longer_history, turns_of
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer

_UNSET = object()
_WINDOW = 6144  # tokens of a prompt beyond which old turns are dropped, where nothing says otherwise


class QwenChat:
    """What the model card's interface adds to a model that generates."""

    generate: Any
    generation_config: Any
    device: Any

    def chat(
        self,
        tokenizer: Any,
        query: str,
        history: GivenHistory | None = None,
        system: str | None = None,
        stream: object = _UNSET,
        stop_words_ids: list[list[int]] | None = None,
        generation_config: GenerationConfig | None = None,
        **settings: Any,
    ) -> tuple[str, list[tuple[str, str]]]:
        """Response and a copied, longer history; `settings` are arguments of generate().

        `history` may also be messages or a saved conversation (tokenizer/history.py); `system` None is the published
        default. Raises NotAChatModelError, SettingError, RequestError.
        """
        if stream is not _UNSET:
            raise SettingError("chat() does not stream; call chat_stream() instead of passing stream=")
        turns = turns_of(history, system)
        context, arguments = self._chat_arguments(
            tokenizer, query, turns, system, stop_words_ids, generation_config, settings
        )
        ids = self.generate(torch.tensor([context.ids], device=self.device), **arguments)[0].tolist()
        response, _ = chatml.decode_tokens(tokenizer.core, ids, len(context.raw_text), len(context.ids), "chatml")
        return response, longer_history(history, turns, (query, response))

    def chat_stream(
        self,
        tokenizer: Any,
        query: str,
        history: GivenHistory | None = None,
        system: str | None = None,
        stop_words_ids: list[list[int]] | None = None,
        logits_processor: Any = None,
        generation_config: GenerationConfig | None = None,
        **settings: Any,
    ) -> Iterator[str]:
        """Yields the whole text so far after every token, unstripped; arguments as for `chat`."""
        settings["logits_processor"] = logits_processor
        context, arguments = self._chat_arguments(
            tokenizer, query, turns_of(history, system), system, stop_words_ids, generation_config, settings
        )
        return self._texts(tokenizer, context.ids, arguments)

    def _texts(self, tokenizer: Any, prompt: list[int], arguments: dict[str, Any]) -> Iterator[str]:
        """The text after every id, from a thread that generates; it ends with this iterator."""
        ids = _Ids()
        criteria = StoppingCriteriaList([*(arguments.pop("stopping_criteria", None) or ()), ids.are_unwanted])

        def generate() -> None:
            try:
                given = torch.tensor([prompt], device=self.device)
                self.generate(given, streamer=ids, stopping_criteria=criteria, **arguments)
            except BaseException as error:  # raised where the texts are read
                ids.fail(error)

        thread = Thread(target=generate, name="qwartet-chat-stream", daemon=True)
        thread.start()
        told: list[int] = []
        try:
            for token_id in ids:
                told.append(token_id)
                yield tokenizer.decode(told, skip_special_tokens=True, errors="ignore")
        finally:
            ids.stop()
            thread.join()

    def _chat_arguments(
        self,
        tokenizer: Any,
        query: str,
        turns: Turns,
        system: str | None,
        callers_stop_words: list[list[int]] | None,
        generation_config: GenerationConfig | None,
        settings: dict[str, Any],
    ) -> tuple[chatml.Context, dict[str, Any]]:
        """The prompt, and the arguments of generate()."""
        chosen = self.generation_config if generation_config is None else generation_config
        chat_format = getattr(chosen, "chat_format", None)
        if chat_format != "chatml":
            raise NotAChatModelError(
                f'generation_config.chat_format is {chat_format!r}; chat needs "chatml": '
                "use a -Chat checkpoint, or generate() with a base model"
            )
        if not isinstance(getattr(tokenizer, "core", None), TiktokenTokenizer):
            raise SettingError(f"tokenizer is {tokenizer!r:.60}; pass the one from AutoTokenizer.from_pretrained")
        if callers_stop_words is not None and not isinstance(callers_stop_words, list):
            raise SettingError(f"stop_words_ids is {callers_stop_words!r:.60}; it must be a list of lists of token ids")
        window = settings.pop("max_window_size", None)
        window = getattr(chosen, "max_window_size", None) or _WINDOW if window is None else window
        if isinstance(window, bool) or not isinstance(window, int) or window < 0:
            raise SettingError(f"max_window_size is {window!r:.40}; it must be a non-negative integer")
        system = system if system is not None else turns.system
        context = chatml.make_context(
            tokenizer.core, query, history=turns, system=chatml.DEFAULT_SYSTEM if system is None else system,
            max_window_size=window, chat_format="chatml",
        )  # fmt: skip
        stop_words = [] if callers_stop_words is None else callers_stop_words
        stop_words.extend(chatml.stop_words_ids(tokenizer.core, "chatml"))
        if generation_config is not None:  # transformers takes a config or settings, not both
            changed = copy.deepcopy(generation_config)
            settings = {**changed.update(**settings), "generation_config": changed}
        mask = torch.ones(1, len(context.ids), dtype=torch.long, device=self.device)
        return context, {"attention_mask": mask, **settings, "stop_words_ids": stop_words}


class _Ids:
    """A streamer: ids from the thread that generates, for the one that reads them."""

    def __init__(self) -> None:
        self._queue: Queue[int | BaseException | None] = Queue()
        self._is_prompt = True
        self._stopped = Event()

    def put(self, value: Tensor) -> None:
        """Takes the prompt, which is passed over, then each id; transformers calls it."""
        is_prompt, self._is_prompt = self._is_prompt, False
        for token_id in () if is_prompt else value.flatten().tolist():
            self._queue.put(token_id)

    def end(self) -> None:
        """No id follows."""
        self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        """The reader gets the error."""
        self._queue.put(error)

    def stop(self) -> None:
        """The reader wants no more."""
        self._stopped.set()

    def are_unwanted(self, input_ids: Tensor, scores: Any, **others: Any) -> Tensor:
        """A stopping criterion: whether the reader has stopped, bool [B]."""
        return torch.full((len(input_ids),), self._stopped.is_set(), device=input_ids.device)

    def __iter__(self) -> Iterator[int]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
