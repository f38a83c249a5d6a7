"""The engine against another way of doing the same, alternating (A B A B) because machines drift.

sequential    all requests together            against one after the other
raw           decoding in the engine           against the kernels alone (raw_model.py), as many requests and tokens
prefix        TTFT where the prefix is known   against the TTFT where it is not
speculation   prompt lookup                    against none
adapter       decoding with a LoRA adapter     against without
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from qwartet.bench import raw_model
from qwartet.bench.throughput import ThroughputRun, serve, serve_in_turn
from qwartet.engine.engine import Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.sampling_params import SamplingParams
from qwartet.kernels.low_rank import LowRank
from qwartet.layers.kv_cache import choose_cache_dtype
from qwartet.models.adapters import ResidentAdapters, attach, network_linears
from qwartet.models.qwen import QwenModel

Comparison = Literal["sequential", "raw", "prefix", "speculation", "adapter"]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """The workload, and the model that serves it."""

    model: QwenModel
    config: EngineConfig
    prompts: Sequence[list[int]]
    params: SamplingParams
    num_valid_tokens: int
    rounds: int
    lora_rank: int = 64  # of the adapter, on all linears

    def engine(self, **changes: Any) -> Engine:
        """A new engine, with these settings changed."""
        return Engine(self.model, replace(self.config, **changes), num_valid_tokens=self.num_valid_tokens)

    def together(self, engine: Engine) -> ThroughputRun:
        """All requests at once."""
        return serve(engine, self.prompts, self.params, [0.0] * len(self.prompts))


def compare(kind: Comparison, setting: Setting, log: Log) -> dict[str, Any]:
    """Rounds of both ways, ready for JSON, with ratios above 1 in favour of the engine; in `raw` they are its cost."""
    ways = {
        "sequential": _sequential, "raw": _raw, "prefix": _prefix, "speculation": _speculation, "adapter": _adapter,
    }  # fmt: skip
    return ways[kind](setting, log)


def _rounds(setting: Setting, log: Log, once: Callable[[], dict[str, float]]) -> list[dict[str, float]]:
    found = []
    for number in range(1, setting.rounds + 1):
        log(f"round {number} of {setting.rounds}")
        found.append(once())
    return found


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return round(statistics.median(one[name] for one in rounds), 4)


def _sequential(setting: Setting, log: Log) -> dict[str, Any]:
    def once() -> dict[str, float]:
        # New engines: no blocks are cached from the round before.
        together = setting.together(setting.engine()).seconds
        in_turn = serve_in_turn(setting.engine(max_num_seqs=1), setting.prompts, setting.params)
        return {"together_s": together, "in_turn_s": in_turn, "speed_up": in_turn / together}

    rounds = _rounds(setting, log, once)
    return {"speed_up": _median(rounds, "speed_up"), "rounds": rounds}


def _raw(setting: Setting, log: Log) -> dict[str, Any]:
    length, count = len(setting.prompts[0]), len(setting.prompts)
    num_steps = setting.params.max_tokens - 1  # the prompt's own step yields the first token
    cache_dtype = choose_cache_dtype(setting.config.kv_cache_dtype, torch.bfloat16)

    def once() -> dict[str, float]:
        engine = setting.engine()
        requests = [engine.add_request(prompt, setting.params) for prompt in setting.prompts]
        while not all(request.completion_ids for request in requests):
            engine.step()
        raw = raw_model.RawModel(setting.model, count, length, num_steps, cache_dtype=cache_dtype)
        raw.prefill()
        ours, alone = [], []
        while engine.has_unfinished:  # step by step in turns: what disturbs one disturbs the other
            started = time.perf_counter()
            engine.step()
            ours.append(time.perf_counter() - started)
            alone.append(raw.step())
        return {
            "engine_step_ms": 1000 * statistics.median(ours), "raw_step_ms": 1000 * statistics.median(alone),
            "cost": statistics.median(one / other for one, other in zip(ours, alone, strict=True)) - 1,
        }  # fmt: skip

    rounds = _rounds(setting, log, once)
    return {"cost": _median(rounds, "cost"), "rounds": rounds}


def _prefix(setting: Setting, log: Log) -> dict[str, Any]:
    prompt = setting.prompts[0]

    def once() -> dict[str, float]:
        engine = setting.engine()
        miss = serve(engine, [prompt], setting.params, [0.0]).times[0]
        hit = serve(engine, [prompt], setting.params, [0.0]).times[0]
        step_s = statistics.median(hit.itl_s)
        rest = max(hit.ttft_s - step_s, 0.0)
        return {
            "miss_ttft_ms": 1000 * miss.ttft_s, "hit_ttft_ms": 1000 * hit.ttft_s, "step_ms": 1000 * step_s,
            "cached_tokens": hit.request.num_cached_tokens, "beyond_a_step": rest / miss.ttft_s,
        }  # fmt: skip

    rounds = _rounds(setting, log, once)
    return {"beyond_a_step": _median(rounds, "beyond_a_step"), "rounds": rounds}


def _speculation(setting: Setting, log: Log) -> dict[str, Any]:
    def speed(run: ThroughputRun) -> float:
        """Tokens a second after the first of each request: speculation does not affect the prompt."""
        return sum(len(one.request.completion_ids) - 1 for one in run.times) / sum(
            one.output_s[-1] - one.output_s[0] for one in run.times
        )

    def once() -> dict[str, float]:
        runs: dict[str, tuple[Engine, float]] = {}
        for name in ("off", "prompt-lookup"):
            engine = setting.engine(speculation=name, max_num_seqs=1)
            runs[name] = (
                engine,
                statistics.mean(speed(serve(engine, [prompt], setting.params, [0.0])) for prompt in setting.prompts),
            )
        lookup = runs["prompt-lookup"][0].speculation
        off, on = runs["off"][1], runs["prompt-lookup"][1]
        return {
            "off_tok_s": off, "on_tok_s": on, "ratio": on / off, "drafted": lookup.num_drafted,
            "accepted": lookup.num_accepted, "token_cost": lookup.cost.of_a_token(1),
        }  # fmt: skip

    rounds = _rounds(setting, log, once)
    return {"ratio": _median(rounds, "ratio"), "rounds": rounds}


def _adapter(setting: Setting, log: Log) -> dict[str, Any]:
    adapters = _random_adapter(setting.model, setting.lora_rank)

    def once() -> dict[str, float]:
        steps: dict[str | None, list[float]] = {None: [], "random": []}
        engines = {
            name: Engine(setting.model, setting.config, num_valid_tokens=setting.num_valid_tokens, adapters=adapters)
            for name in steps
        }
        for name, engine in engines.items():
            requests = [engine.add_request(prompt, replace(setting.params, adapter=name)) for prompt in setting.prompts]
            while not all(request.completion_ids for request in requests):
                engine.step()
        while all(engine.has_unfinished for engine in engines.values()):  # step by step in turns
            for name, engine in engines.items():
                started = time.perf_counter()
                engine.step()
                steps[name].append(time.perf_counter() - started)
        plain, adapted = steps[None], steps["random"]
        return {
            "step_ms": 1000 * statistics.median(plain), "adapter_step_ms": 1000 * statistics.median(adapted),
            "ratio": statistics.median(one / other for one, other in zip(plain, adapted, strict=True)),
        }  # fmt: skip

    rounds = _rounds(setting, log, once)
    return {
        "ratio": _median(rounds, "ratio"),
        "rank": adapters.rank,
        "adapter_bytes": adapters.num_bytes,
        "rounds": rounds,
    }


def _random_adapter(model: QwenModel, rank: int) -> ResidentAdapters:
    """An adapter on all linears of a model."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * 0.02).bfloat16()

    linears = {
        name: LowRank(random(rank, linear.in_features), random(linear.out_features, rank), 1.0)
        for name, linear in network_linears(model)
    }
    return attach(model, {"random": linears})
