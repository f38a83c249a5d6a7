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
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from qwartet import DEMO
from qwartet.checkpoint.safetensors_file import LoadMode
from qwartet.checkpoint.weight_cache_file import OnPacked
from qwartet.engine.engine import Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.request import FinishReason, Request, RequestOptions, TokenLogprobs
from qwartet.engine.sampling_params import SamplingOptions, SamplingParams
from qwartet.errors import NotAChatModelError, RequestError, SettingError, VocabularyError
from qwartet.hub.resolve import resolve
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.families import family_of, load_config
from qwartet.models.generation_config import GenerationDefaults, load_generation_defaults
from qwartet.models.load import Dtype, load_model
from qwartet.models.residency import told_of_memory
from qwartet.models.vocabulary_match import vocabulary_mismatches
from qwartet.tokenizer.chatml import DEFAULT_SYSTEM, Message
from qwartet.tokenizer.strip import stripped
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
    logprobs: list[TokenLogprobs]  # of the completion, and of the prompt; empty where they are not asked for
    prompt_logprobs: list[TokenLogprobs | None]
    num_cached_tokens: int  # of the prompt, that other requests had computed
    error: Exception | None = None  # why the finish reason is "error"

    @classmethod
    def of(cls, request: Request) -> Completion:
        """What a request that has ended has come to."""
        has_prompt = request.params.prompt_logprobs is not None or request.parent is not None
        return cls(
            prompt_ids=request.prompt_ids,
            token_ids=request.completion_ids,
            text=request.completion_text,
            finish_reason=request.finish_reason or "abort",
            logprobs=request.logprobs,
            prompt_logprobs=request.prompt_logprobs if has_prompt else [],
            num_cached_tokens=request.num_cached_tokens,
            error=request.error,
        )


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

    @told_of_memory()
    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        dtype: Dtype = "auto",
        device: str | torch.device = "auto",
        load_mode: LoadMode = "mmap",
        revision: str | None = None,
        force: bool = False,
        activations: str | None = None,
        head: str = "auto",
        weight_cache: bool = True,
        on_packed: OnPacked | None = None,
        draft_model: str | os.PathLike[str] | None = None,
        chat_format: str | None = None,
        checkpoint_format: str | None = None,
        **engine: Any,
    ) -> None:
        """`activations` ("exact", "int8"), `head` ("auto", "int8", "exact"), `weight_cache` and `on_packed`: see
        load_model. `draft_model`: a smaller checkpoint of the same vocabulary, which speeds up the answers of this one.
        `chat_format` ("chatml", "raw") and `checkpoint_format` ("gptq", "gptq_v2") are for checkpoints that do not say.
        `engine` takes the fields of EngineConfig: max_model_len, max_num_seqs, kv_cache_dtype ("auto", "int8", "int4").

        Raises ModelNotFoundError, CheckpointError, OutOfMemoryError (unless `force`), SettingError.
        """
        config = EngineConfig.of(engine)
        if model is None and revision is not None:
            raise SettingError("revision needs a hub id; give the model too")
        self.model_path: Path = DEMO if model is None else resolve(os.fspath(model), revision=revision)
        self.family = family_of(load_config(self.model_path))
        self.generation_defaults: GenerationDefaults = load_generation_defaults(self.model_path, chat_format)
        self._tokenizer = self.family.load_tokenizer(self.model_path)
        load = partial(
            load_model, dtype=dtype, device=resolve_device(device), load_mode=load_mode, force=force,
            activations=activations, head=head, weight_cache=weight_cache, on_packed=on_packed,
        )  # fmt: skip
        self.model = load(self.model_path, checkpoint_format=checkpoint_format)
        if self._tokenizer is not None:
            defaults = self.generation_defaults
            for error in vocabulary_mismatches(self._tokenizer, self.model.config, defaults, self.model_path):
                raise error
        draft = None
        if draft_model is not None:
            draft_path = resolve(os.fspath(draft_model))
            drafter = family_of(load_config(draft_path)).load_tokenizer(draft_path)
            if drafter is not None and not self.tokenizer.has_ids_of(drafter):  # without one, they are ours
                reason = "the draft model has another vocabulary; take one of the same family"
                raise SettingError(f"{draft_path}: {reason}", param="draft_model")
            draft = load(draft_path)
        self.engine = Engine(self.model, config, tokenizer=self._tokenizer, draft_model=draft)

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; VocabularyError when it has none, and then only ids can be given."""
        if self._tokenizer is None:
            raise VocabularyError(self.model_path, "holds no .tiktoken file", hint="copy qwen.tiktoken into it")
        return self._tokenizer

    def chat(
        self,
        query: str,
        history: Sequence[tuple[str, str]] | None = None,
        system: str | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> tuple[str, History]:
        """Answers a query; returns the answer and the history with this turn added (the given one is not changed).

        `sampling` takes the fields of SamplingParams and the published names (max_new_tokens, do_sample); what is not
        given comes from generation_config.json.
        """
        response = "".join(self.chat_stream(query, history, system, **sampling))
        return response, [*(history or ()), (query, response)]

    def chat_stream(
        self,
        query: str,
        history: Sequence[tuple[str, str]] | None = None,
        system: str | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generator[str, None, Completion]:
        """Answers a query piece by piece; the pieces together are what `chat` returns.

        The generator's value is the whole completion, its text not stripped.
        """
        if not self.generation_defaults.is_chat:
            raise NotAChatModelError(f"{self.model_path}: {self.generation_defaults.chat_refusal}, or generate")
        params = self.sampling_params(**sampling)
        prompt_ids = self.chat_prompt(query, list(history or ()), system, params)
        return stripped(self._stream(prompt_ids, params))

    def complete_stream(
        self, prompt: str | Sequence[int], **sampling: Unpack[SamplingOptions]
    ) -> Generator[str, None, Completion]:
        """Continues a text (or ids) piece by piece; the generator's value is the whole completion."""
        return self._stream(self._ids(prompt), self.sampling_params(**sampling))

    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]],
        sampling_params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
    ) -> list[Completion]:
        """Continues prompts, given as texts or as ids, all together; params.n results for each, in the prompts' order.

        A request that fails does not stop the others: its `error` says why. `progress` shows a bar on stderr; None:
        where that is a terminal and there is more than one prompt.
        """
        is_single = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
        several: Sequence[Any] = [prompts] if is_single else prompts
        params = sampling_params or self.sampling_params()
        requests: list[Request] = []
        try:
            for prompt in several:
                requests += self.add(self._ids(prompt), params)
            with _progress(len(requests), progress) as advance:
                waiting = {request.request_id for request in requests}
                while waiting:
                    ended = [one.request.request_id for one in self.engine.step() if one.finish_reason is not None]
                    advance(len(waiting.intersection(ended)))
                    waiting.difference_update(ended)
        finally:
            for request in requests:
                self.engine.finish(request)
        return [Completion.of(request) for request in requests]

    def add(self, prompt_ids: list[int], params: SamplingParams) -> list[Request]:
        """Queues a prompt for params.n completions, with this checkpoint's stop tokens."""
        return self.engine.add_requests(prompt_ids, params, RequestOptions(self.stop_token_ids))

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """Logits [T, V] fp32 at every position of a prompt of T ids."""
        if not ids:
            raise RequestError("the prompt is empty; give at least one token")
        logits: Tensor = self.model(dense_batch([ids], self.model.config.position, device=self.model.device))
        return logits.float()

    def sampling_params(self, **sampling: Unpack[SamplingOptions]) -> SamplingParams:
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
            sampling["temperature"] = defaults.temperature
        return params.updated(sampling)

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """Ids that end a completion: the published ones, and the single-id stop words of generation_config.json."""
        defaults = self.generation_defaults
        ids = [words[0] for words in defaults.stop_words_ids if len(words) == 1]
        ids += defaults.eos_token_ids
        if self._tokenizer is not None:
            ids.append(self._tokenizer.eod_id)
            ids += [self._tokenizer.im_end_id, self._tokenizer.im_start_id] if defaults.is_chat else []
        return ids

    def _published_stop_strings(self) -> tuple[str, ...]:
        longer = [words for words in self.generation_defaults.stop_words_ids if len(words) > 1]
        return tuple(self.tokenizer.decode(words) for words in longer)

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        return self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def prompt_ids(
        self, messages: Sequence[Message], add_generation_prompt: bool = True, *, answer_start: str = ""
    ) -> list[int]:
        """Prompt ids of a conversation in the format of the model's family, up to where the answer goes on."""
        return self.family.chat_prompt(self.tokenizer, messages, add_generation_prompt, answer_start=answer_start)

    def chat_prompt(self, query: str, history: History, system: str | None, params: SamplingParams) -> list[int]:
        """Prompt ids; the oldest turns are forgotten until prompt and answer fit the window and the context."""
        room = self.engine.max_model_len - min(params.max_tokens, self.engine.max_model_len // 2)
        limit = min(self.generation_defaults.max_window_size, room)
        system_message = Message("system", DEFAULT_SYSTEM if system is None else system)
        while True:
            turns = [
                Message(role, text) for turn in history for role, text in zip(("user", "assistant"), turn, strict=True)
            ]
            ids = self.prompt_ids([system_message, *turns, Message("user", query)])
            if len(ids) <= limit or not history:
                return ids
            history = history[1:]

    def _stream(self, prompt_ids: list[int], params: SamplingParams) -> Generator[str, None, Completion]:
        """Text of a request as it grows; other requests of the engine advance with it. Its error is raised."""
        if params.n != 1:
            raise SettingError(f"n is {params.n}, and a stream is one completion; use generate")
        request = self.add(prompt_ids, params)[0]
        num_read = 0
        try:
            while True:
                text = request.completion_text[num_read:]
                num_read += len(text)
                if text:
                    yield text
                if request.is_finished:
                    break
                self.engine.step()
        finally:
            self.engine.finish(request)
        if request.error is not None:
            raise request.error
        return Completion.of(request)


@contextmanager
def _progress(total: int, wanted: bool | None) -> Iterator[Callable[[int], None]]:
    """A function that takes how many more requests have ended; shows a bar on stderr where one is wanted."""
    if wanted is False or (wanted is None and (total < 2 or not sys.stderr.isatty())):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("requests", total=total)
        yield lambda count: bar.advance(task, count)
