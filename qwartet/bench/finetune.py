"""A training step of Q-LoRA, ours against torch's linears over the dequantised weights, in turns.

ours   GPTQ weights as they are: native kernels forward and backward, the loss without all logits
peer   the same network and PEFT, every GPTQ linear replaced by a torch.nn.Linear whose dequantised weight stays in
       memory, in fp32 or bf16, whichever this machine multiplies faster; the loss from all logits

A step is forward, backward and AdamW on the adapters.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qwartet.bench.latency import peak_rss_bytes
from qwartet.errors import SettingError

TARGETS = ["c_attn", "c_proj", "w1", "w2"]
Log = Callable[[str], None]


@dataclass(frozen=True)
class FinetuneSettings:
    """The step, and how often it is measured."""

    model: Path
    tokens: int = 256
    batch_size: int = 1
    rank: int = 64
    gradient_checkpointing: bool = True
    compares: bool = True  # also runs the peer, which needs the dequantised model in memory
    rounds: int = 3
    seed: int = 0


class TrainingStep:
    """A model with an adapter, its optimiser and one batch; calling it runs a step and returns its seconds."""

    def __init__(self, model: Any, settings: FinetuneSettings, **arguments: Any) -> None:
        """`arguments` go to the model's forward."""
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(settings.seed)
        model.requires_grad_(False)
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        adapter = LoraConfig(r=settings.rank, target_modules=TARGETS, task_type="CAUSAL_LM")
        self.model = get_peft_model(model, adapter).train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.num_trained = sum(parameter.numel() for parameter in trained)
        self._optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        generator = torch.Generator().manual_seed(settings.seed)
        shape = (settings.batch_size, settings.tokens)
        self._ids = torch.randint(model.config.vocab_size, shape, generator=generator)
        self._arguments = arguments
        self.loss = float("nan")

    def __call__(self) -> float:
        started = time.perf_counter()
        loss = self.model(self._ids, labels=self._ids, **self._arguments).loss
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        seconds = time.perf_counter() - started
        self.loss = float(loss.detach())
        return seconds


def measure_finetune(settings: FinetuneSettings, log: Log) -> dict[str, Any]:
    """Seconds of a step, the median of the rounds, ready for JSON; SettingError where the model is not quantised."""
    if min(settings.tokens - 1, settings.batch_size, settings.rank, settings.rounds) < 1:
        raise SettingError("batch size, rank and rounds must be at least 1, tokens at least 2")
    model = _load(settings.model, torch.bfloat16)
    if model.config.gptq is None:
        raise SettingError(f"{settings.model}: has no quantised weights; use an Int4 or Int8 checkpoint")
    sides = {"ours": TrainingStep(model, settings, return_logits=False)}
    log("warming up")
    sides["ours"]()
    report = {
        "tokens": settings.tokens, "batch_size": settings.batch_size, "rank": settings.rank,
        "gradient_checkpointing": settings.gradient_checkpointing, "trained_parameters": sides["ours"].num_trained,
        "kernels": dict(model.backend.names),
    }  # fmt: skip
    if settings.compares:
        dtype = faster_dtype(settings.batch_size * settings.tokens)
        log(f"dequantising the peer's weights to {dtype}")
        sides["peer"] = TrainingStep(dequantised(_load(settings.model, dtype)), settings)
        sides["peer"]()
        report["peer_dtype"] = str(dtype).removeprefix("torch.")
    rounds: list[dict[str, float]] = []
    for number in range(1, settings.rounds + 1):
        log(f"round {number} of {settings.rounds}")
        one = {f"{name}_s": step() for name, step in sides.items()}
        rounds.append(one | ({"speed_up": one["peer_s"] / one["ours_s"]} if settings.compares else {}))
    medians = {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}
    tokens_per_s = round(settings.batch_size * settings.tokens / medians["ours_s"], 2)
    losses = {f"{name}_loss": step.loss for name, step in sides.items()}
    if not settings.compares:
        report["peak_rss_bytes"] = peak_rss_bytes()
    return {**report, **medians, "ours_tok_s": tokens_per_s, **losses, "rounds": rounds}


def faster_dtype(num_tokens: int) -> torch.dtype:
    """bf16 or fp32: in which of them torch's linear and its gradient take less time here."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        # Small: where a CPU has no instructions for it, bf16 takes far longer.
        x = torch.randn(num_tokens, 256).to(dtype).requires_grad_()
        weight = torch.randn(512, 256).to(dtype)
        for _ in range(2):
            started = time.perf_counter()
            nn.functional.linear(x, weight).sum().backward()
            seconds[dtype] = time.perf_counter() - started
    return min(seconds, key=lambda dtype: seconds[dtype])


def dequantised(model: Any) -> Any:
    """The model with torch's own linears in the place of its GPTQ linears."""
    from qwartet.hf.gptq_linear import GptqLinear

    for module in list(model.modules()):
        for leaf, child in list(module.named_children()):
            if isinstance(child, GptqLinear):
                linear = nn.Linear(child.in_features, child.out_features, bias=False, device="meta")
                linear.weight = nn.Parameter(child.weight.dequantize(model.dtype), requires_grad=False)
                bias = child.weight.bias
                if bias is not None:
                    linear.bias = nn.Parameter(bias.to(model.dtype), requires_grad=False)
                setattr(module, leaf, linear)
    return model


def _load(directory: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    import qwartet.hf  # noqa: F401  registers the model

    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype)
