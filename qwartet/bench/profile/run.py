"""Measures the rows of a profile, one after the other, each in a process of its own.

Before the first row, every row is forecast; those that do not fit by the plan are refused. The ceilings of the machine
are measured just before each row, because shared machines drift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from qwartet.bench.ceilings import Ceilings, measure_ceilings
from qwartet.bench.profile.estimate import START_S, Estimator
from qwartet.bench.profile.file import ProfileFile, in_order
from qwartet.bench.profile.row import Measured, Row, forecast_of
from qwartet.bench.profile.settings import ATTENTION_SETTINGS, NATIVE, AttentionSetting, NamedModel, ProfileSettings
from qwartet.bench.profile.task import Failure, OnProgress, run_task
from qwartet.errors import SettingError
from qwartet.kernels.cpu.library import native_library, unavailable_reason


@dataclass(frozen=True)
class ProfileEvent:
    """How far a profile is."""

    kind: Literal["planned", "preparing", "started", "progress", "done"]
    number: int  # of the row, from 1; 0 before the first
    total: int  # rows to measure
    left_s: float | None  # expected; None where it is not known
    row: Row | None = None


OnEvent = Callable[[ProfileEvent], object]


def measure_profile(settings: ProfileSettings, file: ProfileFile, on_event: OnEvent = lambda _event: None) -> list[Row]:
    """The rows that were asked for, in the order of the card; `file` has them too.

    SettingError for a checkpoint or a setting that loading would refuse.
    """
    return _Profile(settings, file, on_event).run()


class _Profile:
    def __init__(self, settings: ProfileSettings, file: ProfileFile, on_event: OnEvent) -> None:
        self._settings, self._file, self._on_event = settings, file, on_event
        self._models = {model.name: model for model in settings.models}
        self._unprepared: set[tuple[str, str]] = set()  # (model, attention) whose weights are packed at a first start
        self._coming: list[Row] = []
        self._number = 0
        self._estimator: Estimator | None = None

    def run(self) -> list[Row]:
        if NATIVE.name in self._settings.attention and native_library() is None:
            others = ", ".join(name for name in ATTENTION_SETTINGS if name != NATIVE.name)
            raise SettingError(f"there are no native kernels ({unavailable_reason()}); use --attention {others}")
        wanted = in_order(row for name in self._settings.attention for row in self._planned(ATTENTION_SETTINGS[name]))
        for row in wanted:
            if self._file.finished(row) is None:
                if row.status == "waiting":
                    self._coming.append(row)
                else:
                    self._file.add(row)
        self._file.write()  # what is wrong with its directory is known before the first row
        ceilings = self._ceilings() if self._coming else None
        self._estimator = None if ceilings is None else Estimator(ceilings)
        self._say("planned", None, self._left())
        for number, row in enumerate(self._coming, start=1):
            self._number = number
            self._measure(row)
        keys = {row.key for row in wanted}
        return [row for row in self._file.rows if row.key in keys]

    def _planned(self, attention: AttentionSetting) -> Iterator[Row]:
        """The rows of one setting; those that cannot or should not be measured say why."""
        settings = self._settings
        for model in settings.models:
            lengths = [(context, settings.generate) for context in dict.fromkeys(settings.contexts)]
            kinds = list(dict.fromkeys(settings.kv_cache_dtypes))
            task = {**self._task("forecast", model), "lengths": lengths, "kv_cache_dtypes": kinds}
            found = run_task(task, dict(attention.environment))
            if isinstance(found, Failure):
                raise SettingError(found.reason)
            if found["keeps_packed"]:
                self._unprepared.add((model.name, attention.name))
            for values in found["rows"]:
                forecast = None if values["forecast"] is None else forecast_of(values["forecast"])
                row = Row(
                    **{**values, "forecast": forecast}, model=model.name, size=found["size"],
                    precision=found["precision"], attention=attention.name, device=attention.device,
                    checkpoint_bytes=found["checkpoint_bytes"],
                )  # fmt: skip
                yield self._checked(row, found["max_length"])

    def _checked(self, row: Row, max_length: int) -> Row:
        """The row, refused where it cannot fit."""
        if row.forecast is None:
            return replace(row, status="too long", reason=f"the model's context is {max_length:,} tokens")
        if self._settings.force or row.forecast.fits:
            return row
        needed, free = (size / 2**30 for size in (row.forecast.total_bytes, row.forecast.free_bytes))
        return replace(row, status="does not fit", reason=f"{needed:.2f} GiB needed, {free:.2f} GiB free")

    def _measure(self, row: Row) -> None:
        if (row.model, row.attention) in self._unprepared:
            self._say("preparing", row, self._left())
            self._run(replace(row, context=1, generate=1), lambda _prompt, _generated: None)
            self._unprepared.remove((row.model, row.attention))
        self._say("started", row, self._left())
        ceilings = self._ceilings()

        def on_progress(prompt: int, generated: int) -> None:
            self._say("progress", row, self._left(prompt, generated))

        result = self._run(row, on_progress)
        if isinstance(result, Failure):
            done = replace(row, status="out of memory" if result.is_out_of_memory else "failed", reason=result.reason)
        else:
            done = replace(row, status="measured", measured=Measured(**result), ceilings=ceilings)
        self._file.add(done)
        if self._estimator is not None:
            self._estimator.learn(done)
        self._say("done", done, self._left(row.context, row.generate))

    def _run(self, row: Row, on_progress: OnProgress) -> dict[str, Any] | Failure:
        task = {
            **self._task("measure", self._models[row.model]), "device": row.device, "context": row.context,
            "generate": row.generate, "kv_cache_dtype": row.asked_kv_cache_dtype,
        }  # fmt: skip
        return run_task(task, dict(ATTENTION_SETTINGS[row.attention].environment), on_progress)

    def _task(self, kind: str, model: NamedModel) -> dict[str, Any]:
        settings = self._settings
        return {
            "task": kind, "model": str(model.directory), "threads": settings.threads,
            "activations": settings.activations, "head": settings.head,
        }  # fmt: skip

    def _ceilings(self) -> Ceilings | None:
        """The machine's limits at this moment; None without the native loops that measure them."""
        library = native_library()
        if library is None:
            return None
        if self._settings.threads is not None:
            library.set_num_threads(self._settings.threads)
        return measure_ceilings()

    def _left(self, prompt: int = 0, generated: int = 0) -> float | None:
        """Expected seconds of this row, which has computed so much of prompt and answer, and of those after it."""
        estimator = self._estimator
        if estimator is None:
            return None
        coming = self._coming[max(self._number - 1, 0) :]
        done = estimator.seconds_done(coming[0], prompt, generated) if coming else 0.0
        num_starts = len({(row.model, row.attention) for row in coming} & self._unprepared)
        return sum(map(estimator.seconds, coming)) + num_starts * START_S - done

    def _say(self, kind: Any, row: Row | None, left_s: float | None) -> None:
        self._on_event(ProfileEvent(kind, self._number, len(self._coming), left_s, row))
