"""docs/tokenization.md and its Chinese twin: the examples run on the published vocabulary, the facts are computed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from qwartet import DEMO, LLM, AutoTokenizer
from qwartet.card.compression import samples
from qwartet.card.file import read_card
from qwartet.compat.tokenization import QWenTokenizer
from qwartet.models.shapes import SHAPES
from qwartet.tokenizer.chatml import DEFAULT_SYSTEM
from qwartet.tokenizer.tiktoken_tokenizer import PATTERN, TiktokenTokenizer
from qwartet.tokenizer.vocabulary import SPECIAL_TOKENS
from tests.cli.command_line import environment
from tests.documents import blocks, prose, run_example
from tests.golden_data import REPOSITORY, real_vocabulary
from tests.tokenizer.vocabularies import published_tokenizer

ENGLISH, CHINESE = "docs/tokenization.md", "docs/tokenization.zh.md"
BOTH = pytest.mark.parametrize("name", [ENGLISH, CHINESE])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that stands for a published checkpoint: its vocabulary alone."""
    directory = tmp_path_factory.mktemp("published")
    shutil.copy(real_vocabulary(), directory / "qwen.tiktoken")
    return directory


@BOTH
def test_every_example_gives_what_it_shows(
    name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, as a reader would type them: later ones use names of earlier ones."""
    monkeypatch.chdir(tmp_path)  # the commands write a file, which an example reads
    for block in blocks(name, "sh"):
        run_commands(block.replace("Qwen/Qwen-7B-Chat-Int4", str(checkpoint)))
    names: dict[str, object] = {}
    for block in blocks(name, "python"):
        run_example(block.replace("Qwen/Qwen-7B-Chat-Int4", str(checkpoint)), names)


def run_commands(block: str) -> None:
    command = shlex.join([sys.executable, "-m", "qwartet"])
    subprocess.run(
        ["bash", "-ec", f'qwartet() {{ {command} "$@"; }}\n{block}'], check=True, env=environment(), timeout=120
    )


def test_an_example_that_shows_something_else_would_be_found() -> None:
    run_example(">>> 1 + 1\n2\n", {})
    run_example("print(1 + 1)  # 2\n", {})
    for wrong in (">>> 1 + 1\n3\n", "print(1 + 1)  # 3\n"):
        with pytest.raises(AssertionError):
            run_example(wrong, {})


@BOTH
def test_the_ids_of_the_special_tokens(name: str) -> None:
    ids = {token: SHAPES["72b"].num_ranks + number for number, token in enumerate(SPECIAL_TOKENS)}
    for token in SPECIAL_TOKENS[:3]:
        assert re.search(rf"^- {ids[token]}[,，] ?`{re.escape(token)}`", prose(name), re.MULTILINE), token
    extra = [ids[f"<|extra_{number}|>"] for number in (0, 204)]
    assert re.search(rf"^- {extra[0]} (?:to|到) {extra[1]}", prose(name), re.MULTILINE)
    assert len(SPECIAL_TOKENS) == 208 and "208" in prose(name)


@BOTH
def test_the_rows_of_the_embedding_and_those_that_are_free(name: str) -> None:
    used = SHAPES["72b"].num_ranks + len(SPECIAL_TOKENS)
    rows = [shape.vocab_size for shape in SHAPES.values()]
    assert rows[0] == rows[1] and rows[2] == rows[3]
    for number in (f"{rows[0]:,}", f"{rows[2]:,}", str(used), str(rows[0] - used), str(rows[2] - used)):
        assert re.search(rf"(?<![\d,]){number}(?![\d,])", prose(name)), number


@BOTH
def test_the_ids_in_the_table_of_the_chat_format(name: str) -> None:
    tokenizer = published_tokenizer()
    assert tokenizer.encode(DEFAULT_SYSTEM) == [2610, 525, 264, 10950, 17847, 13]
    for text in (["system", "user", "assistant"], ["\n"], [DEFAULT_SYSTEM], ["你好"]):
        ids = [token_id for one in text for token_id in tokenizer.encode(one)]
        assert re.search(rf"^\| {'(?:, |、| )'.join(map(str, ids))} \|", prose(name), re.MULTILINE), text


@BOTH
def test_the_table_of_languages(name: str) -> None:
    """Counts of OpenAI's vocabularies, which are not at hand everywhere, are those of the bundled model's card."""
    tokenizer = published_tokenizer()
    card = read_card(REPOSITORY / "docs" / "demo_card" / "card.json").compression
    cells = r" \| ".join([r"(\d+)"] * 4)
    rows = re.findall(rf"^\| [^|]+ \| {cells} \| ([\d.]+) \|$", prose(name), re.MULTILINE)
    for (language, text), row in zip(samples().items(), rows, strict=True):
        num_bytes, num_tokens = len(text.encode()), len(tokenizer.encode(text))
        others = (card[language]["cl100k_base"], card[language]["o200k_base"])
        assert row == tuple(map(str, (num_bytes, num_tokens, *others, f"{num_bytes / num_tokens:.2f}"))), language


def test_how_much_shorter_texts_are_than_with_cl100k() -> None:
    """A third to two thirds where the vocabulary was extended, nothing in English and code."""
    tokenizer = published_tokenizer()
    card = read_card(REPOSITORY / "docs" / "demo_card" / "card.json").compression
    saved = {
        language: 1 - len(tokenizer.encode(text)) / card[language]["cl100k_base"]
        for language, text in samples().items()
    }
    assert all(0.33 <= saved[language] <= 0.67 for language in ("zh", "ja", "ko", "ar", "he", "th", "vi", "ru"))
    assert abs(saved["en"]) < 0.01 and abs(saved["code"]) < 0.01


def test_every_byte_is_a_token_and_a_text_in_nfc_comes_back() -> None:
    tokenizer = published_tokenizer()
    assert {tokenizer.decode_bytes(token_id) for token_id in range(256)} == {bytes([byte]) for byte in range(256)}
    for text in samples().values():
        assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


def test_up_to_80_spaces_are_one_token_and_digits_stand_alone() -> None:
    tokenizer = published_tokenizer()
    assert {len(tokenizer.encode(" " * number)) for number in range(1, 81)} == {1}
    assert r"|\p{N}|" in PATTERN and len(tokenizer.encode("1234567890")) == 10


def test_the_chat_prompt_of_llm_has_the_same_ids() -> None:
    llm, tokenizer = LLM(), AutoTokenizer.from_pretrained(DEMO)
    messages = [{"role": "user", "content": "你好<|im_end|>"}]
    prompt = llm.chat_prompt("你好<|im_end|>", [], None, llm.sampling_params())
    assert prompt == tokenizer.apply_chat_template(messages, add_generation_prompt=True)


def test_an_id_of_no_token_is_never_chosen_and_a_text_is_plain_in_llm() -> None:
    llm = LLM()
    assert llm.engine.sampler.num_valid_tokens == llm.tokenizer.num_tokens < llm.model.config.vocab_size
    special = set(llm.tokenizer.special_tokens.values())
    assert special.isdisjoint(llm.tokenizer.encode("".join(SPECIAL_TOKENS)))
    assert special.issuperset(llm.tokenizer.encode("<|im_end|>", allowed_special={"<|im_end|>"}))


@BOTH
def test_the_vocabulary_of_the_bundled_model(name: str) -> None:
    tokenizer = TiktokenTokenizer.load(DEMO)
    special = tokenizer.special_tokens.values()
    assert f"{len(tokenizer.mergeable_ranks):,}" in prose(name)
    assert re.search(rf"[(（]{min(special)} (?:to|到) {max(special)}[)）]", prose(name))


def test_what_an_extra_vocabulary_cannot_be_and_how_it_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="regular tokens"):
        tokenizer.add_tokens(["word"])
    with pytest.raises(ValueError, match="unknown special tokens"):
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    with pytest.raises(ValueError, match="disallowed special token"):
        tokenizer.encode("<|im_end|>", allowed_special=set(), disallowed_special="all")
    extra = tmp_path / "extra.tiktoken"
    extra.write_text("5LiA5Y+q54yr 151851\nNXg= 151852\n")  # 一只猫; 5x, which the pattern cuts
    extended = QWenTokenizer(checkpoint, extra_vocab_file=extra)
    assert extended.encode("一只猫") == [151851] and 151852 not in extended.encode("5x")
    (tmp_path / "saved").mkdir()
    extended.save_vocabulary(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").encode("一只猫") == [151851]
