"""In place of the processes of a profile: known forecasts and known figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qwartet.bench.ceilings import Ceilings
from qwartet.bench.profile import run
from qwartet.bench.profile.row import Measured
from qwartet.bench.profile.settings import NamedModel, ProfileSettings
from qwartet.bench.profile.task import Failure

GIB = 2**30
CEILINGS = Ceilings(2, 50.0, 50.0, 2000.0, 1000.0, 500.0)
FREE_BYTES = 8 * GIB
MAX_LENGTH = 32_768
DECODE_BYTES = 10**9  # of each token
BF16, INT4 = NamedModel("some-bf16", Path("bf16")), NamedModel("some-int4", Path("int4"))


@dataclass
class StandIn:
    """Answers tasks; keeps those of rows. A token takes 0.1 s, one of the prompt 0.01 s."""

    measured: list[dict[str, Any]] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)
    failures: dict[int, Failure] = field(default_factory=dict)  # by context
    total_bytes: Callable[[int], int] = lambda context: 2 * GIB + context * 2**18
    size: str | None = "72b"
    keeps_packed: bool = False
    has_packed: bool = False
    interrupted_at: int | None = None  # a context

    def __call__(
        self,
        task: Mapping[str, Any],
        environment: Mapping[str, str],
        on_progress: Callable[[int, int], object] = lambda _prompt, _generated: None,
    ) -> dict[str, Any] | Failure:
        if task["task"] == "forecast":
            return self._forecast(task)
        self.measured.append(dict(task))
        self.environments.append(dict(environment))
        context, generate = task["context"], task["generate"]
        if context == self.interrupted_at:
            raise KeyboardInterrupt
        if context in self.failures:
            return self.failures[context]
        on_progress(context, generate // 2)
        first_token_s = 0.01 * context
        seconds = first_token_s + 0.1 * (generate - 1)
        return asdict(Measured(seconds, first_token_s, 2 * GIB, self.has_packed, 2, {"attention": "some"}, []))

    def _forecast(self, task: Mapping[str, Any]) -> dict[str, Any]:
        precision = Path(task["model"]).name
        rows = [
            {
                "asked_kv_cache_dtype": kind,
                "kv_cache_dtype": "bf16" if kind == "auto" else kind,
                "context": context,
                "generate": generate,
                "forecast": self._plan(context) if context + generate <= MAX_LENGTH else None,
            }
            for context, generate in task["lengths"]
            for kind in task["kv_cache_dtypes"]
        ]
        return {
            "size": self.size, "precision": precision, "max_length": MAX_LENGTH, "checkpoint_bytes": 10**9,
            "keeps_packed": self.keeps_packed, "rows": rows,
        }  # fmt: skip

    def _plan(self, context: int) -> dict[str, Any]:
        total = self.total_bytes(context)
        return {
            "total_bytes": total,
            "free_bytes": FREE_BYTES,
            "peak_bytes": total,
            "peak_unpacked_bytes": total + GIB,
            "prefill": {"operations": context * 10**10, "num_bytes": DECODE_BYTES},
            "decode": {"operations": 4 * 10**9, "num_bytes": DECODE_BYTES},
        }


class FakeLibrary:
    """In place of the native library, which only has to be there."""

    def set_num_threads(self, count: int) -> None:
        self.num_threads = count


def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Takes the place of the processes and of the measurement of the machine."""
    made = StandIn()
    monkeypatch.setattr(run, "run_task", made)
    monkeypatch.setattr(run, "native_library", FakeLibrary)
    monkeypatch.setattr(run, "measure_ceilings", lambda: CEILINGS)
    return made


def settings(**changes: Any) -> ProfileSettings:
    """Of one Int4 model, two contexts and 11 generated tokens where nothing else is said."""
    return ProfileSettings(**{"models": (INT4,), "contexts": (1, 100), "generate": 11, **changes})
