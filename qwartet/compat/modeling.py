"""`AutoModelForCausalLM` as the model card uses it: chat, chat_stream, generate, on Qwartet's engine.

    from qwartet import AutoTokenizer, AutoModelForCausalLM

and the rest of the card's quickstart as it stands. The original's quirks are reproduced (docs/fidelity.md lists them);
LLM is the interface without them. `trust_remote_code` is accepted and never used: no code of a repository is run.
"""

from __future__ import annotations

import copy
import difflib
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from qwartet.checkpoint.json_file import read_json
from qwartet.compat.generation import GenerationConfig, Row, generate, split_rows, stream_row
from qwartet.compat.tokenization import QWenTokenizer
from qwartet.engine.engine import Engine
from qwartet.engine.engine_thread import EngineThread
from qwartet.errors import NotAChatModelError, RequestError, SettingError
from qwartet.hub.resolve import resolve
from qwartet.layers.dense_batch import dense_batch
from qwartet.llm import resolve_device
from qwartet.models.load import Dtype, load_model
from qwartet.models.qwen import QwenModel
from qwartet.tokenizer.chatml import DEFAULT_SYSTEM, decode_tokens, make_context, stop_words_ids

_UNSET = object()
_DTYPE_FLAGS = ("bf16", "fp16", "fp32")


@dataclass
class CausalLMOutput:
    """Result of calling the model: logits [B, L, V], and the loss where labels were given."""

    logits: Tensor
    loss: Tensor | None = None


class QWenLMHeadModel:
    """A loaded checkpoint behind the card's API."""

    def __init__(self, model: QwenModel, config: SimpleNamespace, generation_config: GenerationConfig) -> None:
        self.model = model
        self.config = config
        self.generation_config = generation_config
        self._thread: EngineThread | None = None
        self._thread_lock = threading.Lock()

    @property
    def engine_thread(self) -> EngineThread:
        """The thread that answers whoever asks, made at first use with its engine: loading alone takes no KV cache."""
        with self._thread_lock:
            if self._thread is None:
                self._thread = EngineThread.of(Engine(self.model))
            return self._thread

    @property
    def engine(self) -> Engine:
        """The engine of `engine_thread`."""
        return self.engine_thread.engine

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def eval(self) -> Self:
        """Returns itself: the model is always in eval mode."""
        return self

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> CausalLMOutput:
        """Logits [B, L, V] of input_ids [B, L]; with labels [B, L] (-100 ignored) also the shifted mean loss."""
        if attention_mask is not None and not bool(attention_mask.bool().all()):
            raise RequestError("a direct call takes rows without padding; call them one by one, or use generate")
        with self._thread_lock:
            thread = self._thread
            if thread is None:
                return self._forward(input_ids, labels)
        return thread.call(lambda: self._forward(input_ids, labels))

    @torch.inference_mode()
    def _forward(self, input_ids: Tensor, labels: Tensor | None) -> CausalLMOutput:
        batch = dense_batch(input_ids, self.model.config.position, device=self.device)
        logits = self.model(batch).unflatten(0, tuple(input_ids.shape))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(self.device))
        return CausalLMOutput(logits, loss)

    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **settings: Any,
    ) -> Tensor:
        """Prompt and completion ids [B, longest] for left-padded prompts [B, L]; settings win over the config's."""
        prompts = input_ids if inputs is None else inputs
        if prompts is None:
            raise RequestError("generate() needs input_ids")
        chosen = (generation_config or self.generation_config).changed(settings)
        ids = torch.as_tensor(prompts)
        rows = split_rows(ids if ids.dim() > 1 else ids.view(1, -1), attention_mask, chosen)
        return generate(self.engine_thread, rows, chosen).to(self.device)

    def chat(
        self,
        tokenizer: QWenTokenizer,
        query: str,
        history: list[tuple[str, str]] | None,
        system: str = DEFAULT_SYSTEM,
        stream: object = _UNSET,
        stop_words_ids: list[list[int]] | None = None,
        generation_config: GenerationConfig | None = None,
        **settings: Any,
    ) -> tuple[str, list[tuple[str, str]]]:
        """The published chat(): response and a copied, longer history; `stop_words_ids` grows in place."""
        if stream is not _UNSET:
            raise SettingError("chat() does not stream; call chat_stream() instead of passing stream=")
        chosen = self._chat_config(generation_config, settings)
        turns = copy.deepcopy(history) if history is not None else []
        context, row = self._context(tokenizer, query, turns, system, stop_words_ids, chosen)
        tokens = generate(self.engine_thread, [row], chosen)[0].tolist()
        response, _ = decode_tokens(tokenizer.core, tokens, len(context.raw_text), len(row.ids), "chatml")
        turns.append((query, response))
        return response, turns

    def chat_stream(
        self,
        tokenizer: QWenTokenizer,
        query: str,
        history: list[tuple[str, str]] | None,
        system: str = DEFAULT_SYSTEM,
        stop_words_ids: list[list[int]] | None = None,
        generation_config: GenerationConfig | None = None,
        **settings: Any,
    ) -> Iterator[str]:
        """The published chat_stream(): yields the whole text so far after every token, unstripped."""
        chosen = self._chat_config(generation_config, settings)
        _, row = self._context(tokenizer, query, list(history or []), system, stop_words_ids, chosen)
        ids: list[int] = []
        for token_id in stream_row(self.engine_thread, row, chosen):
            ids.append(token_id)
            yield tokenizer.decode(ids, skip_special_tokens=True, errors="ignore")

    def _chat_config(self, generation_config: GenerationConfig | None, settings: dict[str, Any]) -> GenerationConfig:
        chosen = (generation_config or self.generation_config).changed(settings)
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
        history: list[tuple[str, str]],
        system: str,
        callers_stop_words: list[list[int]] | None,
        chosen: GenerationConfig,
    ) -> tuple[Any, Row]:
        context = make_context(
            tokenizer.core,
            query,
            history=history,
            system=system,
            max_window_size=chosen.max_window_size,
            chat_format="chatml",
        )
        stop_words = [] if callers_stop_words is None else callers_stop_words
        stop_words.extend(stop_words_ids(tokenizer.core, "chatml"))
        chosen.stop_words_ids = stop_words
        return context, Row(context.ids, [])


class AutoModelForCausalLM:
    """Stands where the model card imports transformers' class of this name."""

    @staticmethod
    def from_pretrained(
        name_or_path: str | os.PathLike[str],
        *,
        device_map: str | None = None,
        trust_remote_code: bool | None = None,
        bf16: bool = False,
        fp16: bool = False,
        fp32: bool = False,
        torch_dtype: Dtype | None = None,
        use_flash_attn: bool | str = "auto",
        use_cache_quantization: bool = False,
        use_cache_kernel: bool = False,
        revision: str | None = None,
        **unknown: Any,
    ) -> QWenLMHeadModel:
        """Loads a directory or a hub id. Raises SettingError, ModelNotFoundError, CheckpointError, OutOfMemoryError.

        `trust_remote_code` and `use_flash_attn` are accepted and never used: the network and its attention are our own.
        """
        if unknown:
            raise SettingError(_unknown_argument(next(iter(unknown))))
        if use_cache_quantization or use_cache_kernel:
            warnings.warn("use_cache_quantization: the KV cache stays unquantised in this version", stacklevel=2)
        directory = resolve(os.fspath(name_or_path), revision=revision)
        model = load_model(directory, dtype=_dtype((bf16, fp16, fp32), torch_dtype), device=_device(device_map))
        config = SimpleNamespace(**read_json(directory / "config.json"))
        return QWenLMHeadModel(model, config, GenerationConfig.from_pretrained(directory))


def _unknown_argument(name: str) -> str:
    known = [
        "device_map", "trust_remote_code", "bf16", "fp16", "fp32", "torch_dtype", "use_flash_attn",
        "use_cache_quantization", "use_cache_kernel", "revision",
    ]  # fmt: skip
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"from_pretrained does not know the argument {name!r}; {hint}"


def _dtype(flags: tuple[bool, bool, bool], torch_dtype: Dtype | None) -> Dtype:
    chosen = [name for name, flag in zip(_DTYPE_FLAGS, flags, strict=True) if flag]
    if len(chosen) > 1:
        raise SettingError(f"only one of bf16, fp16 and fp32 may be true; got {' and '.join(chosen)}")
    return chosen[0] if chosen else (torch_dtype or "auto")  # type: ignore[return-value]


def _device(device_map: str | None) -> torch.device:
    if device_map is not None and not isinstance(device_map, str):
        raise SettingError(f"device_map is {device_map!r}; it must be 'auto', 'cpu' or one device such as 'cuda:0'")
    return resolve_device(device_map or "cpu")
