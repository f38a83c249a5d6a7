"""`AutoModelForCausalLM` as the model card uses it: chat, chat_stream, generate, on Qwartet's engine.

    from qwartet import AutoTokenizer, AutoModelForCausalLM

and the rest of the card's quickstart unchanged. The original's quirks are reproduced (docs/fidelity.md lists them);
LLM is the interface without them. `trust_remote_code` is accepted and ignored: code shipped with a checkpoint is never
executed.
"""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from qwartet.checkpoint.json_file import read_json
from qwartet.compat.generation import Row, batch_of, generate, split_rows, stream_row
from qwartet.compat.generation_config import GenerationConfig
from qwartet.compat.logits_processors import BatchProcessor, checked_processors
from qwartet.compat.model_arguments import AUTO_GPTQ_ARGUMENTS, TOKEN_IDS, check_model_arguments
from qwartet.compat.outputs import CausalLMOutput, GenerateOutput
from qwartet.compat.placement import chosen_device, chosen_dtype, parsed_to
from qwartet.compat.streamers import Streamer
from qwartet.compat.tokenization import QWenTokenizer
from qwartet.engine.engine import Engine
from qwartet.engine.engine_thread import EngineThread
from qwartet.errors import NotAChatModelError, RequestError, SettingError
from qwartet.hub.location import StrPath, locate
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.load import Dtype, load_model
from qwartet.models.qwen import QwenModel
from qwartet.tokenizer.chatml import DEFAULT_SYSTEM, decode_tokens, make_context, stop_words_ids
from qwartet.tokenizer.history import GivenHistory, Turns, longer_history, turns_of

_UNSET = object()
# Accepted by a direct call: they control the cache and the form of the result.
_WITHOUT_EFFECT = ("token_type_ids", "use_cache", "return_dict")


@dataclass(frozen=True)
class _Hooks:
    """The caller's callables that take part in generation."""

    processors: Sequence[BatchProcessor] = ()
    streamer: Streamer | None = None
    stopping_criteria: Sequence[Callable[[Tensor, Any], Any]] = ()

    @classmethod
    def taken_from(cls, settings: dict[str, Any]) -> _Hooks:
        """Takes them out of a call's keyword arguments, which leaves settings; SettingError for wrong ones."""
        processors = checked_processors(settings.pop("logits_processor", None))
        streamer = settings.pop("streamer", None)
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise SettingError(f"streamer is {streamer!r:.60}; pass an object with put(ids) and end()")
        criteria = settings.pop("stopping_criteria", None)
        criteria = [] if criteria is None else criteria
        if not isinstance(criteria, Sequence) or not all(map(callable, criteria)):
            raise SettingError(f"stopping_criteria is {criteria!r:.60}; pass a list of callables (input_ids, scores)")
        return cls(processors, streamer, criteria)

    def is_stopped(self, token_ids: list[int]) -> bool:
        """Whether a criterion ends a row with these ids."""
        input_ids = torch.tensor([token_ids]) if self.stopping_criteria else None
        return any(bool(torch.as_tensor(ends(input_ids, None)).all()) for ends in self.stopping_criteria)  # type: ignore[arg-type]


class QWenLMHeadModel:
    """A loaded checkpoint behind the card's API."""

    def __init__(
        self,
        directory: Path,
        config: SimpleNamespace,
        generation_config: GenerationConfig,
        *,
        dtype: Dtype,
        device: torch.device,
    ) -> None:
        self.directory = directory
        self.config = config
        self.generation_config = generation_config
        self.model: QwenModel = load_model(directory, dtype=dtype, device=device)
        self._thread: EngineThread | None = None
        self._thread_lock = threading.Lock()

    @property
    def engine_thread(self) -> EngineThread:
        """The thread that serves all callers, created with its engine at first use, as is the KV cache."""
        with self._thread_lock:
            if self._thread is None:
                self._thread = EngineThread.of(Engine(self.model))
            return self._thread

    @property
    def engine(self) -> Engine:
        """The engine of `engine_thread`."""
        return self.engine_thread.engine

    # torch.nn.Module's habits

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def eval(self) -> Self:
        """Returns itself: the model is always in eval mode."""
        return self

    def train(self, mode: bool = True) -> Self:
        """Returns itself for False; SettingError for train mode."""
        if mode:
            raise SettingError("this interface does not support training; use load_model(directory, trainable=True)")
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Returns itself for False, as gradients are always off; SettingError for True."""
        return self.train(requires_grad)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """The parameters that are not quantised."""
        return self.model.parameters()

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The model itself, on another device or in another dtype: it is loaded again if either differs."""
        dtype, device = parsed_to(args, kwargs)
        return self._loaded_as(dtype or self.dtype, device or self.device)

    def cuda(self, device: int | str | torch.device | None = None) -> Self:
        """The model itself on a GPU, the first one unless another is named."""
        return self.to("cuda" if device is None else device)

    def cpu(self) -> Self:
        """The model itself on the CPU."""
        return self.to("cpu")

    def half(self) -> Self:
        """The model itself in fp16."""
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        """The model itself in bf16."""
        return self.to(torch.bfloat16)

    def float(self) -> Self:
        """The model itself in fp32."""
        return self.to(torch.float32)

    def _loaded_as(self, dtype: torch.dtype, device: torch.device) -> Self:
        before = self.dtype, self.device
        if (dtype, device) == before:
            return self
        with self._thread_lock:
            if self._thread is not None:
                self._thread.close()
                self._thread = None
            del self.model
            gc.collect()  # two models need not fit at once
            try:
                self.model = load_model(self.directory, dtype=dtype, device=device)
            except Exception:
                self.model = load_model(self.directory, dtype=before[0], device=before[1])
                raise
        return self

    # Logits and ids

    def __call__(
        self, input_ids: Any, attention_mask: Any = None, labels: Tensor | None = None, **others: Any
    ) -> CausalLMOutput:
        """Logits [B, L, V] of ids [B, L] or [L]; with labels [B, L] (-100 ignored) also the shifted mean loss."""
        if unknown := [name for name, value in others.items() if name not in _WITHOUT_EFFECT and value is not None]:
            raise SettingError(f"a direct call has no argument {unknown[0]!r}; it takes input_ids and labels")
        if attention_mask is not None and not bool(batch_of(attention_mask, "attention_mask").bool().all()):
            raise RequestError("a direct call takes rows without padding; call them one by one, or use generate")
        ids = batch_of(input_ids)
        targets = None if labels is None else batch_of(labels, "labels")
        with self._thread_lock:
            thread = self._thread
            if thread is None:
                return self._forward(ids, targets)
        return thread.call(lambda: self._forward(ids, targets))

    @torch.inference_mode()
    def _forward(self, ids: Tensor, labels: Tensor | None) -> CausalLMOutput:
        batch = dense_batch(ids, self.model.config.position, device=self.device)
        logits = self.model(batch).unflatten(0, tuple(ids.shape))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(self.device))
        return CausalLMOutput(loss, logits)

    def generate(
        self,
        inputs: Any = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: Any = None,
        attention_mask: Any = None,
        **settings: Any,
    ) -> Any:
        """Prompt and completion ids [B, longest] for left-padded prompts [B, L] or [L]; settings override the config's.

        Prompts are a tensor, an array or lists. Settings may be logits_processor, streamer and stopping_criteria too.
        """
        if (inputs is None) == (input_ids is None):
            raise RequestError(f"generate() needs input_ids{'' if inputs is None else ' once'}")
        hooks = _Hooks.taken_from(settings)
        chosen = self._chosen(generation_config, settings)
        ids = batch_of(input_ids if inputs is None else inputs)
        mask = None if attention_mask is None else batch_of(attention_mask, "attention_mask")
        outputs = self._generated(split_rows(ids, mask, chosen), chosen, hooks)
        return GenerateOutput(outputs) if chosen.return_dict_in_generate else outputs

    def _generated(self, rows: list[Row], chosen: GenerationConfig, hooks: _Hooks) -> Tensor:
        if hooks.streamer is None and not hooks.stopping_criteria:
            return generate(self.engine_thread, rows, chosen, hooks.processors).to(self.device)
        if len(rows) * chosen.num_return_sequences != 1:
            raise SettingError("a streamer and stopping_criteria take one row; generate the rows one by one")
        prompt = rows[0].padding + rows[0].ids
        ids = list(self._streamed(rows[0], chosen, hooks))
        return torch.tensor([prompt + ids], device=self.device)

    def _streamed(self, row: Row, chosen: GenerationConfig, hooks: _Hooks) -> Iterator[int]:
        """The ids of a row as they are generated, after the streamer has received them."""
        ids = row.padding + row.ids
        try:
            if hooks.streamer is not None:
                hooks.streamer.put(torch.tensor([ids]))
            for token_id in stream_row(self.engine_thread, row, chosen, hooks.processors):
                ids.append(token_id)
                if hooks.streamer is not None:
                    hooks.streamer.put(torch.tensor([token_id]))
                yield token_id
                if hooks.is_stopped(ids):
                    return
        finally:  # after an error too: a reader in another thread would wait for ever
            if hooks.streamer is not None:
                hooks.streamer.end()

    def _chosen(self, generation_config: Any, settings: dict[str, Any]) -> GenerationConfig:
        given = self.generation_config if generation_config is None else generation_config
        return GenerationConfig.of(given).changed(settings)

    # Conversations

    def chat(
        self,
        tokenizer: QWenTokenizer,
        query: str,
        history: GivenHistory | None = None,
        system: str | None = None,
        stream: object = _UNSET,
        stop_words_ids: list[list[int]] | None = None,
        generation_config: GenerationConfig | None = None,
        **settings: Any,
    ) -> tuple[str, list[tuple[str, str]]]:
        """The published chat(): response and a copied, longer history; `stop_words_ids` grows in place.

        `history` may also be messages or a saved conversation (tokenizer/history.py); `system` None is the published
        default.
        """
        if stream is not _UNSET:
            raise SettingError("chat() does not stream; call chat_stream() instead of passing stream=")
        hooks = _Hooks.taken_from(settings)
        chosen = self._chat_config(generation_config, settings)
        turns = turns_of(history, system)
        context, row = self._context(tokenizer, query, turns, system, stop_words_ids, chosen)
        tokens = self._generated([row], chosen, hooks)[0].tolist()
        response, _ = decode_tokens(tokenizer.core, tokens, len(context.raw_text), len(row.ids), "chatml")
        return response, longer_history(history, turns, (query, response))

    def chat_stream(
        self,
        tokenizer: QWenTokenizer,
        query: str,
        history: GivenHistory | None = None,
        system: str | None = None,
        stop_words_ids: list[list[int]] | None = None,
        logits_processor: Sequence[BatchProcessor] | None = None,
        generation_config: GenerationConfig | None = None,
        **settings: Any,
    ) -> Iterator[str]:
        """The published chat_stream(): yields the whole text so far after every token, unstripped."""
        settings["logits_processor"] = logits_processor
        hooks = _Hooks.taken_from(settings)
        chosen = self._chat_config(generation_config, settings)
        _, row = self._context(tokenizer, query, turns_of(history, system), system, stop_words_ids, chosen)
        return self._texts(tokenizer, row, chosen, hooks)

    def _texts(self, tokenizer: QWenTokenizer, row: Row, chosen: GenerationConfig, hooks: _Hooks) -> Iterator[str]:
        ids: list[int] = []
        for token_id in self._streamed(row, chosen, hooks):
            ids.append(token_id)
            yield tokenizer.decode(ids, skip_special_tokens=True, errors="ignore")

    def _chat_config(self, generation_config: Any, settings: dict[str, Any]) -> GenerationConfig:
        chosen = self._chosen(generation_config, settings)
        if chosen.chat_format != "chatml":
            raise NotAChatModelError(
                f'generation_config.chat_format is {chosen.chat_format!r}; chat needs "chatml": '
                "use a -Chat checkpoint, or generate() with a base model"
            )
        return chosen

    @staticmethod
    def _context(
        tokenizer: QWenTokenizer,
        query: str,
        turns: Turns,
        system: str | None,
        callers_stop_words: list[list[int]] | None,
        chosen: GenerationConfig,
    ) -> tuple[Any, Row]:
        if not isinstance(tokenizer, QWenTokenizer):
            raise SettingError(f"tokenizer is {tokenizer!r:.60}; pass the one from AutoTokenizer.from_pretrained")
        if callers_stop_words is not None and not isinstance(callers_stop_words, list):
            raise SettingError(f"stop_words_ids is {callers_stop_words!r:.60}; it must be a list of lists of token ids")
        if system is None:
            system = DEFAULT_SYSTEM if turns.system is None else turns.system
        context = make_context(
            tokenizer.core,
            query,
            history=turns,
            system=system,
            max_window_size=chosen.max_window_size,
            chat_format="chatml",
        )
        stop_words = [] if callers_stop_words is None else callers_stop_words
        stop_words.extend(stop_words_ids(tokenizer.core, "chatml"))
        chosen.stop_words_ids = stop_words
        return context, Row(context.ids, [])


class AutoModelForCausalLM:
    """Replaces the class of this name that the model card imports from transformers."""

    @staticmethod
    def from_pretrained(
        name_or_path: StrPath,
        *,
        device_map: Any = None,
        trust_remote_code: bool | None = None,
        bf16: bool = False,
        fp16: bool = False,
        fp32: bool = False,
        torch_dtype: Dtype | None = None,
        use_flash_attn: bool | str = "auto",
        use_cache_quantization: bool = False,
        use_cache_kernel: bool = False,
        revision: str | None = None,
        **others: Any,
    ) -> QWenLMHeadModel:
        """Loads a directory or a hub id. Raises SettingError, ModelNotFoundError, CheckpointError, OutOfMemoryError.

        `trust_remote_code` and `use_flash_attn` are accepted and ignored: the network and its attention are our own.
        `device_map` is "auto", a device, or {"": device}; None is the CPU. `others` are further arguments of the
        original: those that could change an answer are rejected.
        """
        if use_cache_quantization or use_cache_kernel:
            warnings.warn("use_cache_quantization: the KV cache stays unquantised in this version", stacklevel=2)
        dtype = chosen_dtype({"bf16": bf16, "fp16": fp16, "fp32": fp32}, others.pop("dtype", torch_dtype))
        device = chosen_device(device_map)
        directory = locate(name_or_path, others := {**others, "revision": revision})
        config = read_json(directory / "config.json")
        config |= {name: others.pop(name) for name in TOKEN_IDS if others.get(name) is not None}
        check_model_arguments(others, config)
        generation_config = GenerationConfig.of_checkpoint(directory, config)
        return QWenLMHeadModel(directory, SimpleNamespace(**config), generation_config, dtype=dtype, device=device)


class AutoGPTQForCausalLM:
    """Replaces the class of this name that the published demos import from AutoGPTQ for a quantised checkpoint."""

    @staticmethod
    def from_quantized(
        name_or_path: StrPath, device: Any = None, *, device_map: Any = None, **others: Any
    ) -> QWenLMHeadModel:
        """Loads a directory or a hub id, as AutoModelForCausalLM.from_pretrained does."""
        others = {name: value for name, value in others.items() if name not in AUTO_GPTQ_ARGUMENTS}
        place = device_map if device is None else device
        return AutoModelForCausalLM.from_pretrained(name_or_path, device_map=place, **others)
