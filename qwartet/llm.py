"""LLM: load a model, chat with it, complete text. What a Python user meets first.

    from qwartet import LLM
    llm = LLM("Qwen/Qwen-72B-Chat-Int4")                 # a directory, a hub id, or nothing for the bundled model
    response, history = llm.chat("你好")
    response, history = llm.chat("再说一遍", history=history)

Where the original code has a bug, LLM does the right thing; docs/fidelity.md lists each difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwartet import DEMO
from qwartet.engine.engine import Engine
from qwartet.engine.request import FinishReason, Request
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import NotAChatModelError, RequestError, SettingError, VocabularyError
from qwartet.layers.forward_batch import dense_batch
from qwartet.models.generation_config import GenerationDefaults, load_generation_defaults
from qwartet.models.hub import resolve
from qwartet.models.load import Dtype, load_model
from qwartet.models.safetensors_file import LoadMode
from qwartet.models.vocabulary_match import vocabulary_mismatches
from qwartet.models.weight_cache_file import OnPacked
from qwartet.tokenizer.chatml import DEFAULT_SYSTEM, Message, build_prompt
from qwartet.tokenizer.stream import TextStream
from qwartet.tokenizer.tokenizer import Tokenizer

History = list[tuple[str, str]]
"""Earlier turns, oldest first: (query, response)."""


@dataclass(frozen=True)
class Completion:
    """What `generate` gives for one prompt."""

    prompt_ids: list[int]
    token_ids: list[int]  # as sampled, a final stop token included
    text: str  # without stop tokens and stop strings
    finish_reason: FinishReason


def resolve_device(device: str | torch.device) -> torch.device:
    """The device to run on; "auto" is the first GPU where there is one. SettingError for one that is not there."""
    name = str(device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if re.fullmatch(r"cpu|cuda(:\d+)?", name, re.ASCII) is None:
        raise SettingError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N")
    index = int(name.partition(":")[2] or 0)
    if name != "cpu" and index >= torch.cuda.device_count():
        raise SettingError(f"device is {name}, but torch sees {torch.cuda.device_count()} GPUs; see qwartet doctor")
    return torch.device(name)


class LLM:
    """A checkpoint ready to answer. Special tokens in any text given to it are plain text."""

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        dtype: Dtype = "auto",
        device: str | torch.device = "auto",
        load_mode: LoadMode = "mmap",
        max_model_len: int | None = None,
        revision: str | None = None,
        force: bool = False,
        activations: str | None = None,
        head: str = "auto",
        kv_cache_dtype: str = "auto",
        weight_cache: bool = True,
        on_packed: OnPacked | None = None,
    ) -> None:
        """`activations` ("exact", "int8"), `head` ("auto", "int8", "exact"), `weight_cache` and `on_packed`: see
        load_model; `kv_cache_dtype` ("auto", "int8", "int4"): see Engine.

        Raises ModelNotFoundError, CheckpointError, OutOfMemoryError (unless `force`), SettingError.
        """
        if model is None and revision is not None:
            raise SettingError("revision needs a hub id; give the model too")
        self.model_path: Path = DEMO if model is None else resolve(os.fspath(model), revision=revision)
        self.generation_defaults: GenerationDefaults = load_generation_defaults(self.model_path)
        has_vocabulary = any(self.model_path.glob("*.tiktoken"))
        self._tokenizer = Tokenizer.load(self.model_path) if has_vocabulary else None
        self.model = load_model(
            self.model_path,
            dtype=dtype,
            device=resolve_device(device),
            load_mode=load_mode,
            force=force,
            activations=activations,
            head=head,
            weight_cache=weight_cache,
            on_packed=on_packed,
        )
        if self._tokenizer is not None:
            vocabulary, config = self._tokenizer.vocabulary, self.model.config
            for error in vocabulary_mismatches(vocabulary, config, self.generation_defaults, self.model_path):
                raise error
        num_tokens = None if self._tokenizer is None else self._tokenizer.num_tokens
        self.engine = Engine(
            self.model, max_model_len=max_model_len, num_valid_tokens=num_tokens, kv_cache_dtype=kv_cache_dtype
        )

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; VocabularyError when it has none, and then only ids can be given."""
        if self._tokenizer is None:
            raise VocabularyError(self.model_path, "holds no .tiktoken file", hint="copy qwen.tiktoken into it")
        return self._tokenizer

    def chat(
        self, query: str, history: Sequence[tuple[str, str]] | None = None, system: str | None = None, **sampling: Any
    ) -> tuple[str, History]:
        """Answers a query; returns the answer and the history with this turn added (the given one is not changed).

        `sampling` takes the fields of SamplingParams and the published names (max_new_tokens, do_sample); what is not
        given comes from generation_config.json.
        """
        response = "".join(self.chat_stream(query, history, system, **sampling))
        return response, [*(history or ()), (query, response)]

    def chat_stream(
        self, query: str, history: Sequence[tuple[str, str]] | None = None, system: str | None = None, **sampling: Any
    ) -> Generator[str]:
        """Answers a query piece by piece; the pieces together are what `chat` returns."""
        if not self.generation_defaults.is_chat:
            raise NotAChatModelError(
                f"{self.model_path} is a base model (chat_format raw): it completes text and does not chat; "
                "use generate, or a -Chat checkpoint"
            )
        params = self.sampling_params(**sampling)
        prompt_ids = self._chat_prompt(query, list(history or ()), system, params)
        return _stripped(self._start(prompt_ids, params))

    def complete_stream(self, prompt: str | Sequence[int], **sampling: Any) -> Generator[str]:
        """Continues a text (or ids) piece by piece."""
        return self._start(self._ids(prompt), self.sampling_params(**sampling))

    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]],
        sampling_params: SamplingParams | None = None,
    ) -> list[Completion]:
        """Continues prompts, given as texts or as ids, all in one batch; results stand in the order of the prompts."""
        is_single = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
        params = sampling_params or self.sampling_params()
        requests = [self._add(self._ids(prompt), params) for prompt in ([prompts] if is_single else prompts)]
        return [self._complete(request, params) for request in requests]

    def _complete(self, request: Request, params: SamplingParams) -> Completion:
        if self._tokenizer is not None:
            text = "".join(self._stream(request, params))
        else:  # ids in, ids out
            text = ""
            while not request.is_finished:
                self.engine.step()
        return Completion(request.prompt_ids, request.completion_ids, text, request.finish_reason or "abort")

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits [T, V] fp32 at every position of a prompt of T ids."""
        if not ids:
            raise RequestError("the prompt is empty; give at least one token")
        return self.model(dense_batch([ids], self.model.config.position, device=self.model.device)).float()

    def sampling_params(self, **sampling: Any) -> SamplingParams:
        """The checkpoint's sampling defaults with the given changes."""
        defaults = self.generation_defaults
        params = SamplingParams(
            max_tokens=defaults.max_new_tokens,
            temperature=defaults.temperature if defaults.do_sample else 0.0,
            top_k=defaults.top_k,
            top_p=defaults.top_p,
            repetition_penalty=defaults.repetition_penalty,
            stop=self._published_stop_strings(),
        )
        if sampling.get("do_sample") and "temperature" not in sampling:
            sampling = {**sampling, "temperature": defaults.temperature}
        return params.updated(sampling)

    def _stop_token_ids(self) -> list[int]:
        """Ids that end a completion: the published ones, and the single-id stop words of generation_config.json."""
        defaults = self.generation_defaults
        ids = [words[0] for words in defaults.stop_words_ids if len(words) == 1]
        if defaults.eos_token_id is not None:
            ids.append(defaults.eos_token_id)
        if self._tokenizer is not None:
            ids.append(self._tokenizer.eod_id)
            ids += [self._tokenizer.im_end_id, self._tokenizer.im_start_id] if defaults.is_chat else []
        return ids

    def _published_stop_strings(self) -> tuple[str, ...]:
        longer = [words for words in self.generation_defaults.stop_words_ids if len(words) > 1]
        return tuple(self.tokenizer.decode(words) for words in longer)

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def _add(self, prompt_ids: list[int], params: SamplingParams) -> Request:
        return self.engine.add_request(prompt_ids, params, stop_token_ids=self._stop_token_ids())

    def _chat_prompt(self, query: str, history: History, system: str | None, params: SamplingParams) -> list[int]:
        """Prompt ids; the oldest turns are forgotten until prompt and answer fit the window and the context."""
        room = self.engine.max_model_len - min(params.max_tokens, self.engine.max_model_len // 2)
        limit = min(self.generation_defaults.max_window_size, room)
        system_message = Message("system", DEFAULT_SYSTEM if system is None else system)
        while True:
            turns = [
                Message(role, text) for turn in history for role, text in zip(("user", "assistant"), turn, strict=True)
            ]
            ids = build_prompt(self.tokenizer, [system_message, *turns, Message("user", query)])
            if len(ids) <= limit or not history:
                return ids
            history = history[1:]

    def _start(self, prompt_ids: list[int], params: SamplingParams) -> Generator[str]:
        yield from self._stream(self._add(prompt_ids, params), params)

    def _stream(self, request: Request, params: SamplingParams) -> Generator[str]:
        """Text of a request as it grows; other requests of the engine advance with it."""
        text = TextStream(self.tokenizer, params.stop)
        num_read = 0
        try:
            while True:
                for token_id in request.completion_ids[num_read:]:
                    num_read += 1
                    if token_id in request.stop_token_ids:
                        continue
                    yield text.push(token_id)
                    if text.stopped_by is not None:
                        self.engine.finish(request, "stop")
                        request.finish_reason = "stop"  # also where the same token was the last one allowed
                        return
                if request.is_finished:
                    break
                self.engine.step()
            yield text.finish()
        finally:
            self.engine.finish(request)


def _stripped(pieces: Iterable[str]) -> Generator[str]:
    """The same text without white space at its ends; trailing white space waits for what follows."""
    held, begun = "", False
    for piece in pieces:
        held += piece
        text = held if begun else held.lstrip()
        kept = text.rstrip()
        if kept:
            begun = True
            held = text[len(kept) :]
            yield kept
