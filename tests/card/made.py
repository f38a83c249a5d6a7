"""A card's content as it would be for a published checkpoint, without one: every figure is known."""

from __future__ import annotations

from typing import Any

from qwartet.card.file import CardData, Measured

INSPECT: dict[str, Any] = {
    "model": {
        "num_parameters": 72_287_920_128, "num_layers": 80, "hidden_size": 8192, "num_heads": 64,
        "train_length": 32_768, "max_length": 32_768, "use_dynamic_ntk": False, "declared_dtype": "bf16",
    },
    "sampling": {"chat_format": "chatml"},
    "quantization": {"method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "weights": {"bytes": 41 * 10**9},
    "tokenizer": {"num_tokens": 151_851, "is_published": True},
}  # fmt: skip
PLAN: dict[str, Any] = {
    "context": 32_768,
    "kv_caches": [
        {"kv_cache_dtype": kind, "total_bytes": size * 2**30} for kind, size in (("bf16", 124), ("int8", 84))
    ],
    "gpus": [{"gpus": 1, "bytes_per_gpu": 125 * 2**30}, {"gpus": 2, "bytes_per_gpu": 63 * 2**30}],
}


def figure(name: str, value: float, unit: str = "%") -> dict[str, Any]:
    interval = {"low": value - 1, "high": value + 1} if unit == "%" else {"low": None, "high": None}
    return {"name": name, "value": value, "count": 100, "unit": unit, **interval}


def task(figures: list[dict[str, Any]], shots: int | None = 0, sha256: str = "0") -> dict[str, Any]:
    settings = {"sha256": sha256} if shots is None else {"shots": shots, "sha256": sha256}
    return {"settings": settings, "figures": figures, "num_questions": 100}


TASKS: dict[str, Any] = {
    "mmlu": task([figure("accuracy", 73.0), figure("STEM", 60.0)]),
    "gsm8k": task([figure("accuracy", 75.3)]),
    "leval": task([figure("average", 60.0), figure("tpo", 80.0)], shots=None),
    "needle": task([figure("found", 99.0), figure("length 1,024", 100.0), figure("depth 50 %", 98.0)], shots=None),
    "perplexity": task([figure("perplexity at 8,192", 2.9, "per token")], shots=None),
}


def step(kind: str, output: dict[str, Any] | None, model: str | None = "int4", **more: Any) -> Measured:
    values: dict[str, Any] = {"command": f"qwartet {kind} {model}", "shots": None, "failure": None, **more}
    return Measured(kind=kind, model=model, version="0.1.0", date="2026-11-29", output=output, **values)


def card(*more: Measured, tasks: dict[str, Any] | None = None, models: tuple[str, ...] = ("int4",)) -> CardData:
    """Of the 72B chat model in Int4."""
    steps = (
        step("environment", {"processor": {"name": "AMD EPYC", "usable_cores": 2}, "versions": {"torch": "2.13.0"}}),
        step("inspect", INSPECT),
        step("plan", PLAN),
        step("answer", {"response": "你好！"}),
        step("evaluate", {"tasks": TASKS if tasks is None else tasks}),
        *more,
    )
    compression = {
        "en": {"bytes": 300, "this": 60, "cl100k_base": 50},
        "code": {"bytes": 100, "this": 50, "cl100k_base": 50},
    }
    return CardData(models, "0.1.0", "2026-11-29", compression, steps)
