"""`qwartet vocab extend`: new tokens for a vocabulary, learned from words and their frequencies."""

from __future__ import annotations

import base64
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwartet.cli.language.catalogue import label, translate
from qwartet.cli.options import AsJson
from qwartet.cli.progress import item_progress
from qwartet.cli.terminal import error_line, json_line, one_line, untranslated_line
from qwartet.errors import SettingError
from qwartet.hub.resolve import resolve

if TYPE_CHECKING:
    from qwartet.tokenizer.extension import Extension, SortedWords
    from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer

MAX_WARNINGS = 10  # of each kind
MAX_SHOWN_TOKENS = 20
SECONDS_BEFORE_PROGRESS = 2.0
SECONDS_BETWEEN_UPDATES = 0.1

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def vocab(context: typer.Context) -> None:
    """Extend a vocabulary."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def extend(
    vocabulary: Annotated[str, typer.Argument(help="qwen.tiktoken, checkpoint directory, or hub id.")],
    words: Annotated[Path, typer.Argument(help="Text file: a word, a tab and its frequency on each line.")],
    out: Annotated[Path, typer.Argument(help="New file for the new tokens alone, in the format of qwen.tiktoken.")],
    start_id: Annotated[
        int | None, typer.Option(help="Id of the first new token.", show_default="the first free id")
    ] = None,
    max_merges: Annotated[
        int | None, typer.Option(help="Maximum number of new tokens; the most frequent come first.", show_default="all")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Learn new tokens from words and their frequencies.

    Each word becomes a token, and so do the parts that it is merged from, as with the original's add_merges.py. The
    embedding has rows for 85 new tokens (1.8B, 7B) or 213 (14B, 72B); for a checkpoint directory, the rows are checked.

    To use OUT, put it into the checkpoint directory, name it in tokenizer_config.json as extra_vocab_file, and train
    the new rows.
    """
    from qwartet.tokenizer.extension import extend as extend_vocabulary
    from qwartet.tokenizer.extension import sort_words
    from qwartet.tokenizer.vocabulary import write_tokens
    from qwartet.tokenizer.word_counts import read_word_counts

    started = time.perf_counter()
    _check_target(out)
    counts = read_word_counts(words)
    base = _load(vocabulary)
    found = sort_words(base.tokenizer, counts)
    for line in _warnings(found):
        print(error_line(f"warning: {line}"), file=sys.stderr)
    with item_progress(label("learning")) as on_done:
        new = extend_vocabulary(
            base.tokenizer,
            found,
            start_id=start_id,
            max_merges=max_merges,
            num_rows=base.num_rows,
            on_merged=_now_and_then(on_done),
        )
    write_tokens(out, new.tokens)
    if as_json:
        print(json_line(_report(out, base, found, new) | {"seconds": round(time.perf_counter() - started, 3)}))
        return
    for line in _lines(out, base, new):
        print(line)


def _check_target(out: Path) -> None:
    """SettingError for a file that exists or cannot be made, before any work is done for it."""
    if os.path.lexists(out):
        raise SettingError(f"{out} exists; choose another name, or remove it")
    parent = next(path for path in out.absolute().parents if os.path.lexists(path))
    if not parent.is_dir():
        raise SettingError(f"{parent} is not a directory; choose another target directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise SettingError(f"{parent} is not writable; choose another target directory")


@dataclass(frozen=True)
class _Base:
    """What is extended."""

    tokenizer: TiktokenTokenizer
    num_rows: int | None = None  # of the embedding, if there is one
    extra: Path | None = None  # the extra vocabulary that tokenizer_config.json names already

    def rows_left(self, new: Extension) -> int | None:
        return None if self.num_rows is None else self.num_rows - max(new.tokens.values()) - 1


def _load(name: str) -> _Base:
    from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer

    path = Path(os.path.expanduser(name))
    if path.is_file() or (path.suffix == ".tiktoken" and not path.is_dir()):
        return _Base(TiktokenTokenizer.load(path))
    directory = resolve(name, download=False)
    from qwartet.models.families import load_config
    from qwartet.models.vocabulary_files import extra_vocabulary

    extra = extra_vocabulary(directory)
    tokenizer = TiktokenTokenizer.load(directory, extra)
    num_rows = load_config(directory).vocab_size if (directory / "config.json").exists() else None
    return _Base(tokenizer, num_rows, extra)


def _now_and_then(on_done: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """The function, called for long work only, and not for every step of it."""
    next_call = time.monotonic() + SECONDS_BEFORE_PROGRESS

    def on_merged(done: int, total: int) -> None:
        nonlocal next_call
        if (now := time.monotonic()) >= next_call:
            next_call = now + SECONDS_BETWEEN_UPDATES
            on_done(done, total)

    return on_merged


def _warnings(found: SortedWords) -> Iterator[str]:
    """A line for each word that is left out, or that was there before."""
    lines, path = found.source.lines, found.source.path
    yield from _first(
        f"{path}, line {lines[word]}: {word!r:.60} is split into {_quoted(pieces)} and cannot become one token"
        for word, pieces in found.split.items()
    )
    yield from _first(
        f"{path}, line {lines[word]}: {word!r:.60} is already token {token_id}"
        for word, token_id in found.existing.items()
    )
    yield from _first(
        f"{path}, line {line}: {word!r:.60} is repeated; the frequencies are added"
        for line, word in found.source.repeated
    )


def _first(lines: Iterable[str]) -> Iterator[str]:
    rest = iter(lines)
    yield from islice(rest, MAX_WARNINGS)
    if num_more := sum(1 for _ in rest):
        yield f"{num_more} more such lines; --json lists them all"


def _quoted(pieces: list[str]) -> str:
    return " | ".join(map(repr, pieces[:5])) + (" ..." if len(pieces) > 5 else "")


def _report(out: Path, base: _Base, found: SortedWords, new: Extension) -> dict[str, Any]:
    lines = found.source.lines
    return {
        "file": str(out),
        "tokens": [
            {"id": token_id, "base64": base64.b64encode(token).decode(), "text": token.decode("utf-8", "replace")}
            for token, token_id in new.tokens.items()
        ],
        "rows_left": base.rows_left(new),
        "unfinished_words": new.num_unfinished,
        "split": [{"line": lines[word], "word": word, "pieces": pieces} for word, pieces in found.split.items()],
        "existing": [{"line": lines[word], "word": word, "id": token_id} for word, token_id in found.existing.items()],
        "repeated": [{"line": line, "word": word} for line, word in found.source.repeated],
    }


def _lines(out: Path, base: _Base, new: Extension) -> Iterator[str]:
    """The tokens, or the first of them; how many there are, and how to use them."""
    for token, token_id in islice(new.tokens.items(), MAX_SHOWN_TOKENS):
        yield untranslated_line(f"{token_id:>8}  {token.decode('utf-8', 'replace')}")
    if (num_more := len(new.tokens) - MAX_SHOWN_TOKENS) > 0:
        yield untranslated_line(" " * 10 + translate(f"... and {num_more} more"))
    first, last = min(new.tokens.values()), max(new.tokens.values())
    yield one_line(f"{out}: {len(new.tokens)} new tokens, ids {first} to {last}")
    if (rows_left := base.rows_left(new)) is not None:
        yield one_line(f"rows left in the embedding: {rows_left}")
    if new.num_unfinished:
        yield one_line(f"words that are not a single token yet, since --max-merges was reached: {new.num_unfinished}")
    if base.extra is None:
        setting = f'"extra_vocab_file": "{out.name}"'
        yield one_line(f"to use it, put it into the checkpoint directory and add {setting} to tokenizer_config.json")
    else:
        yield one_line(f"to use it, append it to {base.extra.name}, the checkpoint's extra vocabulary")
