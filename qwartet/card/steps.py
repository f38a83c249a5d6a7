"""Which of our commands a card is made of: what they are asked, and what is kept of their answers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwartet.errors import SettingError

# The card's own prompts: system prompt (None: the model's own) and query.
PROMPTS: tuple[tuple[str | None, str], ...] = (
    (None, "你好"),
    ("请用二次元可爱语气和我说话", "你好呀"),
    ("You will write beautiful compliments according to needs", "My colleague works diligently"),
)
# What is kept of each command's output, by the names of its fields; paths and other facts of the machine are not.
KEPT = {
    "environment": ("versions", "processor", "memory", "kernels"),
    "inspect": ("model", "sampling", "quantization", "weights", "tokenizer"),
    "plan": ("dtype", "context", "kv_caches", "gpus", "published"),
    "evaluate": ("answerer", "tasks"),
    "compare": ("tasks", "left_out"),
    "answer": ("response", "finish_reason"),
    "profile": ("profile", "rows"),
}


@dataclass(frozen=True)
class CardModel:
    """A checkpoint under the name that the card gives it."""

    name: str
    location: str  # as it was named: a directory or a hub id


@dataclass(frozen=True)
class CardSettings:
    """What a card is made from."""

    models: tuple[CardModel, ...]  # the first is the card's; the others stand beside it
    directory: Path  # where the runs are kept
    tasks: str = "all"
    data: Path = Path("data")
    shots: tuple[int | None, ...] = (None,)  # None: the task's usual number
    evaluate_options: tuple[str, ...] = ()
    profile_options: tuple[str, ...] = ()
    evaluates: bool = True
    profiles: bool = True

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise SettingError(f"two models are called {max(names, key=names.count)!r}; rename a directory")


@dataclass(frozen=True)
class Step:
    """One command."""

    kind: str  # a key of KEPT
    arguments: tuple[str, ...]
    model: str | None = None  # that it is about; None for all of them, or the machine
    shots: int | None = None

    @property
    def command(self) -> str:
        """As a user types it."""
        return shlex.join(["qwartet", *self.arguments])

    def kept(self, output: dict[str, Any]) -> dict[str, Any]:
        """What the card needs of the command's output."""
        return {name: output[name] for name in KEPT[self.kind] if name in output}


def run_directory(settings: CardSettings, model: CardModel, shots: int | None) -> Path:
    """Where `qwartet evaluate` keeps a run."""
    name = model.name if shots is None else f"{model.name}-{shots}-shot"
    return settings.directory / "runs" / name


def steps(settings: CardSettings) -> Iterator[Step]:
    """All commands, in the order in which they are run: what takes long comes last."""
    yield Step("environment", ("doctor",))
    for model in settings.models:
        yield Step("inspect", ("inspect", model.location), model.name)
        yield Step("plan", ("plan", model.location), model.name)
    subject = settings.models[0]
    for system, prompt in PROMPTS:
        asked = ("chat", subject.location, "--prompt", prompt, *(("--system", system) if system else ()))
        yield Step("answer", (*asked, "--temperature", "0"), subject.name)
    if settings.evaluates:
        yield from _evaluations(settings)
    if settings.profiles:
        locations = (model.location for model in settings.models)
        out = ("--out", str(settings.directory / "profile"))
        yield Step("profile", ("profile", *locations, *settings.profile_options, *out))


def _evaluations(settings: CardSettings) -> Iterator[Step]:
    # Without data, what needs none.
    tasks = "needle" if settings.tasks == "all" and not settings.data.is_dir() else settings.tasks
    for shots in settings.shots:
        for model in settings.models:
            asked = [model.location, "--tasks", tasks, "--data", str(settings.data)]
            if shots is not None:
                asked += ["--shots", str(shots)]
            out = ("--out", str(run_directory(settings, model, shots)))
            yield Step("evaluate", ("evaluate", *asked, *settings.evaluate_options, *out), model.name, shots)
    yield from _comparisons(settings)


def _comparisons(settings: CardSettings) -> Iterator[Step]:
    """Each further model against the first of them: pairs of runs with the same questions."""
    first: CardModel
    others: Sequence[CardModel]
    first, *others = settings.models
    for shots in settings.shots:
        for other in others:
            pair = (str(run_directory(settings, one, shots)) for one in (other, first))
            yield Step("compare", ("evaluate", "compare", *pair), other.name, shots)
