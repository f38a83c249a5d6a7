"""The engine: one loop that serves many requests.

schedule -> build batch -> run -> sample -> commit -> outputs
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import torch

from qwartet.engine.batch import build_forward_batch
from qwartet.engine.block_manager import BlockManager
from qwartet.engine.request import FinishReason, LogitsProcessor, Request
from qwartet.engine.runner import ModelRunner
from qwartet.engine.sampler import Sampler, takes_largest_logit
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.scheduler import Schedule, Scheduler
from qwartet.errors import ContextWarning, OutOfMemoryError, RequestError, SettingError
from qwartet.kernels.cache_layer import CacheDtype
from qwartet.layers.kv_cache import choose_cache_dtype, kv_bytes_per_token
from qwartet.models.plan import available_bytes
from qwartet.models.qwen import QwenModel

BLOCK_SIZE = 16  # tokens
KV_CACHE_MEMORY_FRACTION = 0.5  # of the memory that is free once the weights are there


@dataclass(frozen=True)
class StepOutput:
    """A token that a step added to a request."""

    request: Request
    token_id: int
    finish_reason: FinishReason | None


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SettingError(f"{name} is {value}; here it must lie in {low}..{high}")


def _affordable_blocks(model: QwenModel, cache_dtype: CacheDtype) -> int:
    """Cache blocks that the free memory of the model's device allows."""
    config = model.config
    token_bytes = kv_bytes_per_token(config.num_layers, config.num_kv_heads, config.head_dim, cache_dtype)
    return int(available_bytes(model.device) * KV_CACHE_MEMORY_FRACTION) // (BLOCK_SIZE * token_bytes)


class Engine:
    """Serves requests on one model."""

    def __init__(
        self,
        model: QwenModel,
        *,
        max_model_len: int | None = None,
        max_num_seqs: int = 16,
        max_num_batched_tokens: int = 2048,
        num_blocks: int | None = None,
        num_valid_tokens: int | None = None,
        kv_cache_dtype: str = "auto",
    ) -> None:
        """`max_model_len`: longest request; None: the model's own, or what fits. `num_blocks`: blocks of the KV cache;
        None: as many as are of use and fit. `num_valid_tokens`: see Sampler. `kv_cache_dtype`: "auto" is the model's;
        "int8" takes half of the memory of bf16 and "int4" a quarter, with a scale for each head of each token.

        SettingError for a setting out of bounds, OutOfMemoryError when not one request of max_model_len would fit.
        """
        self.position_config = model.config.position
        full_length = self.position_config.max_length
        cache_dtype = choose_cache_dtype(kv_cache_dtype, model.dtype)
        affordable = _affordable_blocks(model, cache_dtype)
        self.max_model_len = self._fitting_length(affordable) if max_model_len is None else max_model_len
        _check("max_model_len", self.max_model_len, 2, full_length)
        _check("max_num_seqs", max_num_seqs, 1, 2**16)
        _check("max_num_batched_tokens", max_num_batched_tokens, 1, 2**24)
        blocks_per_request = -(-self.max_model_len // BLOCK_SIZE)
        if num_blocks is None:
            if affordable < blocks_per_request:
                raise OutOfMemoryError(
                    f"the KV cache of a request of {self.max_model_len} tokens does not fit the free memory; set "
                    f"max_model_len to {affordable * BLOCK_SIZE} or less"
                )
            num_blocks = min(blocks_per_request * max_num_seqs, affordable)
        _check("num_blocks", num_blocks, blocks_per_request, 2**31)
        self.block_manager = BlockManager(num_blocks, BLOCK_SIZE)
        self.scheduler = Scheduler(
            self.block_manager, max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=max_num_seqs
        )
        self.runner = ModelRunner(model, num_blocks, BLOCK_SIZE, cache_dtype)
        self.sampler = Sampler(num_valid_tokens)
        self._ids = count()

    def _fitting_length(self, affordable_blocks: int) -> int:
        """The model's own context, or as much of it as the memory allows, with a ContextWarning."""
        full_length, fitting = self.position_config.max_length, affordable_blocks * BLOCK_SIZE
        if fitting < full_length:
            message = (
                f"the context is {fitting} tokens instead of {full_length}: the KV cache takes the memory there is"
            )
            warnings.warn(message, ContextWarning, stacklevel=4)
        return min(full_length, fitting)

    def add_request(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        stop_token_ids: Sequence[int] = (),
        first_position: int = 0,
        logits_processors: tuple[LogitsProcessor, ...] = (),
    ) -> Request:
        """Queues a prompt; RequestError when it is empty, too long, or has ids outside the vocabulary."""
        self._check_prompt(prompt_ids, first_position)
        room = self.max_model_len - first_position - len(prompt_ids)
        stops = () if params.ignore_eos else stop_token_ids
        request = Request(
            request_id=next(self._ids),
            prompt_ids=list(prompt_ids),
            params=params.updated({"max_tokens": min(params.max_tokens, room)}),
            stop_token_ids=frozenset(stops).union(params.stop_token_ids),
            alpha_slot=self.position_config.alpha_slot(len(prompt_ids)),
            first_position=first_position,
            logits_processors=logits_processors,
        )
        self.scheduler.add(request)
        return request

    def _check_prompt(self, prompt_ids: Sequence[int], first_position: int) -> None:
        if not prompt_ids:
            raise RequestError("the prompt is empty; give at least one token")
        length = first_position + len(prompt_ids)
        if length >= self.max_model_len:
            raise RequestError(f"the prompt has {length} tokens, the context {self.max_model_len}; shorten the prompt")
        vocab_size = self.runner.model.config.vocab_size
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
            raise RequestError(f"the prompt has ids outside 0..{vocab_size - 1}; is this the model's tokenizer?")

    @property
    def has_unfinished(self) -> bool:
        return self.scheduler.has_unfinished

    @torch.inference_mode()
    def step(self) -> list[StepOutput]:
        """Computes one batch; returns the tokens that it added."""
        schedule = self.scheduler.schedule()
        assert schedule.scheduled, "a step without work: call it only while has_unfinished"
        batch = build_forward_batch(schedule, BLOCK_SIZE, self.position_config, self.runner.model.device)
        hidden = self.runner.run(batch)
        requests = [item.request for item in schedule.scheduled if item.needs_logits]
        return self._commit(schedule, requests, self._next_tokens(hidden, requests))

    def _next_tokens(self, hidden: torch.Tensor, requests: list[Request]) -> list[int]:
        """A token for each request from its hidden state; where all ask for the most probable one, without logits."""
        head = self.runner.model.lm_head
        if all(map(takes_largest_logit, requests)):
            return head.argmax(hidden, self.sampler.num_valid_tokens or head.weight.shape[0])
        return self.sampler.sample(head(hidden), requests)

    def _commit(self, schedule: Schedule, requests: list[Request], token_ids: list[int]) -> list[StepOutput]:
        for item in schedule.scheduled:
            item.request.num_computed_tokens += item.num_scheduled_tokens
        outputs = []
        for request, token_id in zip(requests, token_ids, strict=True):
            request.append(token_id)
            outputs.append(StepOutput(request, token_id, request.finish_reason))
            if request.is_finished:
                self._forget(request)
        return outputs

    def finish(self, request: Request, reason: FinishReason = "abort") -> None:
        """Ends a request before the model does; its blocks are free at once."""
        if not request.is_finished:
            request.finish_reason = reason
            self._forget(request)

    def _forget(self, request: Request) -> None:
        self.scheduler.finish(request)
        self.sampler.forget(request)
