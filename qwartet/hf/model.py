"""QWenLMHeadModel: the network as a model of transformers.

Same kernels and same numbers as LLM: in bf16 on a CPU the native library where no gradient is needed, otherwise the
differentiable references. Rows may be padded on either side; a row's padding is not computed, or masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, initialization
from transformers.cache_utils import DynamicCache

from qwartet.errors import RequestError, SettingError
from qwartet.hf.adapters import QwenAdapters
from qwartet.hf.backend import ChoosingBackend
from qwartet.hf.batches import PaddedBatch, Rows, kept_columns, packed_batch, unpacked
from qwartet.hf.chat import QwenChat
from qwartet.hf.config import QWenConfig
from qwartet.hf.generation import QwenGeneration
from qwartet.hf.gptq_linear import LEAVES, GptqLinear
from qwartet.hf.lean_loss import lean_loss
from qwartet.hf.loading import load
from qwartet.hf.network import QWenModel
from qwartet.hf.paged_cache import PagedCache
from qwartet.hf.results import CACHE_NAME, Result
from qwartet.hf.saving import QwenSaving
from qwartet.layers.embedding import Embedding
from qwartet.layers.head import Head
from qwartet.layers.linear import Linear
from qwartet.layers.rms_norm import RMSNorm
from qwartet.models.families import layout_of
from qwartet.quant_format.config import GptqConfig
from qwartet.quant_format.methods import parse_quantization_config

LINEARS_WITH_BIAS = ("attn.c_attn",)


class QWenLMHeadModel(QwenChat, QwenGeneration, QwenSaving, QwenAdapters, PreTrainedModel, GenerationMixin):
    """First-generation Qwen, float or GPTQ."""

    config_class = QWenConfig
    base_model_prefix = "transformer"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ("QWenBlock",)
    _skip_keys_device_placement = ("past_key_values", "cache")
    _supports_sdpa = True  # attention is Qwartet's own, whatever attn_implementation says

    def __init__(
        self, config: QWenConfig, *, file_leaves: dict[str, Sequence[str]] | None = None, place: str = "config.json"
    ) -> None:
        """`file_leaves`: the tensors that a checkpoint has of each linear, by its published name; else the published
        ones. `place` is for errors.
        """
        super().__init__(config)
        network_config = config.network_config()
        self.backend = ChoosingBackend(network_config)
        self.transformer = QWenModel(network_config, self.backend)
        self.lm_head = Head(network_config.hidden_size, network_config.vocab_size, self.backend)
        self.loss_type = "ForCausalLM"
        gptq = None if config.gptq is None else parse_quantization_config(config.gptq, place).as_gptq()
        for spec in layout_of(network_config):
            if spec.kind != "linear":
                continue
            name = spec.disk_name
            leaves = tuple((file_leaves or {}).get(name, self._usual_leaves(name, gptq)))
            parent, _, leaf = name.rpartition(".")
            rows, columns = spec.shape
            linear: nn.Module
            if gptq is None:
                linear = Linear(columns, rows, bias="bias" in leaves, backend=self.backend)
            else:
                linear = GptqLinear(columns, rows, gptq, self.backend, name=name, place=place, leaves=leaves)
            setattr(self.get_submodule(parent), leaf, linear)
        self.post_init()

    def _usual_leaves(self, name: str, gptq: GptqConfig | None) -> tuple[str, ...]:
        if gptq is not None:
            return LEAVES
        has_bias = name.endswith(LINEARS_WITH_BIAS) or not self.config.no_bias
        return ("weight", "bias") if has_bias else ("weight",)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **arguments: Any
    ) -> Any:
        """The model of a directory or a hub id, in eval mode; arguments as in transformers and as published.

        Without a name, and with `config` and `state_dict`, transformers' own loading of a state dict.
        Raises CheckpointError, ModelNotFoundError, OutOfMemoryError, SettingError.
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *model_args, config=config, **arguments)
        return load(cls, pretrained_model_name_or_path, config, arguments)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Nothing: a saved model comes with no code."""

    # What transformers asks of a model

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of token ids."""
        return self.transformer.wte  # type: ignore[no-any-return]

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.transformer.wte = value

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.lm_head = new_embeddings  # type: ignore[assignment]  # an adapter may wrap it

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The published initialisation: N(0, 0.02), output projections / sqrt(2 L), zero biases, unit norms.

        Through transformers' functions, which leave weights from a checkpoint alone.
        """
        std = self.config.initializer_range
        if isinstance(module, RMSNorm):
            initialization.ones_(module.weight)
        elif isinstance(module, Embedding | Linear):
            is_output = any(module in (block.attn.c_proj, block.mlp.c_proj) for block in self.transformer.h)
            scale = (2 * self.config.num_hidden_layers) ** -0.5 if is_output else 1.0
            initialization.normal_(module.weight, 0.0, std * scale)
            if isinstance(module, Linear) and module.bias is not None:
                initialization.zeros_(module.bias)

    @property
    def quantization_method(self) -> str | None:
        """What PEFT's prepare_model_for_kbit_training asks: it leaves the dtypes of a "gptq" model alone."""
        return None if self.config.gptq is None else "gptq"

    def to(self, *args: Any, **arguments: Any) -> Any:
        """As of any module: transformers refuses to cast the GPTQ models of other libraries, whose scales it rounds."""
        return nn.Module.to(self, *args, **arguments)

    @property
    def is_in_one_piece(self) -> bool:
        """Whether all weights are on one device and stay there, with no hooks of accelerate that move them."""
        places = {str(place) for place in (getattr(self, "hf_device_map", None) or {}).values()}
        is_hooked = any("_hf_hook" in module.__dict__ for module in self.transformer.h[0].modules())
        return len(places) <= 1 and "disk" not in places and not is_hooked

    # Forward

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Any = None,
        return_logits: bool = True,
        **loss_arguments: Any,
    ) -> Any:
        """Logits [B, L, V] of ids [B, L] (or [B, K, V] of the last `logits_to_keep` columns), and what else is asked.

        attention_mask [B, past + L] is 0 for padding. Positions follow from columns, as published: position_ids may
        only say the same. `labels` [B, L] add the loss, their shift included; -100 is ignored. `past_key_values` is a
        Cache of transformers, called `cache` by its later versions. token_type_ids have no effect.
        With labels, return_logits=False saves the memory of the logits: the result has only the loss.
        """
        past = past_key_values if cache is None else cache
        self._check(input_ids, inputs_embeds, output_attentions, head_mask)
        given = input_ids if inputs_embeds is None else inputs_embeds
        batch_size, num_new = given.shape[:2]  # type: ignore[union-attr]
        num_past = 0 if past is None else int(past.get_seq_length())
        limit = self.transformer.network_config.position.max_length
        rows = Rows.of(batch_size, num_new, num_past, attention_mask, limit)
        check_positions(position_ids, rows)
        x = self.transformer.wte(input_ids.int()) if inputs_embeds is None else inputs_embeds  # type: ignore[union-attr]
        wants_cache = self.config.use_cache if use_cache is None else use_cache
        if past is None and wants_cache and not self.training:
            past = self._new_cache(x)
        wants_logits = return_logits or labels is None
        kept = kept_columns(num_new, logits_to_keep if wants_logits else 0)
        states: list[Tensor] | None = [] if self._wants_states(output_hidden_states) else None
        values = self._run(x.float(), input_ids, rows, kept, past, states)
        is_padded = past is not None and not isinstance(past, PagedCache)
        is_token = torch.ones_like(rows.new) if is_padded else self._computed(rows, past).new
        logits = unpacked(self.lm_head(values), is_token[:, kept]) if wants_logits else None
        loss = None
        if labels is not None and logits is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **loss_arguments)
        elif labels is not None:
            loss = lean_loss(self.lm_head, values, is_token, labels, **loss_arguments)
        hidden = None
        if states is not None:
            hidden = tuple(unpacked(state.to(self.dtype), is_token) for state in states)
        result = Result(loss=loss, logits=logits, hidden_states=hidden, **{CACHE_NAME: past if wants_cache else None})
        return result if return_dict is not False else result.to_tuple()

    def _check(
        self, input_ids: Tensor | None, embeds: Tensor | None, output_attentions: bool | None, head_mask: Tensor | None
    ) -> None:
        if (input_ids is None) == (embeds is None):
            raise RequestError("pass either input_ids or inputs_embeds")
        if output_attentions or (output_attentions is None and self.config.output_attentions):
            raise SettingError("output_attentions is not supported: attention weights are never stored")
        if head_mask is not None:
            raise SettingError("head_mask is not supported; leave it out")
        if input_ids is not None and input_ids.device.type == "cpu":
            lowest, highest = (int(bound) for bound in input_ids.aminmax()) if input_ids.numel() else (0, 0)
            if lowest < 0 or highest >= self.config.vocab_size:
                bad, last = (lowest if lowest < 0 else highest), self.config.vocab_size - 1
                raise RequestError(f"input_ids contains {bad}; ids go from 0 to {last}", param="input_ids")

    def _wants_states(self, output_hidden_states: bool | None) -> bool:
        return bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)

    def _new_cache(self, x: Tensor) -> Any:
        """The paged cache; where gradients or several devices are involved, one that concatenates."""
        needs_gradient = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.parameters())
        )
        if needs_gradient or not self.is_in_one_piece:
            return DynamicCache(config=self.config)
        return self.paged_cache()

    def paged_cache(self, max_length: int = 0) -> PagedCache:
        """An empty cache of the kernels' own kind, with room for `max_length` tokens; it grows."""
        return PagedCache(self.transformer.network_config, dtype=self.dtype, device=self.device, max_length=max_length)

    def _computed(self, rows: Rows, past: Any) -> Rows:
        """The tokens that the network is run on; a cache must not hold padding, and in training it has no use."""
        return rows.with_trailing_padding() if past is None and not self.training else rows

    def _run(
        self,
        x: Tensor,
        input_ids: Tensor | None,
        rows: Rows,
        kept: Tensor,
        past: Any,
        states: list[Tensor] | None,
    ) -> Tensor:
        """The head's input [R, C] for embedded rows x [B, L, C]; `states` receives the hidden states."""
        network, position = self.transformer, self.transformer.network_config.position
        ids = torch.zeros(x.shape[:2], dtype=torch.int32, device=x.device) if input_ids is None else input_ids
        batch: Any
        store = None
        if past is None:
            slots = rows.ntk_slots(position, self.training)
            rows = self._computed(rows, past)
            batch = packed_batch(ids, rows, slots, position, kept, uses_logn=not self.training)
        elif isinstance(past, PagedCache):
            batch, store = past.batch(ids, rows, kept), past.store
        else:
            batch = PaddedBatch.of(ids, rows, position, kept, past, is_training=self.training)
        packed = x.flatten(0, 1) if isinstance(batch, PaddedBatch) else x[rows.new.to(x.device)]
        if states is not None:
            normed: Tensor = network(packed, replace(batch, logits_index=None), store, states.append)
            states.append(normed)
            return normed if batch.logits_index is None else normed[batch.logits_index]
        executor = past.executor(network) if isinstance(past, PagedCache) and self.is_in_one_piece else None
        return network.blocks(packed, batch, store) if executor is None else executor.run(batch, packed)


def check_positions(position_ids: Tensor | None, rows: Rows) -> None:
    """RequestError unless position_ids [B or 1, L] count columns, or the tokens that are not padding."""
    if position_ids is None:
        return
    given, new = position_ids.cpu(), rows.new
    counted = (rows.is_token.cumsum(1) - 1)[:, rows.past :]
    for expected in (rows.columns, counted):
        if given.shape[-1] == new.shape[1] and bool(((given == expected) | ~new).all()):
            return
    raise RequestError("position_ids differ from the columns; leave them out, and pass an attention_mask for padding")
