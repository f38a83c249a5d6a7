"""LLM: load a model, chat with it, complete text. The main Python interface.

    from qwartet import LLM
    llm = LLM("Qwen/Qwen-72B-Chat-Int4")                 # a directory, a hub id, or nothing for the bundled model
    response, history = llm.chat("你好")
    response, history = llm.chat("再说一遍", history=history)

Any number of threads may use one LLM: their requests are batched in a thread of its own, and each gets the same text as
alone. `with LLM(...) as llm:`, or `llm.close()`, frees the model; so does dropping the last reference.

Where the original code has a bug, LLM does the right thing; docs/fidelity.md lists each difference.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import cached_property, partial
from operator import index
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import numpy as np
import torch
from torch import Tensor

from qwartet import DEMO
from qwartet.checkpoint.safetensors_file import LoadMode
from qwartet.checkpoint.weight_cache_file import OnPacked
from qwartet.engine.blocking_reader import BlockingReader
from qwartet.engine.completion import Completion as Completion
from qwartet.engine.completion import texts_of
from qwartet.engine.engine import Engine, check_ids, check_length, stop_ids
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.engine_thread import EngineThread, Prompt
from qwartet.engine.likelihood import Likelihood, likelihood_requests
from qwartet.engine.progress_bar import progress_bar
from qwartet.engine.request import Request, RequestOptions
from qwartet.engine.sampling_defaults import default_params
from qwartet.engine.sampling_params import SamplingOptions, SamplingParams
from qwartet.errors import NotAChatModelError, RequestError, SettingError
from qwartet.hub.resolve import resolve
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.adapters import attach_adapters
from qwartet.models.device import resolve_device
from qwartet.models.families import family_of, load_config, missing_vocabulary
from qwartet.models.generation_config import GenerationDefaults, load_generation_defaults
from qwartet.models.load import Dtype, load_model
from qwartet.models.qwen import QwenModel
from qwartet.models.residency import told_of_memory
from qwartet.models.vocabulary_match import ids_out_of_range, vocabulary_mismatches
from qwartet.tokenizer.answer_delta import AnswerDelta
from qwartet.tokenizer.answer_form import AnswerForm
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.history import GivenHistory, History, Turns, turns_of
from qwartet.tokenizer.strip import stripped
from qwartet.tokenizer.templates.conversation import GivenMessage
from qwartet.tokenizer.templates.prompt import PromptForm
from qwartet.tokenizer.thinking import ThinkingPart, ThinkingStream, begins_in
from qwartet.tokenizer.tokenizer import Tokenizer


class LLM:
    """A loaded checkpoint, for any number of threads. Special tokens in text arguments are treated as plain text.

    After `close`, everything that needs the model raises EngineFailedError.
    """

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
        adapters: Mapping[str, str | os.PathLike[str]] | None = None,
        **engine: Any,
    ) -> None:
        """`activations` ("exact", "int8"), `head` ("auto", "int8", "exact"), `weight_cache` and `on_packed`: see
        load_model. `draft_model`: a smaller checkpoint with the same vocabulary, for speculative decoding.
        `chat_format` ("chatml", "raw") and `checkpoint_format` ("gptq", "gptq_v2") are for checkpoints that lack them.
        `adapters`: LoRA adapters in PEFT's format, name -> directory; a request chooses one with adapter="name".
        `engine` takes the fields of EngineConfig: max_model_len, max_num_seqs, kv_cache_dtype ("auto", "int8", "int4").

        Raises ModelNotFoundError, CheckpointError, OutOfMemoryError (unless `force`), SettingError.
        """
        config = EngineConfig.of(engine)
        if model is None and revision is not None:
            raise SettingError("revision needs a hub id; pass the model too")
        self.model_path: Path = DEMO if model is None else resolve(os.fspath(model), revision=revision)
        network_config = load_config(self.model_path)
        self.family = family_of(network_config)
        self.generation_defaults: GenerationDefaults = load_generation_defaults(self.model_path, chat_format)
        self._tokenizer = self.family.load_tokenizer(self.model_path)
        for error in ids_out_of_range(self.generation_defaults, network_config, self.model_path):
            raise error
        if self._tokenizer is not None:
            defaults = self.generation_defaults
            for error in vocabulary_mismatches(self._tokenizer, network_config, defaults, self.model_path):
                raise error
        load = partial(
            load_model, dtype=dtype, device=resolve_device(device), load_mode=load_mode, force=force,
            activations=activations, head=head, weight_cache=weight_cache, on_packed=on_packed,
        )  # fmt: skip
        network = load(self.model_path, checkpoint_format=checkpoint_format)
        draft = None
        if draft_model is not None:
            draft_path = resolve(os.fspath(draft_model))
            drafter = family_of(load_config(draft_path)).load_tokenizer(draft_path)
            if drafter is not None and not self.tokenizer.has_ids_of(drafter):  # without one, it uses ours
                reason = "the draft model has a different vocabulary; use one of the same family"
                raise SettingError(f"{draft_path}: {reason}", param="draft_model")
            draft = load(draft_path)
        resident = attach_adapters(network, {name: Path(place) for name, place in (adapters or {}).items()})
        self._thread = EngineThread.of(
            Engine(network, config, tokenizer=self._tokenizer, draft_model=draft, adapters=resident)
        )

    @property
    def engine(self) -> Engine:
        """The engine; AsyncEngine(llm.engine) serves coroutines alongside the calls of this LLM."""
        return self._thread.engine

    @property
    def model(self) -> QwenModel:
        """The network; any thread may call `logits` and `generate`, the network itself is for one thread at a time."""
        return self.engine.runner.model

    def close(self) -> None:
        """Breaks off open requests, ends the engine's thread and frees the model; a second call does nothing.

        Callers that are waiting for an answer get an EngineFailedError.
        """
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; VocabularyError when it has none, and then prompts must be ids."""
        if self._tokenizer is None:
            raise missing_vocabulary(self.model_path, self.family)
        return self._tokenizer

    def chat(
        self,
        query: str,
        history: GivenHistory | None = None,
        system: str | None = None,
        *,
        enable_thinking: bool | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> tuple[str, History]:
        """Answers a query; returns the answer and a new history with this turn added.

        `history` is pairs (query, answer), OpenAI messages, or a conversation saved with the terminal's /save; the
        result is pairs. `sampling` takes the fields of SamplingParams and the published names (max_new_tokens,
        do_sample); defaults come from generation_config.json. `enable_thinking`: whether a model that can do both, such
        as Qwen3, thinks first. Thinking is no part of the answer; `chat_deltas` has it.
        """
        turns = turns_of(history, system)
        response = "".join(self.chat_stream(query, turns, system, enable_thinking=enable_thinking, **sampling))
        return response, Turns([*turns, (query, response)], turns.system)

    def chat_stream(
        self,
        query: str,
        history: GivenHistory | None = None,
        system: str | None = None,
        *,
        enable_thinking: bool | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generator[str, None, Completion]:
        """Answers a query piece by piece; the pieces join to what `chat` returns.

        The generator's return value is the complete Completion, its text not stripped.
        """
        deltas = self.chat_deltas(query, history, system, enable_thinking=enable_thinking, **sampling)
        return stripped(texts_of(deltas))

    def chat_deltas(
        self,
        query: str,
        history: GivenHistory | None = None,
        system: str | None = None,
        *,
        enable_thinking: bool | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Generator[AnswerDelta, None, Completion]:
        """The same with the thinking: deltas that have `reasoning`, and then such that have `text`, not stripped."""
        self._check_chat()
        turns = turns_of(history, system)
        params = self.sampling_params(**sampling)
        prompt_ids = self.chat_prompt(query, turns, turns.system if system is None else system, params, enable_thinking)
        return self._deltas(prompt_ids, params)

    def chat_batch(
        self,
        queries: Sequence[str],
        system: str | None = None,
        *,
        progress: bool | None = None,
        enable_thinking: bool | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[Completion]:
        """Answers independent queries as a batch; n results for each, in their order.

        Each `text` is what `chat` would return. A query that cannot be served has an `error`; see `generate`.
        """
        self._check_chat()
        if isinstance(queries, str):
            raise RequestError("queries is a string; pass a list of strings, or use chat")
        params = self.sampling_params(**sampling)
        prompts = [self.chat_prompt(query, [], system, params, enable_thinking) for query in queries]
        # All prompts end alike, so that the answers begin in the same part.
        thinking = begins_in(self.tokenizer, prompts[0]) if prompts else "answer"
        found = self.generate(prompts, params, progress=progress, thinking=thinking)
        return [replace(one, text=one.text.strip()) for one in found]

    def _check_chat(self) -> None:
        if not self.generation_defaults.is_chat:
            raise NotAChatModelError(f"{self.model_path}: {self.generation_defaults.chat_refusal}, or generate")

    def complete_stream(
        self, prompt: str | Sequence[int], **sampling: Unpack[SamplingOptions]
    ) -> Generator[str, None, Completion]:
        """Continues a text (or ids) piece by piece; the generator's return value is the complete Completion."""
        return self._stream(self._ids(prompt), self.sampling_params(**sampling))

    def generate(
        self,
        prompts: str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]],
        sampling_params: SamplingParams | None = None,
        *,
        progress: bool | None = None,
        thinking: ThinkingPart = "answer",
    ) -> list[Completion]:
        """Continues prompts, strings or lists of ids, as a batch; params.n results for each, in the prompts' order.

        A prompt of a list that cannot be served, or fails, does not stop the others: its results have finish_reason
        "error", and `error` says why. A single prompt outside a list raises RequestError if it cannot be served.
        `progress` shows a bar on stderr; None: if stderr is a terminal and there is more than one prompt. `thinking`:
        where chats end that are continued (see thinking.begins_in); the results then have their `reasoning` apart.
        """
        if isinstance(prompts, Tensor | np.ndarray):
            prompts = prompts.tolist()
        is_single = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
        params = sampling_params or self.sampling_params()
        several = [self._checked(prompt, params, is_single) for prompt in ([prompts] if is_single else prompts)]
        good = [ids for ids, error in several if error is None]
        with BlockingReader(self._thread, only_ends=True) as reader:
            reader.submit(self._prompts(good, params, thinking))
            with progress_bar(len(good) * params.n, progress) as advance:
                for _ in reader:
                    advance(1)
        requests = iter(reader.requests)
        found: list[Completion] = []
        for ids, error in several:
            if error is not None:
                found += [Completion.refused(ids, error)] * params.n
            else:
                found += [Completion.of(request).split(thinking) for request in next(requests)]
        return found

    def loglikelihood(
        self,
        pairs: Sequence[tuple[str | Sequence[int], str | Sequence[int]]],
        *,
        progress: bool | None = None,
    ) -> list[Likelihood]:
        """How probable each continuation is after its context, for pairs (context, continuation) of texts or of ids.

        Two texts are tokenised together, and blanks at the end of the context belong to the continuation, as in
        EleutherAI's lm-evaluation-harness; an empty context is <|endoftext|>. What contexts have in common is computed
        once. RequestError, with the pair's number, for one that cannot be served. `progress`: see `generate`.
        """
        requests = likelihood_requests(self.likelihood_ids(context, text) for context, text in pairs)
        prompts = [request.prompt for request in requests]
        for prompt, request in zip(prompts, requests, strict=True):
            try:
                self.engine.check(prompt.ids, prompt.params)
                check_ids(list(request.last_ids), self.model.config.vocab_size)
            except RequestError as error:
                first = min(index for indices in request.last_ids.values() for index in indices)
                raise RequestError(f"pair {first}: {error}") from None
        found: dict[int, Likelihood] = {}
        with BlockingReader(self._thread, only_ends=True) as reader:
            reader.submit(prompts)
            with progress_bar(len(prompts), progress) as advance:
                for _ in reader:
                    advance(1)
        for request, [done] in zip(requests, reader.requests, strict=True):
            found.update(request.read(done))
        return [found[index] for index in range(len(pairs))]

    def likelihood_ids(
        self, context: str | Sequence[int], continuation: str | Sequence[int]
    ) -> tuple[list[int], list[int]]:
        """The ids of one pair of `loglikelihood`."""
        if isinstance(context, str) and isinstance(continuation, str):
            kept = context.rstrip()
            continuation = context[len(kept) :] + continuation
            context_ids, whole = self._ids(kept), self._ids(kept + continuation)
            ids = context_ids, whole[len(context_ids) :]
        else:
            ids = self._ids(context), self._ids(continuation)
        return ids[0] or [self.tokenizer.eod_id], ids[1]

    def _checked(self, prompt: Any, params: SamplingParams, is_single: bool) -> tuple[list[int], RequestError | None]:
        """The ids of a prompt, and why it cannot be served; for a single one that is raised."""
        ids: list[int] = []
        try:
            ids = self._ids(prompt)
            self.engine.check(ids, params)
        except RequestError as error:
            if is_single:
                raise
            return ids, error.with_traceback(None)  # whose frames hold the model
        return ids, None

    def _prompts(
        self, several: Sequence[list[int]], params: SamplingParams, thinking: ThinkingPart = "answer"
    ) -> list[Prompt]:
        """Prompts for the engine's thread, with this checkpoint's stop tokens; a structure is compiled here, once.

        `thinking`: where the prompts end; structure and stop strings apply to what follows the thinking.
        """
        options = RequestOptions(self.stop_token_ids, thinking=thinking)
        if params.structure is None or not several:
            return [Prompt(ids, params, options) for ids in several]
        structure = replace(params.structure, thinking=thinking)
        params = replace(params, structure=structure)
        constraint = self.engine.compile(structure, stop_ids(params, self.stop_token_ids))
        return [Prompt(ids, params, replace(options, constraint=constraint.fork())) for ids in several]

    def add(self, prompt_ids: list[int], params: SamplingParams) -> list[Request]:
        """Queues a prompt for params.n completions, with this checkpoint's stop tokens; the caller steps `engine`."""
        return self.engine.add_requests(prompt_ids, params, RequestOptions(self.stop_token_ids))

    def logits(self, ids: Sequence[int], *, adapter: str | None = None) -> Tensor:
        """Logits [T, V] fp32 at every position of a prompt of T ids, of the model alone or with one of its adapters."""
        config, context = self.model.config, self.model.config.position.max_length
        check_length(len(ids), context, context)
        check_ids(ids, config.vocab_size)
        return self._thread.call(partial(_logits, self.model, ids, self.engine.adapters.number(adapter)))

    def sampling_params(self, **sampling: Unpack[SamplingOptions]) -> SamplingParams:
        """The checkpoint's sampling defaults with these changes."""
        defaults = self.generation_defaults
        params = default_params(defaults, self._published_stop_strings())
        if sampling.get("do_sample") and sampling.get("temperature") is None:
            sampling["temperature"] = defaults.temperature
        return params.updated(sampling)

    @cached_property
    def answer_form(self) -> AnswerForm:
        """How this checkpoint's answers are written: its tool calls, and whether they begin with thinking."""
        return self.family.answer_form(self.tokenizer)

    def thinking_form(self, enable_thinking: bool | None) -> PromptForm:
        """What the setting is to the chat template; RequestError if the model cannot do as asked."""
        ability = self.answer_form.thinking
        if enable_thinking is not None and ability == "optional":
            return PromptForm(enable_thinking=enable_thinking)
        if enable_thinking in (None, ability == "always"):
            return PromptForm()
        if ability == "always":
            reason = "this model always thinks first; its thinking cannot be switched off"
        else:
            reason = "this model cannot think first; use one that can, such as a Qwen3"
        raise RequestError(reason, param="enable_thinking")

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """Ids that end a completion: the published ones, and the single-id stop words of generation_config.json."""
        defaults = self.generation_defaults
        ids = [words[0] for words in defaults.stop_words_ids if len(words) == 1]
        ids += defaults.eos_token_ids
        if self._tokenizer is not None:
            ids.append(self._tokenizer.eod_id)
            ids += self._tokenizer.turn_ids if defaults.is_chat else []
        return ids

    def _published_stop_strings(self) -> tuple[str, ...]:
        longer = [words for words in self.generation_defaults.stop_words_ids if len(words) > 1]
        most = self.engine.sampler.num_valid_tokens  # padding rows of the vocabulary are never sampled
        return tuple(self.tokenizer.decode(words) for words in longer if max(words) < most)

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        with suppress(TypeError):
            return [index(token_id) for token_id in prompt]
        raise RequestError(f"the prompt is {prompt!r:.60}; pass a string or a list of token ids")

    def prompt_ids(
        self,
        messages: Sequence[GivenMessage],
        add_generation_prompt: bool = True,
        *,
        answer_start: str = "",
        **form: Unpack[PromptForm],
    ) -> list[int]:
        """Prompt ids of a conversation in the format of the model's family, up to where the answer continues.

        `form` is for families whose checkpoints bring a chat template: tools, enable_thinking, template_settings; in
        these, messages may also be OpenAI's as mappings. RequestError in the others.
        """
        if form and not self.family.has_templates:
            raise RequestError(f"{next(iter(form))} needs a model with a chat template, such as a Qwen3; leave it out")
        prompt = self.family.chat_prompt
        return prompt(self.tokenizer, messages, add_generation_prompt, answer_start=answer_start, **form)

    def chat_prompt(
        self,
        query: str,
        history: History,
        system: str | None,
        params: SamplingParams,
        enable_thinking: bool | None = None,
    ) -> list[int]:
        """Prompt ids; the oldest turns are dropped until prompt and answer fit the window and the context."""
        form = self.thinking_form(enable_thinking)
        room = self.engine.max_model_len - min(params.max_tokens, self.engine.max_model_len // 2)
        limit = min(self.generation_defaults.max_window_size, room)
        first = [] if system is None else [Message("system", system)]
        while True:
            turns = [
                Message(role, text) for turn in history for role, text in zip(("user", "assistant"), turn, strict=True)
            ]
            ids = self.prompt_ids([*first, *turns, Message("user", query)], **form)
            if len(ids) <= limit or not history:
                return ids
            history = history[1:]

    def _deltas(self, prompt_ids: list[int], params: SamplingParams) -> Generator[AnswerDelta, None, Completion]:
        """The answer of a chat as it grows, its thinking apart."""
        thinking = begins_in(self.tokenizer, prompt_ids)
        stream = ThinkingStream(thinking)
        with closing(self._stream(prompt_ids, params, thinking)) as pieces:
            try:
                while True:
                    yield from stream.feed(next(pieces))
            except StopIteration as end:
                completion: Completion = end.value
        yield from stream.finish()
        return completion.split(thinking)

    def _stream(
        self, prompt_ids: list[int], params: SamplingParams, thinking: ThinkingPart = "answer"
    ) -> Generator[str, None, Completion]:
        """Text of a request as it grows; other requests of the engine advance with it. Its error is raised."""
        if params.n != 1:
            raise SettingError(f"n is {params.n}, but a stream is one completion; use generate")
        self.engine.check(prompt_ids, params)
        with BlockingReader(self._thread) as reader:
            reader.submit(self._prompts([prompt_ids], params, thinking))
            for output in reader:
                if output.text:
                    yield output.text
        [[request]] = reader.requests
        if request.error is not None:
            raise request.error
        return Completion.of(request)


@torch.inference_mode()
def _logits(model: QwenModel, ids: Sequence[int], adapter: int) -> Tensor:
    batch = dense_batch([ids], model.config.position, device=model.device)
    if adapter >= 0:
        batch = replace(batch, adapter_index=torch.full_like(batch.input_ids, adapter))
    logits: Tensor = model(batch)
    return logits.float()
