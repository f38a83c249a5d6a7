"""The tasks by name. What makes a task imports its module, so that a list of tasks loads none of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qwartet.errors import DataError, SettingError
from qwartet.evaluate.data.archives import PublishedArchive, Unpacked, unpack_missing
from qwartet.evaluate.question import Task
from qwartet.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from qwartet.evaluate.tasks.needle.settings import NeedleSettings
    from qwartet.evaluate.tasks.perplexity import PerplexitySettings

ALL = "all"


@dataclass(frozen=True)
class TaskOptions:
    """What a task is made from."""

    data: Path  # the directory that holds the benchmarks' files, each in a directory of its own or not
    shots: int | None = None  # worked examples; None: the task's usual number
    tokenizer: Tokenizer | None = None  # the model's; None for a server, and where no model is loaded yet
    is_chat: bool = True
    allow_code_execution: bool = False
    max_model_len: int | None = None  # longest prompt and answer together; None where it is not known
    is_loaded: bool = True  # False: no model yet, so only settings and files are checked
    is_server: bool = False
    needle: NeedleSettings | None = None  # None: lengths and depths of the card
    perplexity: PerplexitySettings | None = None  # None: lengths of the report


@dataclass(frozen=True)
class TaskEntry:
    """A task that can be asked for."""

    folder: str  # of its data, under TaskOptions.data; the files may also be right there
    make: Callable[[Path, TaskOptions], Task]
    archive: PublishedArchive | None = None  # unpacked where the files are missing


def _shots(options: TaskOptions, usual: int) -> int:
    """Shots as asked for; else none for a model that chats, and the usual number for a base model."""
    if options.shots is not None:
        if not 0 <= options.shots <= 100:
            raise SettingError(f"--shots is {options.shots}; it must be between 0 and 100", param="shots")
        return options.shots
    return 0 if options.is_chat else usual


def _ceval(directory: Path, options: TaskOptions) -> Task:
    from qwartet.evaluate.tasks.ceval import Ceval

    return Ceval(directory, _shots(options, 5))


def _ceval_test(directory: Path, options: TaskOptions) -> Task:
    from qwartet.evaluate.tasks.ceval import Ceval

    return Ceval(directory, _shots(options, 5), "test")


def _mmlu(directory: Path, options: TaskOptions) -> Task:
    from qwartet.evaluate.tasks.mmlu import Mmlu

    return Mmlu(directory, _shots(options, 5))


def _gsm8k(directory: Path, options: TaskOptions) -> Task:
    from qwartet.evaluate.tasks.gsm8k import Gsm8k

    return Gsm8k(directory, _shots(options, 8), is_chat=options.is_chat)


def _leval(directory: Path, options: TaskOptions) -> Task:
    from qwartet.evaluate.tasks.leval import LEval

    return LEval(directory, options.tokenizer, options.max_model_len)


def _tools(directory: Path, options: TaskOptions) -> Task:
    from qwartet.evaluate.tasks.tools import ToolUse

    _check_tokenizer("tools", options)
    return ToolUse(directory, options.tokenizer)


def _needle(directory: Path, options: TaskOptions) -> Task:
    from qwartet.evaluate.tasks.needle.settings import NeedleSettings
    from qwartet.evaluate.tasks.needle.task import NeedleTask

    _check_tokenizer("needle", options)
    settings = options.needle or NeedleSettings()
    return NeedleTask(settings, options.tokenizer, options.max_model_len, is_chat=options.is_chat)


def _perplexity(directory: Path, options: TaskOptions) -> Task:
    from qwartet.evaluate.tasks.perplexity import Perplexity, PerplexitySettings

    if options.is_server:
        raise SettingError("perplexity needs log-probabilities, which a server does not provide; evaluate a checkpoint")
    settings = options.perplexity or PerplexitySettings()
    return Perplexity(options.data / "perplexity", settings, options.tokenizer, options.max_model_len)


def _check_tokenizer(name: str, options: TaskOptions) -> None:
    if options.is_loaded and options.tokenizer is None:
        hint = "pass a directory with the served model's tokenizer as --tokenizer"
        raise SettingError(f"{name} counts tokens; {hint}", param="tokenizer")


def _check_no_shots(name: str, options: TaskOptions) -> None:
    if options.shots:
        raise SettingError(f"--shots is {options.shots}; {name} has no worked examples, pass 0", param="shots")


def _humaneval(directory: Path, options: TaskOptions) -> Task:
    from qwartet.evaluate.tasks.humaneval import HumanEval

    _check_no_shots("humaneval", options)
    return HumanEval(directory, is_chat=options.is_chat, allow_code_execution=options.allow_code_execution)


def _code_interpreter(directory: Path, options: TaskOptions) -> Task:
    from qwartet.evaluate.tasks.code_interpreter import CodeInterpreter

    _check_no_shots("code-interpreter", options)
    math = options.data / "gsm8k"
    math = math if math.is_dir() else options.data
    return CodeInterpreter(directory, math, allow_code_execution=options.allow_code_execution)


_CEVAL_ARCHIVE = PublishedArchive("ceval-exam.zip", ("dev", "val", "test"))
_MMLU_ARCHIVE = PublishedArchive("data.tar", ("dev", "val", "test"))

TASKS: dict[str, TaskEntry] = {
    "ceval": TaskEntry("ceval", _ceval, _CEVAL_ARCHIVE),
    "ceval-test": TaskEntry("ceval", _ceval_test, _CEVAL_ARCHIVE),
    "mmlu": TaskEntry("mmlu", _mmlu, _MMLU_ARCHIVE),
    "gsm8k": TaskEntry("gsm8k", _gsm8k),
    "humaneval": TaskEntry("humaneval", _humaneval),
    "code-interpreter": TaskEntry("code-interpreter", _code_interpreter),
    "leval": TaskEntry("leval", _leval),
    "tools": TaskEntry("tools", _tools),
    "needle": TaskEntry("needle", _needle),
    "perplexity": TaskEntry("perplexity", _perplexity),
}


def make_tasks(
    names: Sequence[str], options: TaskOptions, on_unpacked: Callable[[Unpacked], None] = lambda _: None
) -> tuple[list[Task], dict[str, str]]:
    """The tasks of these names, and why others are left out: "all" takes those whose data is there.

    A published archive is unpacked where the files of its task are missing; `on_unpacked` hears of it. SettingError,
    with a suggestion, for an unknown name; DataError where the data of a named task is missing or not safe.
    """
    wanted = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in wanted:
        if name != ALL and name not in TASKS:
            near = difflib.get_close_matches(name, [*TASKS, ALL], 1)
            hint = f"did you mean {near[0]}?" if near else f"it must be one of {', '.join(TASKS)} or {ALL}"
            raise SettingError(f"unknown task {name!r:.60}; {hint}", param="tasks")
    if not wanted:
        raise SettingError(f"no task named; choose from {', '.join(TASKS)} or {ALL}", param="tasks")
    if ALL in wanted and not options.data.is_dir():
        raise DataError(options.data, "no such directory", hint="pass the directory of the benchmarks' data files")
    made: list[Task] = []
    left_out: dict[str, str] = {}
    for name in TASKS if ALL in wanted else wanted:
        try:
            made.append(_made(TASKS[name], options, on_unpacked))
        except (DataError, SettingError) as error:
            if name in wanted:
                raise
            left_out[name] = str(error)
    return made, left_out


def _made(entry: TaskEntry, options: TaskOptions, on_unpacked: Callable[[Unpacked], None]) -> Task:
    """A task, made from its data or, where that is missing, from its archive."""
    own = options.data / entry.folder
    try:
        return entry.make(own if own.is_dir() else options.data, options)
    except DataError:
        unpacked = None if entry.archive is None else unpack_missing(options.data, entry.folder, entry.archive)
        if unpacked is None:
            raise
    on_unpacked(unpacked)
    return entry.make(own if own.is_dir() else options.data, options)
