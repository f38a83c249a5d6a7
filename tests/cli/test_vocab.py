"""`qwartet vocab extend`: from words to a file that every interface uses; what is told, and what is refused."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qwartet import LLM, AutoTokenizer
from qwartet.cli import vocab
from qwartet.models.vocabulary_files import load_tokenizer
from qwartet.tokenizer.merges import MergeLearner
from tests.cli.command_line import CommandLine, environment, listing
from tests.golden_data import real_vocabulary
from tests.models.broken import add_rows, edit_json
from tests.tiny_checkpoint import VOCAB_SIZE, Copy
from tests.tokenizer.vocabularies import SMALL_N, write_small_vocabulary

FIRST_FREE = SMALL_N + 208
CATS = "我是一只猫\t20\n你是一只猫\t10\n他是一只猫\t5\n一只\t200\n一只猫\t100\n夸张的 比喻手法\t20\n"
TOKENS = ["一只猫", "只猫", "是一只猫", "我是一只猫", "你是一只猫", "他是一只猫"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_small_vocabulary(tmp_path / "qwen.tiktoken")


def write_words(directory: Path, content: str) -> Path:
    path = directory / "words.txt"
    path.write_text(content)
    return path


def test_the_published_example(qwartet: CommandLine, tmp_path: Path) -> None:
    out, words = tmp_path / "cats.tiktoken", write_words(tmp_path, CATS)
    outcome = qwartet("vocab", "extend", real_vocabulary(), words, out)
    ids = range(151_851, 151_857)
    lines = [f"{base64.b64encode(token.encode()).decode()} {i}\n" for i, token in zip(ids, TOKENS, strict=True)]
    assert out.read_text() == "".join(lines)
    assert outcome.code == 0 and outcome.out.splitlines() == [
        *(f"{i:>8}  {token}" for i, token in zip(ids, TOKENS, strict=True)),
        f"{out}: 6 new tokens, ids 151851 to 151856",
        'to use it, put it into the checkpoint directory and add "extra_vocab_file": "cats.tiktoken" to '
        "tokenizer_config.json",
    ]
    assert outcome.err.splitlines() == [
        f"warning: {words}, line 6: '夸张的 比喻手法' is split into '夸张的' | ' 比喻手法' and cannot become one token",
        f"warning: {words}, line 4: '一只' is already token 102292",
    ]


def test_json_has_the_tokens_and_the_words_that_are_left_out(qwartet: CommandLine, small: Path, tmp_path: Path) -> None:
    words, out = write_words(tmp_path, "xyz\t1\nab\t2\nx1\t3\nuv\t4\nuv\t5\n"), tmp_path / "out.tiktoken"
    report = json.loads(qwartet("vocab", "extend", small, words, out, "--max-merges", "2", "--json").out)
    assert report.pop("seconds") >= 0
    assert report == {
        "file": str(out),
        "tokens": [
            {"id": FIRST_FREE, "base64": "dXY=", "text": "uv"},
            {"id": FIRST_FREE + 1, "base64": "eHk=", "text": "xy"},
        ],
        "rows_left": None,
        "unfinished_words": 1,
        "split": [{"line": 3, "word": "x1", "pieces": ["x", "1"]}],
        "existing": [{"line": 2, "word": "ab", "id": 256}],
        "repeated": [{"line": 5, "word": "uv"}],
    }


def test_a_checkpoint_uses_the_file_in_every_interface(qwartet: CommandLine, checkpoint: Copy, tmp_path: Path) -> None:
    directory, words = checkpoint(), write_words(tmp_path, "sunshine\t9\n★\t1\n")
    add_rows(directory, 640)
    outcome = qwartet("vocab", "extend", directory, words, out := directory / "sun.tiktoken")
    num_new = len(out.read_text().splitlines())
    assert f"rows left in the embedding: {640 - VOCAB_SIZE - num_new}" in outcome.out.splitlines()
    assert out.read_text().splitlines()[0].endswith(f" {VOCAB_SIZE}")
    extended = AutoTokenizer.from_pretrained(directory, extra_vocab_file=out)
    assert len(extended.encode("sunshine")) == len(extended.encode("★")) == 1
    assert len(extended) == VOCAB_SIZE + num_new and extended.decode(extended.encode("sunshine★")) == "sunshine★"
    edit_json(directory / "tokenizer_config.json", {"extra_vocab_file": out.name})
    llm = LLM(directory)
    (star,) = llm.tokenizer.encode("★")
    assert star == extended.encode("★")[0] >= VOCAB_SIZE and llm.tokenizer.num_tokens == len(extended)
    assert (
        llm.generate("hello", llm.sampling_params(logit_bias={star: 100}, max_tokens=2, temperature=0))[0].text == "★★"
    )
    assert qwartet("inspect", directory).code == 0


def test_a_second_extension_continues_the_first(qwartet: CommandLine, checkpoint: Copy, tmp_path: Path) -> None:
    directory, second = checkpoint(), tmp_path / "second.tiktoken"
    add_rows(directory, 640)
    first = directory / "first.tiktoken"
    assert qwartet("vocab", "extend", directory, write_words(tmp_path, "xyz\t1\n"), first).code == 0
    edit_json(directory / "tokenizer_config.json", {"extra_vocab_file": first.name})
    outcome = qwartet("vocab", "extend", directory, write_words(tmp_path, "xyzzy\t1\n"), second)
    assert outcome.out.splitlines()[-1] == "to use it, append it to first.tiktoken, the checkpoint's extra vocabulary"
    first.write_bytes(first.read_bytes() + second.read_bytes())
    tokenizer = load_tokenizer(directory)
    assert tokenizer.encode("xyz") == [VOCAB_SIZE + 1] and tokenizer.encode("xyzzy") == [tokenizer.num_tokens - 1]


def test_ids_beyond_the_embedding_are_refused_unless_the_file_is_given(
    qwartet: CommandLine, checkpoint: Copy, tmp_path: Path
) -> None:
    directory, words, out = checkpoint(), write_words(tmp_path, "xyz\t1\n"), tmp_path / "out.tiktoken"
    full = qwartet("vocab", "extend", directory, words, out)
    full.assert_one_line_error(f"id {VOCAB_SIZE} is beyond the embedding, which has {VOCAB_SIZE} rows; pass")
    edit_json(directory / "config.json", {"vocab_size": VOCAB_SIZE + 1})
    qwartet("vocab", "extend", directory, words, out).assert_one_line_error("2 tokens are needed", "room for only 1 ")
    assert not out.exists()
    assert qwartet("vocab", "extend", directory / "qwen.tiktoken", words, out).code == 0
    (directory / "config.json").unlink()
    assert qwartet("vocab", "extend", directory, words, tmp_path / "other.tiktoken").code == 0


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("qwen.tiktoken", "words.txt", "words.txt"), "words.txt exists; choose another name, or remove it"),
        (("qwen.tiktoken", "words.txt", "words.txt/out"), "words.txt is not a directory; choose another target"),
        (("qwen.tiktoken", "none.txt", "out"), "none.txt: no such file; check the path"),
        (("qwen.tiktoken", ".", "out"), "is a directory, not a file; check the path"),
        (("qwen.tiktoken", "qwen.tiktoken", "out"), "qwen.tiktoken, line 1: 0 tabs in 'AA== 0'; write the word, a tab"),
        (("none.tiktoken", "words.txt", "out"), "none.tiktoken: no such file; pass the path of a .tiktoken file"),
        (("none", "words.txt", "out"), "none: no such directory; pass the directory of a checkpoint, or a hub id"),
        (("words.txt", "words.txt", "out"), "words.txt: line 1: not `base64 rank`: 'xyz\\t1'"),
        (("qwen.tiktoken", "words.txt", "out", "--start-id", "5"), f"start_id is 5; it must be at least {FIRST_FREE}"),
        (("qwen.tiktoken", "words.txt", "out", "--max-merges", "0"), "max_merges is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    qwartet: CommandLine, small: Path, tmp_path: Path, arguments: tuple[str, ...], fragment: str
) -> None:
    write_words(tmp_path, "xyz\t1\n")
    before = listing(tmp_path)
    paths = [tmp_path / argument for argument in arguments[:3]]
    qwartet("vocab", "extend", *paths, *arguments[3:]).assert_one_line_error(fragment)
    assert listing(tmp_path) == before


def test_where_nothing_can_be_learned_the_words_are_told_too(qwartet: CommandLine, small: Path, tmp_path: Path) -> None:
    outcome = qwartet("vocab", "extend", small, write_words(tmp_path, "ab\t1\n"), tmp_path / "out")
    warning, error = outcome.err.splitlines()
    assert outcome.code == 2 and warning.endswith("'ab' is already token 256")
    assert "no new tokens: 1 of the words are tokens already, 0 are split; add other words" in error


def test_ten_warnings_of_a_kind_are_shown_and_control_characters_are_not(
    qwartet: CommandLine, small: Path, tmp_path: Path
) -> None:
    content = "".join(f"\x1b[31m{i}\t1\n" for i in range(30)) + "uv\t1\n" * 12
    outcome = qwartet("vocab", "extend", small, write_words(tmp_path, content), tmp_path / "out")
    lines = outcome.err.splitlines()
    assert outcome.code == 0 and "\x1b" not in outcome.err and len(lines) == 11 + 11
    assert lines[10] == "warning: 20 more such lines; --json lists them all"
    assert lines[11].endswith("'uv' is repeated; the frequencies are added")
    assert lines[21] == "warning: 1 more such lines; --json lists them all"


def test_a_long_list_is_shortened(qwartet: CommandLine, small: Path, tmp_path: Path) -> None:
    content = "".join(f"{chr(0x61 + i)}{chr(0x61 + j)}y\t1\n" for i in range(8) for j in range(8))
    out = tmp_path / "out"
    lines = qwartet("vocab", "extend", small, write_words(tmp_path, content), out).out.splitlines()
    num_tokens = len(out.read_text().splitlines())
    assert lines[20:22] == [
        f"          ... and {num_tokens - 20} more",
        f"{out}: {num_tokens} new tokens, ids {FIRST_FREE} to {FIRST_FREE + num_tokens - 1}",
    ]


def test_progress_is_shown_for_long_work_only(
    qwartet: CommandLine, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = write_words(tmp_path, "xyz\t1\n")
    assert qwartet("vocab", "extend", small, words, tmp_path / "short").err == ""
    monkeypatch.setattr(vocab, "SECONDS_BEFORE_PROGRESS", 0)
    monkeypatch.setattr(vocab, "SECONDS_BETWEEN_UPDATES", 0)
    outcome = qwartet("vocab", "extend", small, words, tmp_path / "long")
    assert outcome.err.splitlines() == ["learning: 1 / 2", "learning: 2 / 2"]


def test_ctrl_c_leaves_nothing_behind(
    qwartet: CommandLine, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: MergeLearner) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(MergeLearner, "__next__", interrupted)
    words = write_words(tmp_path, "xyz\t1\n")
    before = listing(tmp_path)
    assert qwartet("vocab", "extend", small, words, tmp_path / "out").code == 130
    assert listing(tmp_path) == before


def test_a_vocabulary_file_needs_no_torch(small: Path, tmp_path: Path) -> None:
    arguments = ["vocab", "extend", str(small), str(write_words(tmp_path, "xyz\t1\n")), str(tmp_path / "out")]
    code = (
        f"import sys; from qwartet.cli.main import run; assert run({arguments!r}) == 0 and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), timeout=120)
