"""`qwartet run-batch`: answers a file of requests, in OpenAI's batch format."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwartet.cli.adapters import Loras, adapter_directories
from qwartet.cli.extras import require
from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.loading import LoadOptions, own_names
from qwartet.cli.option_groups import with_groups
from qwartet.cli.options import JsonLine, MaxNumSeqs, set_threads
from qwartet.cli.progress import progress_console
from qwartet.cli.terminal import error_line, json_line, one_line
from qwartet.engine.engine_config import EngineConfig
from qwartet.errors import SettingError

if TYPE_CHECKING:
    from qwartet.llm import LLM
    from qwartet.openai_api.batch import BatchAnswer
    from qwartet.openai_api.batch_file import AnswerFile, BatchInput


@with_groups
def run_batch(
    *,
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="Requests, one per line; - is standard input.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Their answers; - is standard output.")],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint directory or hub id.", show_default="the bundled model")
    ] = None,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="Another name that requests may use for the model; repeatable.")
    ] = None,
    max_num_seqs: MaxNumSeqs = EngineConfig.max_num_seqs,
    load: LoadOptions,
    lora: Loras = None,
    as_json: JsonLine = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Hide progress and the line about the model.")] = False,
) -> None:
    """Answer a file of requests in OpenAI's batch format.

    Each line is {"custom_id", "method": "POST", "url", "body"}, where url is /v1/chat/completions or /v1/completions.
    Answers are appended as they finish, in any order. Run again, it skips requests that have an answer in OUT.jsonl
    and retries failed ones. The exit code is 1 if any request failed.
    """
    _check_files(source, target, as_json)
    names = [*(served_model_name or ()), *_names(model)]
    adapters = adapter_directories(lora or (), names)
    from qwartet.openai_api.batch_file import AnswerFile, BatchInput, open_input

    set_threads(load.threads)
    with closing(open_input(None if str(source) == "-" else source)) as file:
        lines = BatchInput(file, str(source))
        with closing(AnswerFile(None if str(target) == "-" else target)) as answers:
            run = _Run(lines, answers, total=lines.count_unanswered(answers.answered))
            if run.total:
                started = time.perf_counter()
                llm = load.load(model, max_num_seqs=max_num_seqs, adapters=adapters)
                if not quiet:
                    loaded = f"{model or 'bundled model'}: loaded in {time.perf_counter() - started:.1f} s"
                    print(one_line(loaded), file=sys.stderr)
                run.serve(llm, names, quiet)
    if as_json:
        print(json_line(run.to_dict()))
    else:
        print(one_line(run.summary()), file=sys.stderr if str(target) == "-" else sys.stdout)
    if run.failure_text is not None:
        print(error_line(f"first failure: {run.failure_text}"), file=sys.stderr)
        raise typer.Exit(1)


@dataclass
class _Run:
    """The unanswered lines of a batch, and the results so far."""

    lines: BatchInput
    answers: AnswerFile
    total: int
    num_done: int = 0
    num_failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0  # without loading
    first_failure: BatchAnswer | None = None  # the earliest in IN.jsonl

    def serve(self, llm: LLM, model_names: list[str], quiet: bool) -> None:
        """Answers them all; Ctrl-C stops and says how to resume."""
        import asyncio  # 20 ms, which --help need not wait for

        started = time.perf_counter()
        try:
            with _progress(self.total, quiet) as advance:
                asyncio.run(self._serve(llm, model_names, advance))
        except KeyboardInterrupt:
            hint = "; run the same command again to resume" if self.answers.is_regular else ""
            stopped = f"stopped: {self.num_done + self.num_failed} of {self.total} answered{hint}"
            print(one_line(stopped), file=sys.stderr)
            raise
        finally:
            self.seconds = time.perf_counter() - started

    async def _serve(self, llm: LLM, model_names: list[str], advance: Callable[[int], None]) -> None:
        from qwartet.engine.async_engine import AsyncEngine
        from qwartet.openai_api.batch import answer_lines
        from qwartet.openai_api.endpoints import Endpoints

        async with AsyncEngine(llm.engine) as engine:
            endpoints = Endpoints(llm, engine, model_names)
            lines = self.lines.unanswered(self.answers.answered)
            async with aclosing(answer_lines(endpoints, lines)) as answers:
                async for answer in answers:
                    self.answers.write(answer.entry)
                    self._count(answer)
                    advance(self.completion_tokens)

    def _count(self, answer: BatchAnswer) -> None:
        usage = answer.usage
        self.prompt_tokens += usage.get("prompt_tokens", 0) + usage.get("input_tokens", 0)  # as /v1/responses calls it
        self.completion_tokens += usage.get("completion_tokens", 0) + usage.get("output_tokens", 0)
        if answer.error_message is None:
            self.num_done += 1
        else:
            self.num_failed += 1
            if self.first_failure is None or answer.line_number < self.first_failure.line_number:
                self.first_failure = answer

    @property
    def failure_text(self) -> str | None:
        """What the first failure says, and where."""
        first = self.first_failure
        return None if first is None else f"line {first.line_number}: {first.error_message}"

    @property
    def num_skipped(self) -> int:
        """Lines that an earlier run answered."""
        return self.lines.num_lines - self.total

    @property
    def tokens_per_s(self) -> float:
        return self.completion_tokens / self.seconds if self.seconds else 0.0

    def summary(self) -> str:
        """One line."""
        skipped = f", {self.num_skipped} skipped (answered before)" if self.num_skipped else ""
        return (
            f"{self.num_done} done, {self.num_failed} failed{skipped}; {self.prompt_tokens} prompt and "
            f"{self.completion_tokens} completion tokens in {self.seconds:.1f} s, {self.tokens_per_s:.1f} tok/s"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "done": self.num_done,
            "failed": self.num_failed,
            "skipped": self.num_skipped,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "seconds": round(self.seconds, 3),
            "tokens_per_s": round(self.tokens_per_s, 1),
            "first_failure": self.failure_text,
        }


def _check_files(source: Path, target: Path, as_json: bool) -> None:
    """SettingError for unusable files and options, before anything is read or loaded."""
    require("server", "run-batch", "pydantic")
    if str(source) != "-" and (not source.exists() or source.is_dir()):
        raise SettingError(f"{source}: no such file; pass a file with one request per line")
    if str(target) == "-":
        if as_json:
            raise SettingError("--json prints to standard output, where the answers go; name a file for OUT.jsonl")
    elif target.is_dir():
        raise SettingError(f"{target} is a directory; pass the name of a file")
    elif not target.absolute().parent.is_dir():
        raise SettingError(f"{target.parent} is not a directory; create it, or choose another path")
    elif str(source) != "-" and target.exists() and source.samefile(target):
        raise SettingError(f"{target} is both IN.jsonl and OUT.jsonl; choose another file for the answers")


def _names(model: str | None) -> list[str]:
    """Names that lines may use for the model: also the --model as passed, since the lines are of the same user."""
    return list(dict.fromkeys([*([] if model is None else [model]), *own_names(model)]))


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yields a function to call after each answer, with the tokens generated so far; shows a bar on a terminal,
    otherwise a line for each tenth, always on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console, redraws = progress_console(quiet=quiet)
    columns = (TextColumn(label("requests")), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    num_answered, started = 0, time.perf_counter()
    with Progress(*columns, TextColumn("{task.fields[speed]}"), console=console, disable=not redraws) as bar:
        task = bar.add_task("requests", total=total, speed="")

        def advance(num_tokens: int) -> None:
            nonlocal num_answered
            before, num_answered = num_answered, num_answered + 1
            speed = f"{num_tokens / (time.perf_counter() - started):.0f} tok/s"
            bar.update(task, completed=num_answered, speed=speed)
            if not redraws and before * 10 // total < num_answered * 10 // total:
                console.print(translate(f"{num_answered} of {total} answered, {speed}"))

        yield advance
