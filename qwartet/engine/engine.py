"""The engine: one loop that serves many requests.

schedule -> draft -> build batch -> run -> sample -> commit -> outputs
"""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count, pairwise
from threading import Lock, RLock
from typing import TYPE_CHECKING
from weakref import ReferenceType, ref

import torch

from qwartet.engine.batch import build_forward_batch, step_span
from qwartet.engine.block_manager import BlockManager, BlockTable, prefix_root
from qwartet.engine.chunk_limiter import ChunkLimiter
from qwartet.engine.draft_model import DraftModel
from qwartet.engine.engine_config import CPU_BATCHED_TOKENS, GPU_BATCHED_TOKENS, EngineConfig
from qwartet.engine.gumbel import child_seed
from qwartet.engine.memory_errors import in_our_words
from qwartet.engine.request import NO_OPTIONS, FinishReason, Request, RequestOptions, TokenConstraint, TokenLogprobs
from qwartet.engine.runner import ModelRunner
from qwartet.engine.sampler import Sampled, Sampler
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.scheduler import Schedule, Scheduler
from qwartet.engine.speculate import NoDrafts, PromptLookup, Speculation
from qwartet.engine.step_stats import StepStats
from qwartet.engine.structure import Structure
from qwartet.errors import (
    ContextWarning,
    EngineFailedError,
    OutOfMemoryError,
    RequestError,
    SettingError,
    is_out_of_memory,
)
from qwartet.kernels.device_memory import available_bytes
from qwartet.layers.kv_cache import BLOCK_SIZE, choose_cache_dtype, kv_bytes_per_token
from qwartet.models.adapters import ResidentAdapters
from qwartet.models.qwen import QwenModel
from qwartet.tokenizer.stream import TextStream
from qwartet.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from qwartet.engine.constrain import ConstraintCompiler

NO_LIMIT = 2**31  # tokens
KV_CACHE_MEMORY_FRACTION = 0.8  # of the memory that is free once the weights are loaded; a step needs some too


@dataclass(frozen=True)
class StepOutput:
    """What a step added to a request."""

    request: Request
    token_ids: list[int]
    text: str = ""  # text that became final; empty without a tokenizer
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None


class Engine:
    """Serves requests on one model, for one thread at a time; engine_thread.py serves any number.

    RuntimeError while another thread is using it.
    """

    def __init__(
        self,
        model: QwenModel,
        config: EngineConfig | None = None,
        *,
        tokenizer: Tokenizer | None = None,
        num_valid_tokens: int | None = None,
        draft_model: QwenModel | None = None,
        adapters: ResidentAdapters | None = None,
    ) -> None:
        """`tokenizer` makes the text; without one there are only ids. `num_valid_tokens`: see Sampler; defaults to the
        tokenizer's number. `draft_model`: a smaller one with the same vocabulary, for speculative decoding.
        `adapters`: those beside the model.

        SettingError for a setting out of bounds, OutOfMemoryError when not even one request of max_model_len fits.
        """
        config = EngineConfig() if config is None else config
        self.position_config = model.config.position
        self.adapters = ResidentAdapters() if adapters is None else adapters
        models = [model] if draft_model is None else [model, draft_model]
        affordable = _affordable_blocks(models, config.kv_cache_dtype)
        self.max_model_len = _choose_length(self.position_config.max_length, config.max_model_len, affordable)
        num_blocks = _choose_blocks(self.max_model_len, config, affordable)
        budget = config.max_num_batched_tokens
        if budget is None:
            budget = CPU_BATCHED_TOKENS if model.device.type == "cpu" else GPU_BATCHED_TOKENS
        self.tokenizer = tokenizer
        if num_valid_tokens is None and tokenizer is not None:
            num_valid_tokens = tokenizer.num_tokens
        runners = [
            ModelRunner(one, num_blocks, BLOCK_SIZE, choose_cache_dtype(config.kv_cache_dtype, one.dtype))
            for one in models
        ]
        self.runner = runners[0]
        self.sampler = Sampler(model.lm_head, num_valid_tokens, () if tokenizer is None else _gaps(tokenizer))
        self.speculation = _speculation(config, runners[1:], self.sampler.num_valid_tokens, budget)
        self.block_manager = BlockManager(num_blocks, BLOCK_SIZE)
        self.chunk_limiter = ChunkLimiter(config.max_stall_s)
        self.scheduler = Scheduler(
            self.block_manager,
            max_num_batched_tokens=budget,
            max_num_seqs=config.max_num_seqs,
            num_drafts_wanted=partial(_num_drafts_wanted, ref(self)),  # a cycle would keep the model until collected
            chunk_beside_decodes=self.chunk_limiter.chunk,
        )
        self.observers: list[Callable[[StepStats], object]] = [self.chunk_limiter.observe, self.speculation.observe]
        self.enable_prefix_caching = config.enable_prefix_caching
        self.failure: Exception | None = None  # of a step: nothing is served after it
        self._ids = count()
        self._compiler: ConstraintCompiler | None = None
        self._compiler_lock = Lock()
        self.renew_owner()

    @contextmanager
    def owned(self, *, wait: bool = False) -> Iterator[None]:
        """Within, no other thread adds, steps or finishes; `wait` waits for a thread that does."""
        if not self._owner.acquire(blocking=wait):
            raise RuntimeError("another thread is using this engine; go through LLM or AsyncEngine")
        try:
            yield
        finally:
            self._owner.release()

    def renew_owner(self) -> None:
        """Resets the owner, whose thread a forked child does not have."""
        self._owner = RLock()

    def add_request(
        self, prompt_ids: Sequence[int], params: SamplingParams, options: RequestOptions = NO_OPTIONS
    ) -> Request:
        """Queues a prompt for one completion, whatever params.n is.

        RequestError when the prompt is empty, too long, or has ids outside the vocabulary; SettingError for an
        unsupported setting.
        """
        with self.owned():
            request = self._new_request(prompt_ids, params, options)
            self.scheduler.add(request)
        return request

    def _new_request(self, prompt_ids: Sequence[int], params: SamplingParams, options: RequestOptions) -> Request:
        self.check(prompt_ids, params, options.first_position)
        room = min(self.max_model_len - options.first_position, params.max_length or NO_LIMIT) - len(prompt_ids)
        stops = stop_ids(params, options.stop_token_ids)
        constraint = options.constraint
        if constraint is None and params.structure is not None:
            constraint = self.compile(params.structure, stops)
        request_id = next(self._ids)
        salt = options.cache_salt if self.enable_prefix_caching else f"request {request_id}"
        alpha_slot = self.position_config.alpha_slot(len(prompt_ids))
        adapter = self.adapters.number(params.adapter)
        root = prefix_root(salt.encode(errors="surrogatepass"), alpha_slot, options.first_position, adapter)
        return Request(
            request_id=request_id,
            prompt_ids=list(prompt_ids),
            params=params if params.max_tokens <= room else params.updated({"max_tokens": room}),
            seed=secrets.randbits(63) if params.seed is None else params.seed,
            stop_token_ids=stops,
            first_position=options.first_position,
            table=BlockTable(root),
            logits_processors=options.logits_processors,
            constraint=constraint,
            speculates=options.speculates,
            logprob_token_ids=options.logprob_token_ids,
            adapter=adapter,
            prompt_logprobs=[None] * max(options.prompt_logprobs_from, 1),
            text_stream=None
            if self.tokenizer is None
            else TextStream(self.tokenizer, params.stop, thinking=options.thinking),
        )

    def add_requests(
        self, prompt_ids: Sequence[int], params: SamplingParams, options: RequestOptions = NO_OPTIONS
    ) -> list[Request]:
        """Queues a prompt for params.n completions; the first computes the prompt, the others find it in the cache.

        On any error none of them is queued.
        """
        with self.owned():
            try:
                family = self._family(prompt_ids, params, options)
            except MemoryError as error:
                raise in_our_words(error, f"queueing a prompt of {len(prompt_ids)} tokens") from error
            for request in family:
                self.scheduler.add(request)
        return family

    def _family(self, prompt_ids: Sequence[int], params: SamplingParams, options: RequestOptions) -> list[Request]:
        parent = self._new_request(prompt_ids, params, options)
        children = []
        for index in range(1, params.n):
            constraint = None if parent.constraint is None else parent.constraint.fork()
            plain = replace(params, structure=None)
            child = self._new_request(prompt_ids, plain, replace(options, constraint=constraint))
            child.parent, child.prompt_logprobs = parent, parent.prompt_logprobs
            child.seed, child.table.root = child_seed(parent.seed, index), parent.table.root
            children.append(child)
        parent.children = list(children)
        return [parent, *children]

    def check(self, prompt_ids: Sequence[int], params: SamplingParams, first_position: int = 0) -> None:
        """Raises the errors of add_request; any thread may call it."""
        self.raise_failure()
        self._check_prompt(prompt_ids, first_position)
        self._check_params(params)
        if params.max_length is not None and len(prompt_ids) >= params.max_length:
            message = f"max_length is {params.max_length}, but the prompt alone has {len(prompt_ids)} tokens"
            raise RequestError(f"{message}; use max_tokens, which counts the completion only")

    def compile(self, structure: Structure, stop_token_ids: frozenset[int]) -> TokenConstraint:
        """Compiles a structure to a constraint, in any thread. RequestError if it is ill-formed or too large."""
        if self.tokenizer is None:
            raise SettingError(
                "a structure needs the model's tokenizer; copy qwen.tiktoken into its directory", param="structure"
            )
        with self._compiler_lock:
            if self._compiler is None:
                from qwartet.engine.constrain import ConstraintCompiler  # loads a library that most runs do not need

                self._compiler = ConstraintCompiler(self.tokenizer, self.runner.model.config.vocab_size)
        try:
            return self._compiler.compile(structure, stop_token_ids)
        except MemoryError as error:
            raise in_our_words(error, "compiling a structure") from error

    @property
    def has_unfinished(self) -> bool:
        return self.scheduler.has_unfinished

    def step(self) -> list[StepOutput]:
        """Computes one batch; returns what it added. EngineFailedError after an error in an earlier step."""
        self.raise_failure()
        assert self.has_unfinished, "a step without work; call step only while has_unfinished"
        with self.owned():
            try:
                return self._step()
            except Exception as error:
                self.failure = error
                raise

    @torch.inference_mode()
    def _step(self) -> list[StepOutput]:
        moments = [time.perf_counter()]
        schedule = self.scheduler.schedule()
        moments.append(time.perf_counter())
        try:
            self.speculation.propose(schedule.scheduled)
            moments.append(time.perf_counter())
            spans = [step_span(item) for item in schedule.scheduled]
            batch = build_forward_batch(spans, BLOCK_SIZE, self.position_config, self.runner.model.device)
            hidden = self.runner.run(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return [self._give_up(schedule, error)]
        moments.append(time.perf_counter())
        sampled = self.sampler.sample(hidden, schedule.scheduled)
        moments.append(time.perf_counter())
        num_decode_tokens = sum(item.num_scheduled_tokens for item in schedule.scheduled if item.request.is_decoding)
        num_drafted = sum(len(result.request.draft_ids) for result in sampled)
        num_accepted = sum(
            self.speculation.judge(result.request, 0 if result.error else len(result.token_ids)) for result in sampled
        )
        outputs = self._commit(schedule, sampled)
        moments.append(time.perf_counter())
        schedule_s, draft_s, forward_s, sample_s, commit_s = (end - start for start, end in pairwise(moments))
        stats = StepStats(
            num_requests=len(schedule.scheduled),
            num_prompt_tokens=sum(item.num_scheduled_tokens for item in schedule.scheduled) - num_decode_tokens,
            num_decode_tokens=num_decode_tokens,
            num_drafted=num_drafted,
            num_accepted=num_accepted,
            num_new_tokens=sum(len(output.token_ids) for output in outputs),
            schedule_s=schedule_s, draft_s=draft_s, forward_s=forward_s, sample_s=sample_s, commit_s=commit_s,
        )  # fmt: skip
        for observe in self.observers:
            observe(stats)
        return outputs

    def _give_up(self, schedule: Schedule, error: Exception) -> StepOutput:
        """Ends the request with the most tokens in a step that ran out of memory.

        Nothing was committed, so the next step recomputes the others' part.
        """
        largest = max(schedule.scheduled, key=lambda item: (item.num_scheduled_tokens, *item.request.order))
        request = largest.request
        what = f"computing {largest.num_scheduled_tokens} tokens of request {request.request_id}"
        self.finish(request, "error")
        request.error = in_our_words(error, what)
        return StepOutput(request, [], finish_reason="error")

    def _commit(self, schedule: Schedule, sampled: list[Sampled]) -> list[StepOutput]:
        for item in schedule.scheduled:
            item.request.table.num_computed_tokens += item.num_scheduled_tokens
        outputs = [self._commit_tokens(result) for result in sampled]
        for item in schedule.scheduled:
            request = item.request
            if request.finish_reason != "error":  # its blocks may hold garbage
                self.block_manager.publish(request.table, request.token_ids)
            if request.is_finished:
                self._release(request)
        return outputs

    def _commit_tokens(self, result: Sampled) -> StepOutput:
        """Adds the tokens of one request up to its end; accepted drafts are already computed."""
        request = result.request
        request.draft_ids = []
        if result.error is not None:
            what = f"choosing token {request.num_tokens} of request {request.request_id}"
            request.error, request.finish_reason = in_our_words(result.error, what), "error"
            return StepOutput(request, [], finish_reason="error")
        num_before, text = len(request.completion_ids), ""
        for token_id in result.token_ids:
            text += request.append(token_id)
            if request.is_finished:
                break
        new_ids = request.completion_ids[num_before:]
        is_complete = request.constraint is not None and request.constraint.is_finished
        if is_complete and request.finish_reason != "stop":  # a stop may precede tokens that were sampled after it
            text += request.complete()
        request.table.num_computed_tokens += len(new_ids) - 1
        logprobs = result.logprobs[: len(new_ids)]
        request.logprobs += logprobs
        return StepOutput(request, new_ids, text, tuple(logprobs), request.finish_reason)

    def finish(self, request: Request, reason: FinishReason = "abort") -> None:
        """Ends a request before the model does; its blocks are free at once."""
        with self.owned():
            if not request.is_finished:
                request.finish_reason = reason
                self._release(request)

    def forget_prefixes(self) -> None:
        """Empties the prefix cache: what ended requests have computed is not found again."""
        with self.owned():
            self.block_manager.forget_free()

    def _release(self, request: Request) -> None:
        request.leave_children()
        self.scheduler.finish(request)
        self.sampler.release(request)
        self.speculation.release(request)

    def raise_failure(self) -> None:
        """Raises EngineFailedError if a step has failed."""
        if self.failure is not None:
            raise self.failure_error()

    def failure_error(self) -> EngineFailedError:
        """The error of every call after a step has failed."""
        error = EngineFailedError(f"the engine stopped after an error: {self.failure}; load the model again")
        error.__cause__ = self.failure
        return error

    def _check_prompt(self, prompt_ids: Sequence[int], first_position: int) -> None:
        length = first_position + len(prompt_ids)
        check_length(length, self.max_model_len - 1, self.max_model_len)
        check_ids(prompt_ids, self.runner.model.config.vocab_size)

    def _check_params(self, params: SamplingParams) -> None:
        self.adapters.number(params.adapter)
        if params.stop and self.tokenizer is None:
            raise SettingError("stop strings need the model's tokenizer; use stop_token_ids", param="stop")
        if not params.names_tokens:
            return
        named: dict[str, Iterable[int]] = {
            "logit_bias": (token_id for token_id, _ in params.logit_bias),
            "bad_words_ids": chain(*params.bad_words_ids),
            "suppress_tokens": params.suppress_tokens,
            "begin_suppress_tokens": params.begin_suppress_tokens,
        }
        for name, token_ids in named.items():
            # Ids that can never be chosen are forbidden anyway, so padding rows may be listed.
            most = self.sampler.num_valid_tokens if name == "logit_bias" else self.runner.model.config.vocab_size
            if (largest := max(token_ids, default=0)) >= most:
                raise SettingError(f"{name} has token {largest}, but the vocabulary has {most} tokens", param=name)


def _gaps(tokenizer: Tokenizer) -> list[int]:
    """The ids below the largest that no token has, as before an extra vocabulary that does not start at the first free
    one.
    """
    texts, special = tokenizer.text_ids, tokenizer.special_tokens.values()
    if len(texts) + len(special) == tokenizer.num_tokens:
        return []
    return sorted(set(range(tokenizer.num_tokens)).difference(texts, special))


def _num_drafts_wanted(owner: ReferenceType[Engine], request: Request) -> int:
    engine = owner()
    assert engine is not None, "only the engine's steps ask its scheduler"
    return engine.speculation.num_wanted(request, len(engine.scheduler.running)) if request.speculates else 0


def stop_ids(params: SamplingParams, stop_token_ids: Sequence[int]) -> frozenset[int]:
    """The ids that end a request: the model's own, unless it ignores them, and those it sets."""
    return frozenset(() if params.ignore_eos else stop_token_ids).union(params.stop_token_ids)


def check_length(length: int, most: int, context: int) -> None:
    """RequestError for a prompt of more than `most` tokens."""
    if length > most:
        raise RequestError(f"the prompt has {length} tokens, but the context is {context}; shorten the prompt")


def check_ids(prompt_ids: Sequence[int], vocab_size: int) -> None:
    """RequestError for a prompt that is empty, or has ids outside the vocabulary."""
    if not prompt_ids:
        raise RequestError("the prompt is empty; pass at least one token")
    if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocab_size:
        raise RequestError(f"the prompt has ids outside 0..{vocab_size - 1}; is this the model's tokenizer?")


def _affordable_blocks(models: list[QwenModel], kv_cache_dtype: str) -> int:
    """Cache blocks, of all models together, that the free memory of their device allows."""
    token_bytes = 0
    for model in models:
        config, dtype = model.config, choose_cache_dtype(kv_cache_dtype, model.dtype)
        token_bytes += kv_bytes_per_token(config.num_layers, config.num_kv_heads, config.head_dim, dtype)
    return int(available_bytes(models[0].device) * KV_CACHE_MEMORY_FRACTION) // (BLOCK_SIZE * token_bytes)


def _choose_length(full_length: int, asked: int | None, affordable_blocks: int) -> int:
    """The requested context; else the model's own, or as much of it as fits in memory, with a ContextWarning."""
    if asked is not None:
        if not 2 <= asked <= full_length:
            raise SettingError(f"max_model_len is {asked}; with this model it must be between 2 and {full_length}")
        return asked
    fitting = affordable_blocks * BLOCK_SIZE
    if fitting < full_length:
        message = f"the context is {fitting} tokens instead of {full_length}: a larger KV cache does not fit in memory"
        warnings.warn(message, ContextWarning, stacklevel=4)
    return min(full_length, fitting)


def _choose_blocks(max_model_len: int, config: EngineConfig, affordable: int) -> int:
    """The requested blocks, or as many as are useful and fit."""
    of_a_request = -(-max_model_len // BLOCK_SIZE)
    if config.num_blocks is None:
        if affordable < of_a_request or max_model_len < 2:
            raise OutOfMemoryError(
                f"the KV cache of a request of {max_model_len} tokens does not fit in the free memory; set "
                f"max_model_len to {affordable * BLOCK_SIZE} or less"
            )
        return min(of_a_request * config.max_num_seqs, affordable)
    if config.num_blocks < of_a_request:
        raise SettingError(
            f"num_blocks is {config.num_blocks}, but a request of {max_model_len} tokens needs {of_a_request}; "
            "set max_model_len lower or num_blocks higher"
        )
    return config.num_blocks


def _speculation(
    config: EngineConfig, draft_runners: list[ModelRunner], num_valid_tokens: int, budget: int
) -> Speculation:
    if config.speculation == "off":
        return Speculation(NoDrafts())
    if not draft_runners:
        return Speculation(PromptLookup())
    runner = draft_runners[0]
    if runner.model.config.vocab_size < num_valid_tokens:
        raise SettingError(
            f"the draft model has {runner.model.config.vocab_size} tokens, but the model has {num_valid_tokens}; "
            "use one with the same vocabulary"
        )
    return Speculation(DraftModel(runner, num_valid_tokens, budget))
