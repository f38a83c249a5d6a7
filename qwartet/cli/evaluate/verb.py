"""`qwartet evaluate`: benchmarks of a model's answers, or of a server's; two runs compared; data fetched."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qwartet.cli.evaluate.long_texts import NeedleOptions, PerplexityOptions
from qwartet.cli.evaluate.report import (
    comparison_lines,
    fetched_line,
    figure_lines,
    harness_lines,
    unpacked_line,
    write_harness_results,
    write_results,
)
from qwartet.cli.loading import LoadOptions
from qwartet.cli.option_groups import with_groups
from qwartet.cli.options import AsJson, MaxNumSeqs, set_threads
from qwartet.cli.progress import byte_progress, item_progress
from qwartet.cli.terminal import error_line, json_line, one_line, untranslated_line
from qwartet.engine.engine_config import EngineConfig
from qwartet.errors import SettingError

if TYPE_CHECKING:
    from qwartet.evaluate.answerer import Answerer
    from qwartet.evaluate.data.archives import Unpacked
    from qwartet.evaluate.question import Task
    from qwartet.evaluate.run import RunSettings, TaskResult
    from qwartet.evaluate.tasks.registry import TaskOptions
    from qwartet.llm import LLM

COMPARE, FETCH = "compare", "fetch"


@dataclass(frozen=True)
class AskOptions:
    """How a server is asked, where MODEL is a URL."""

    api_key: Annotated[
        str | None, typer.Option(envvar="QWARTET_API_KEY", help="API key of the server; other users can see arguments.")
    ] = field(default=None, repr=False)
    model_name: Annotated[str | None, typer.Option(help="Model on the server, if it serves several.")] = None
    concurrency: Annotated[int, typer.Option(help="Concurrent requests to the server.")] = 16
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the next data from the server.")] = 600.0
    tokenizer: Annotated[
        Path | None, typer.Option(help="Directory with the served model's tokenizer, for tasks that count tokens.")
    ] = None


@dataclass(frozen=True)
class RunOptions:
    """What is asked, and where the answers are kept."""

    tasks: Annotated[str, typer.Option(help="Tasks, comma-separated; all: every task whose data is present.")] = "all"
    shots: Annotated[
        int | None,
        typer.Option(help="Worked examples before each question.", show_default="0 for chat models, 5 or 8 otherwise"),
    ] = None
    data: Annotated[Path, typer.Option(help="Directory of the published data files.")] = Path("data")
    out: Annotated[
        Path | None, typer.Option(help="Directory for the results, one line per question.", show_default="runs/MODEL")
    ] = None
    limit: Annotated[int | None, typer.Option(help="Questions per task, sampled with --seed.")] = None
    seed: Annotated[int, typer.Option(help="Random seed for --limit.")] = 0
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start over instead of resuming; for fetch: replace data.")
    ] = False
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Run model-written code, in a sandbox.")
    ] = False
    harness: Annotated[
        Literal["own", "lm-eval"], typer.Option(help="lm-eval: EleutherAI's tasks and prompts instead of ours.")
    ] = "own"
    include_path: Annotated[
        Path | None, typer.Option(help="Directory of YAML task files for lm-eval, instead of its built-in tasks.")
    ] = None

    def directory(self, model: str) -> Path:
        """Where the run of a model is kept."""
        return self.out or Path("runs", model.rstrip("/").rpartition("/")[2].replace(":", "_") or "model")

    @property
    def names(self) -> list[str]:
        return self.tasks.split(",")


@with_groups
def evaluate(
    *,
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory, hub id, or URL of an OpenAI-compatible server; or the word compare or fetch."
        ),
    ],
    others: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[A B | TASKS]", help="For compare: two run directories. For fetch: tasks."),
    ] = None,
    run: RunOptions,
    max_num_seqs: MaxNumSeqs = EngineConfig.max_num_seqs,
    needle: NeedleOptions,
    perplexity: PerplexityOptions,
    load: LoadOptions,
    ask: AskOptions,
    as_json: AsJson = False,
) -> None:
    """Score a model on benchmarks.

    Prompts, answer extraction and metrics follow the published evaluation scripts. Answers are saved to OUT/TASK.jsonl,
    and an interrupted run resumes from there. `qwartet evaluate compare A B` compares two runs question by question.
    `qwartet evaluate fetch TASKS` downloads their data into --data.
    """
    if model == COMPARE:
        _compare(others or [], as_json)
        return
    if model == FETCH:
        _fetch(",".join(map(str, others)).split(",") if others else run.names, run, as_json)
        return
    if others:
        raise SettingError(f"unexpected argument {str(others[0])!r}; only compare and fetch take more than one")
    set_threads(load.threads)
    if run.harness == "lm-eval":
        _run_lm_eval(model, run, load.load(model, max_num_seqs=max_num_seqs), as_json)
        return
    from qwartet.evaluate.tasks.registry import TaskOptions

    options = TaskOptions(
        run.data,
        run.shots,
        allow_code_execution=run.allow_code_execution,
        is_loaded=False,
        is_server=is_url(model),
        needle=needle.settings(),
        perplexity=perplexity.settings(),
    )
    _run_tasks(run, options, run.directory(model), lambda: _answerer(model, max_num_seqs, load, ask), as_json)


def _run_tasks(
    run: RunOptions, options: TaskOptions, directory: Path, load: Callable[[], Answerer], as_json: bool
) -> None:
    from qwartet.evaluate.run import RunSettings
    from qwartet.evaluate.tasks.registry import make_tasks

    settings = RunSettings(directory, run.limit, run.seed, run.overwrite)

    def on_unpacked(unpacked: Unpacked) -> None:
        print(one_line(unpacked_line(unpacked)), file=sys.stderr)

    tasks, _ = make_tasks(run.names, options, on_unpacked)  # reports wrong names and data before a model is loaded
    if not tasks:
        raise SettingError(f"{run.data} contains no data of any task; set --data")
    with closing(load()) as answerer:
        options = replace(
            options,
            tokenizer=answerer.tokenizer,
            is_chat=answerer.is_chat,
            max_model_len=answerer.max_model_len,
            is_loaded=True,
        )
        tasks, left_out = make_tasks(run.names, options)
        for name, reason in left_out.items():
            print(error_line(f"{name}: skipped ({reason})"), file=sys.stderr)
        results = [_run(task, answerer, settings, as_json) for task in tasks]
        report = write_results(settings.directory, answerer.description, results)
    if as_json:
        print(json_line(report))
    if any(result.num_errors for result in results):
        raise typer.Exit(1)


def _run(task: Task, answerer: Answerer, settings: RunSettings, as_json: bool) -> TaskResult:
    """Runs a task; shows what it forecasts, its progress and its figures."""
    from qwartet.evaluate.forecast import Forecasting
    from qwartet.evaluate.run import run_task

    if isinstance(task, Forecasting):
        for line in task.forecast(answerer):
            print(one_line(line), file=sys.stderr)
    with item_progress(task.name) as on_done:
        result = run_task(task, answerer, settings, on_done)
    if not as_json:
        for line in figure_lines(result):
            print(untranslated_line(line))
    return result


def _run_lm_eval(model: str, run: RunOptions, llm: LLM, as_json: bool) -> None:
    from qwartet.evaluate.harness import run_harness

    if is_url(model):
        raise SettingError("--harness lm-eval needs a checkpoint; for a server, run lm-eval with its local-completions")
    with llm:
        found = run_harness(
            llm,
            [name.strip() for name in run.names if name.strip()],
            num_fewshot=run.shots,
            limit=run.limit,
            include_path=run.include_path,
            apply_chat_template=llm.generation_defaults.is_chat,
            seed=run.seed,
        )
    report = write_harness_results(run.directory(model), found)
    if as_json:
        print(json_line(report))
        return
    for line in harness_lines(report):
        print(untranslated_line(line))


def is_url(model: str) -> bool:
    """Whether MODEL is a server's address."""
    return model.startswith(("http://", "https://"))


def _answerer(model: str, max_num_seqs: int, load: LoadOptions, ask: AskOptions) -> Answerer:
    if is_url(model):
        from qwartet.client.openai_server import OpenAIServer
        from qwartet.evaluate.answerers.server import ServerAnswerer

        if ask.concurrency < 1:
            raise SettingError(f"--concurrency is {ask.concurrency}; it must be at least 1")
        server = OpenAIServer(model, api_key=ask.api_key, timeout_s=ask.timeout)
        tokenizer = None
        if ask.tokenizer is not None:
            from qwartet.models.vocabulary_files import load_tokenizer

            tokenizer = load_tokenizer(ask.tokenizer)
        return ServerAnswerer(
            server,
            ask.model_name,
            concurrency=ask.concurrency,
            tokenizer=tokenizer,
            max_model_len=load.max_model_len,
        )
    from qwartet.evaluate.answerers.engine import EngineAnswerer

    return EngineAnswerer(load.load(model, max_num_seqs=max_num_seqs))


def _compare(runs: list[Path], as_json: bool) -> None:
    from qwartet.evaluate.compare import compare_runs

    if len(runs) != 2:
        raise SettingError("compare needs two run directories; run qwartet evaluate compare A B")
    comparison = compare_runs(*runs)
    if as_json:
        print(json_line(comparison.to_dict()))
        return
    for line in comparison_lines(comparison):
        print(untranslated_line(line))


def _fetch(names: list[str], run: RunOptions, as_json: bool) -> None:
    from qwartet.evaluate.data.fetching import check_names, fetch_benchmark

    found = []
    for name in check_names(names):
        with byte_progress("downloading", "downloaded") as on_bytes:
            fetched = fetch_benchmark(name, run.data, on_bytes, overwrite=run.overwrite)
        found.append(fetched)
        if not as_json:
            print(one_line(fetched_line(fetched)))
    if as_json:
        print(json_line([{**asdict(fetched), "directory": str(fetched.directory)} for fetched in found]))
