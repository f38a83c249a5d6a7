"""What random schedules are made of: tiny networks, prompts with common beginnings, and the right answers to them.

    world                   network                          the right answer is that of
    fp32                    reference kernels                the naive model
    fp32-int8, fp32-int4    the same, cache quantised        the naive model, keys and values quantised alike
    bf16                    reference kernels                the naive model in fp32, up to the first near tie
    native, -int8, -int4    Int4 weights, native kernels     the engine alone: a row's bits do not depend on the batch

Of each answer as many tokens are certain as come before the first whose two best scores are nearer than the world's
margin: from there on another order of additions may go another way. (test_schedules.py holds the answers of the native
worlds to the naive model in the same way.)
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qwartet.engine.engine import BLOCK_SIZE, Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.gumbel import child_seed
from qwartet.engine.sampling_params import SamplingParams
from qwartet.kernels.cache_layer import decode_heads, encode_heads
from qwartet.kernels.cpu import library as native
from qwartet.models.load import load_model
from qwartet.models.qwen import QwenModel
from tests.reference import naive_sampling
from tests.reference.naive_model import Config, Stored, Weights, naive_logits, read_checkpoint
from tests.reference.tiny_model import CONFIG, tiny_network, tiny_weights
from tests.tiny_checkpoint import NUM_RANKS, write_tiny_checkpoint

CONTEXT = CONFIG["max_position_embeddings"]
TRAIN_LENGTH = CONFIG["seq_length"]
NUM_TOKENS = 20  # of an answer at most
NUM_FEW = 4  # tokens of a vocabulary so small that prompt lookup is often right

DRAFTS = ("same", "near", "other")
"""Draft models: the network itself, one with a little noise, one that knows nothing and has a shorter context."""
_NOISE = 0.01

KINDS: dict[str, SamplingParams] = {
    "greedy": SamplingParams(temperature=0),
    "few": SamplingParams(temperature=0, logit_bias=tuple((token_id, 50.0) for token_id in range(10, 14))),
    "penalised": SamplingParams(
        temperature=0, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2, logit_bias=((5, 2.0),)
    ),
    "sampled": SamplingParams(temperature=0.9, top_p=0.9, seed=7),
}


@dataclass(frozen=True, eq=False)
class World:
    """A network, what a cache makes of its keys and values, and how it is compared."""

    name: str
    network: QwenModel
    drafts: Mapping[str, QwenModel]
    config: Config
    weights: Weights
    kv_cache_dtype: str
    margin: float  # between the best two scores, from which on rounding cannot change the order
    num_ids: int  # of which prompts are made

    @property
    def is_native(self) -> bool:
        return self.name.startswith("native")

    @property
    def stored(self) -> Stored | None:
        return _quantised({"auto": None, "int8": 8, "int4": 4}[self.kv_cache_dtype])


@dataclass(frozen=True)
class Answer:
    """What must follow a prompt."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    num_certain: int


Prompt = tuple[int, ...]


def _quantised(bits: int | None) -> Stored | None:
    return None if bits is None else lambda heads: decode_heads(*encode_heads(heads, bits), bits)


def _noisy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(99)
    return {name: x + _NOISE * torch.randn(x.shape, generator=generator) for name, x in weights.items()}


def _reference_world(name: str, kind: str, margin: float, dtype: torch.dtype = torch.float32, **changes: Any) -> World:
    weights = {key: value.to(dtype).float() for key, value in tiny_weights(**changes).items()}
    other = changes | {"num_hidden_layers": 1, "max_position_embeddings": 64, "seq_length": 16}
    drafts = {
        "same": tiny_network(weights, **changes),
        "near": tiny_network(_noisy(weights), **changes),
        "other": tiny_network(tiny_weights(seed=1, **other), **other),
    }
    drafts = {key: draft.to(dtype) for key, draft in drafts.items()}
    config = CONFIG | changes
    return World(name, drafts["same"], drafts, config, weights, kind, margin, config["vocab_size"])


@cache
def _native_network(seed: int) -> tuple[QwenModel, Config, Weights]:
    """A tiny Int4 checkpoint with the lengths of the tiny model: NTK and LogN begin within a few tokens."""
    with tempfile.TemporaryDirectory(prefix="qwartet-world-") as folder:
        directory = write_tiny_checkpoint(Path(folder) / "model", seed=seed, bits=4)
        path = directory / "config.json"
        lengths = {name: CONFIG[name] for name in ("seq_length", "max_position_embeddings")}
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | lengths), encoding="utf-8")
        network = load_model(directory, dtype="bf16", device="cpu", load_mode="pread", weight_cache=False)
        return network, *read_checkpoint(directory)


def _native_world(name: str, kind: str, margin: float) -> World:
    network, config, weights = _native_network(0)
    drafts = {"same": network, "other": _native_network(1)[0]}
    return World(name, network, drafts, config, weights, kind, margin, NUM_RANKS)


_ONE_HEAD = {"num_attention_heads": 1, "kv_channels": 32}  # heads that suit an int4 cache

# Margins are at least twice what two computations were seen to differ by: 1e-5 in fp32, 6e-4 where a code of an int8
# cache fell on the other side; bf16 and quantised weights with 8-bit activations are compared as the goldens are.
_WORLDS: dict[str, Callable[[], World]] = {
    "fp32": lambda: _reference_world("fp32", "auto", 1e-3),
    "fp32-int8": lambda: _reference_world("fp32-int8", "int8", 0.02),
    "fp32-int4": lambda: _reference_world("fp32-int4", "int4", 0.1, **_ONE_HEAD),
    "bf16": lambda: _reference_world("bf16", "auto", 0.5, torch.bfloat16),
    "native": lambda: _native_world("native", "auto", 0.3),
    "native-int8": lambda: _native_world("native-int8", "int8", 0.3),
    "native-int4": lambda: _native_world("native-int4", "int4", 1.0),
}
NAMES = tuple(name for name in _WORLDS if native.native_library() is not None or not name.startswith("native"))


def available(name: str) -> str:
    """This world, or the one of reference kernels in its place where there is no native library."""
    return name if name in NAMES else name.replace("native", "fp32")


@cache
def world(name: str) -> World:
    """The world of this name, made when it is first asked for."""
    return _WORLDS[name]()


@cache
def prompts(name: str) -> tuple[Prompt, ...]:
    """The prompts of a world: of lengths round the borders of a block (16), of NTK (24, 48) and of the context (96).

    Some are beginnings of others, some part from one another within a block or behind one, some repeat themselves, some
    hold another one's answer, as the next turn of a conversation does.
    """
    generator = torch.Generator().manual_seed(200)

    def fresh(length: int) -> Prompt:
        return tuple(torch.randint(world(name).num_ids, (length,), generator=generator).tolist())

    alone = [fresh(length) for length in (1, 2, 15, 16, 25, 49)]
    stem = fresh(95)
    beginnings = [stem[:length] for length in (17, 24, 33, 40, 48, 64, 65, 81, 95)]
    parting = [stem[:same] + fresh(own) for same, own in ((16, 7), (20, 4), (32, 8), (47, 1), (48, 16), (64, 26))]
    repeating = [(fresh(period) * length)[:length] for period, length in ((3, 22), (5, 44), (1, 30), (7, 70))]
    few = [tuple(token % NUM_FEW for token in fresh(length)) for length in (20, 40, 60)]
    turns = []
    for before in (stem[:33], stem[:64], few[1]):
        answered = before + answer(name, before, "greedy").token_ids[:12]
        turns += [answered[: len(before) + 8], answered + fresh(3)]
    return tuple(alone + beginnings + parting + repeating + few + turns)


@cache
def answer(name: str, prompt: Prompt, kind: str, child: int = 0, num_valid: int | None = None) -> Answer:
    """The right answer of a world to a prompt: NUM_TOKENS tokens, or up to the end of the context."""
    params, here = KINDS[kind], world(name)
    if params.seed is not None:
        params = replace(params, seed=child_seed(params.seed, child))
    num_tokens = min(NUM_TOKENS, CONTEXT - len(prompt))
    if here.is_native:
        params = replace(params, max_tokens=num_tokens)
        told = _alone(here, prompt, replace(params, logprobs=0), num_valid)
        plain = _alone(here, prompt, params, num_valid) if kind == "greedy" else told  # it needs no logits
        return Answer(tuple(plain.completion_ids), tuple(one.logprob for one in told.logprobs), num_tokens)
    return _naive_answer(here, prompt, params, num_valid, num_tokens)


def _alone(here: World, prompt: Prompt, params: SamplingParams, num_valid: int | None) -> Any:
    """A request that has an engine for itself, whose prompt is computed at once and nothing is drafted."""
    config = EngineConfig(
        max_num_seqs=1, kv_cache_dtype=here.kv_cache_dtype, enable_prefix_caching=False, speculation="off"
    )
    engine = Engine(here.network, config, num_valid_tokens=num_valid)
    request = engine.add_request(prompt, params)
    while engine.has_unfinished:
        engine.step()
    return request


@torch.no_grad()
def _naive_answer(
    here: World, prompt: Prompt, params: SamplingParams, num_valid: int | None, num_tokens: int
) -> Answer:
    """The naive model's answer: all is computed again for every token."""
    token_ids: list[int] = []
    logprobs, num_certain = [], num_tokens
    for place in range(num_tokens):
        ids = [*prompt, *token_ids]
        logits = naive_logits(here.config, here.weights, ids, prompt_length=len(prompt), stored=here.stored)
        logits = logits[-1, :num_valid]
        token_id, margin = _choose(_processed(logits, prompt, token_ids, params), params, place)
        token_ids.append(token_id)
        logprobs.append(float(logits.log_softmax(-1)[token_id]))
        if margin < here.margin:
            num_certain = min(num_certain, place)
    return Answer(tuple(token_ids), tuple(logprobs), num_certain)


def _processed(logits: Tensor, prompt: Prompt, completion: list[int], params: SamplingParams) -> Tensor:
    """Penalties and biases, id by id."""
    scores = dict(enumerate(logits.tolist()))
    for token_id in {*prompt, *completion} & scores.keys():
        factor = params.repetition_penalty
        scores[token_id] = scores[token_id] / factor if scores[token_id] > 0 else scores[token_id] * factor
    for token_id in completion:
        scores[token_id] -= params.frequency_penalty
    for token_id in set(completion):
        scores[token_id] -= params.presence_penalty
    for token_id, bias in params.logit_bias:
        if token_id in scores:
            scores[token_id] += bias
    return torch.tensor(list(scores.values()))


def _choose(scores: Tensor, params: SamplingParams, place: int) -> tuple[int, float]:
    """The token, and how far it lies before the next one; 0 where a little more or less of top_p changes it."""
    if params.is_greedy:
        best = scores.topk(2)
        return int(best.indices[0]), float(best.values[0] - best.values[1])
    assert params.seed is not None, "the oracle has to know the seed"
    row, seed = scores.numpy(), params.seed
    around = [replace(params, top_p=params.top_p + change) for change in (-0.001, 0.0, 0.001)]
    chosen = {naive_sampling.draw(row, one, seed, place) for one in around}
    token_ids, values = naive_sampling.kept(row, params)
    ordered = sorted(values + naive_sampling.gumbel(seed, place, token_ids))
    margin = ordered[-1] - ordered[-2] if len(ordered) > 1 else 1e9
    return naive_sampling.draw(row, params, seed, place), 0.0 if len(chosen) > 1 else float(margin)


@cache
def prompt_logprobs(name: str, prompt: Prompt, num_valid: int | None) -> tuple[float, ...]:
    """What the naive model thought of each id of a prompt but the first."""
    here = world(name)
    logits = naive_logits(here.config, here.weights, prompt, stored=here.stored)[:-1, :num_valid].log_softmax(-1)
    width = logits.shape[-1]
    return tuple(
        float(row[token_id]) if token_id < width else -torch.inf
        for row, token_id in zip(logits, prompt[1:], strict=True)
    )


def num_blocks_of(num_tokens: int) -> int:
    """Cache blocks of a request of so many tokens."""
    return -(-num_tokens // BLOCK_SIZE)
