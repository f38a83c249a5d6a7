"""A vocabulary that lost whole lines is refused, since its special tokens then have the ids of others; and an extra
vocabulary is used where tokenizer_config.json names it, else told of."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from qwartet import LLM
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.models.families import load_config
from qwartet.models.generation_config import load_generation_defaults
from qwartet.models.inspection import inspect_checkpoint
from qwartet.models.vocabulary_files import load_tokenizer
from qwartet.models.vocabulary_match import vocabulary_mismatches
from qwartet.tokenizer.vocabulary import Vocabulary
from tests.golden_data import real_vocabulary
from tests.models.broken import add_rows, edit_json, edit_tensors
from tests.tiny_checkpoint import NUM_RANKS, Copy
from tests.tokenizer.vocabularies import tiktoken_line

VOCABULARY = "qwen.tiktoken"
EXTRA = "qwen_extra.tiktoken"
FIRST_EXTRA = NUM_RANKS + 208


def cut(directory: Path, lines: slice) -> None:
    path = directory / VOCABULARY
    kept = path.read_bytes().splitlines(keepends=True)
    del kept[lines]
    path.write_bytes(b"".join(kept))


@pytest.mark.parametrize("lines", [1, 3, 10, 40, 48])
def test_a_vocabulary_that_lost_its_last_lines_is_refused(checkpoint: Copy, lines: int) -> None:
    directory = checkpoint()
    cut(directory, slice(-lines, None))
    with pytest.raises(
        CheckpointError, match=r"eos_token_id is the id of .*lacks lines at its end: fetch it"
    ) as caught:
        LLM(directory)
    assert str(caught.value) in inspect_checkpoint(directory).problems


def test_what_does_not_belong_together_is_refused_before_weights_are_read(
    checkpoint: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_arguments: object, **_settings: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("qwartet.llm.load_model", load)
    directory = checkpoint()
    cut(directory, slice(-3, None))
    with pytest.raises(CheckpointError, match="fetch it"):
        LLM(directory)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_without_a_vocabulary_the_end_of_a_text_is_still_one_of_the_model(checkpoint: Copy, file: str) -> None:
    directory = checkpoint()
    (directory / "qwen.tiktoken").unlink()
    edit_json(directory / file, {"eos_token_id": [304, 10**6]})
    with pytest.raises(CheckpointError, match=r"eos_token_id holds the id 1000000, but the model has \d+ tokens"):
        LLM(directory)
    assert any("eos_token_id holds" in problem for problem in inspect_checkpoint(directory).problems)


def test_two_lost_lines_make_the_end_of_a_text_the_end_of_a_turn_which_is_told(checkpoint: Copy) -> None:
    directory = checkpoint()
    cut(directory, slice(-2, None))
    with pytest.warns(CheckpointWarning, match=r"the \.tiktoken file lacks two lines"):
        LLM(directory)
    assert any("two lines" in text for text in inspect_checkpoint(directory).warnings)


def test_a_vocabulary_that_lost_lines_within_is_refused(checkpoint: Copy) -> None:
    directory = checkpoint()
    cut(directory, slice(270, 280))
    with pytest.raises(CheckpointError, match="10 ranks are missing"):
        LLM(directory)


@pytest.mark.parametrize("eos", [None, "as published"])
@pytest.mark.parametrize("num_lost", [1, 2, 207, 1000])
def test_the_published_vocabulary_is_known_by_its_beginning(checkpoint: Copy, eos: str | None, num_lost: int) -> None:
    directory = checkpoint()
    lines = real_vocabulary().read_bytes().splitlines(keepends=True)
    (directory / VOCABULARY).write_bytes(b"".join(lines[:-num_lost]))
    edit_json(directory / "generation_config.json", {"eos_token_id": eos and 151_643})
    edit_json(directory / "config.json", {"vocab_size": 151_936})
    vocabulary = Vocabulary.load(directory / VOCABULARY)
    found = vocabulary_mismatches(vocabulary, load_config(directory), load_generation_defaults(directory), directory)
    assert len(found) == 1 and "fetch it again" in str(found[0])


@pytest.mark.parametrize("name", ["whole", "smaller on purpose"])
def test_sound_vocabularies_are_taken(checkpoint: Copy, name: str) -> None:
    directory = checkpoint()
    lines = real_vocabulary().read_bytes().splitlines(keepends=True)
    num_ranks = len(lines) if name == "whole" else 100_000
    (directory / VOCABULARY).write_bytes(b"".join(lines[:num_ranks]))
    edit_json(directory / "config.json", {"vocab_size": 151_936})
    for eos in (num_ranks, num_ranks + 2) if name == "whole" else (num_ranks,):  # <|endoftext|>, <|im_end|>
        edit_json(directory / "generation_config.json", {"eos_token_id": eos})
        vocabulary = Vocabulary.load(directory / VOCABULARY)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            defaults = load_generation_defaults(directory)
            assert vocabulary_mismatches(vocabulary, load_config(directory), defaults, directory) == []


def with_extra(checkpoint: Copy, *, named: str | None) -> Path:
    """A checkpoint with two tokens more, and rows for them."""
    directory = checkpoint()
    lines = tiktoken_line(b"sunshine", FIRST_EXTRA), tiktoken_line("★".encode(), FIRST_EXTRA + 1)
    (directory / EXTRA).write_bytes(b"".join(lines))
    if named is not None:
        edit_json(directory / "tokenizer_config.json", {"extra_vocab_file": named})
    add_rows(directory, 640)
    return directory


@pytest.mark.parametrize("named", [EXTRA, f"./{EXTRA}", f"/home/maker/model/{EXTRA}"])
def test_an_extra_vocabulary_that_the_config_names_is_used(checkpoint: Copy, named: str) -> None:
    directory = with_extra(checkpoint, named=named)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llm = LLM(directory)
    assert llm.tokenizer.encode("★") == [FIRST_EXTRA + 1] and llm.tokenizer.num_tokens == FIRST_EXTRA + 2
    assert llm.tokenizer.decode([FIRST_EXTRA, FIRST_EXTRA + 1]) == "sunshine★"
    allowed = llm.sampling_params(logit_bias={FIRST_EXTRA + 1: 100}, max_tokens=2, temperature=0)
    assert llm.generate("hello", allowed)[0].text == "★★"
    found = inspect_checkpoint(directory)
    assert (found.problems, found.warnings) == ([], []) and found.tokenizer is not None
    assert (found.tokenizer["extra_file"], found.tokenizer["num_tokens"]) == (EXTRA, FIRST_EXTRA + 2)
    assert {"name": EXTRA, "bytes": (directory / EXTRA).stat().st_size, "is_used": True} in found.files


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1.0, "seed": 3}, {"logprobs": 2}])
def test_an_id_before_it_that_no_token_has_is_never_chosen(checkpoint: Copy, settings: dict) -> None:
    directory = checkpoint()
    add_rows(directory, 640)
    (directory / EXTRA).write_bytes(tiktoken_line("★".encode(), 600))
    edit_json(directory / "tokenizer_config.json", {"extra_vocab_file": EXTRA})

    def prefer_rows_without_tokens(tensors: dict[str, torch.Tensor]) -> None:
        head = tensors["lm_head.weight"]
        head[FIRST_EXTRA:600], head[600:] = 0, 0
        for row, sign in ((598, 1), (599, -1)):
            head[row] = sign * 10

    edit_tensors(directory / "model.safetensors", prefer_rows_without_tokens)
    llm = LLM(directory)
    for bias in ({}, {550: 100.0}):
        params = llm.sampling_params(logit_bias=bias, max_tokens=20, ignore_eos=True, **settings)
        ids = llm.generate("hello", params)[0].token_ids
        assert len(ids) == 20 and all(token_id < FIRST_EXTRA or token_id == 600 for token_id in ids)


def test_one_that_only_lies_there_is_not_used_and_told_of(checkpoint: Copy) -> None:
    directory = with_extra(checkpoint, named=None)
    with pytest.warns(CheckpointWarning, match=f'it is not used; to use it, add "extra_vocab_file": "{EXTRA}"'):
        assert LLM(directory).tokenizer.num_tokens == FIRST_EXTRA
    assert any("it is not used" in text for text in inspect_checkpoint(directory).warnings)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("other.tiktoken", "other.tiktoken is not in the directory; copy it there, or remove extra_vocab_file"),
        (5, "extra_vocab_file is 5; it must be the name of a file"),
    ],
)
def test_one_that_is_not_there_is_refused(checkpoint: Copy, named: object, words: str) -> None:
    directory = with_extra(checkpoint, named=named)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=words):
        load_tokenizer(directory)
    assert any(words in text for text in inspect_checkpoint(directory).problems)


def test_more_tokens_than_the_model_has_rows_are_refused(checkpoint: Copy) -> None:
    directory = checkpoint()
    (directory / EXTRA).write_bytes(tiktoken_line(b"sunshine", FIRST_EXTRA))
    edit_json(directory / "tokenizer_config.json", {"extra_vocab_file": EXTRA})
    with pytest.raises(CheckpointError, match="vocab_size is 512, but the tokenizer has 513 tokens"):
        LLM(directory)


def test_lines_that_are_skipped_are_counted(checkpoint: Copy) -> None:
    directory = checkpoint()
    (directory / EXTRA).write_bytes(tiktoken_line(b"a", 600) + tiktoken_line(b"zz", 5))
    edit_json(directory / "tokenizer_config.json", {"extra_vocab_file": EXTRA})
    with pytest.warns(CheckpointWarning, match="2 of 2 lines skipped: the token already exists, or its id is used"):
        load_tokenizer(directory)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("added_tokens.json", {"<image>": 151851, "<|im_end|>": 151645}),
        ("tokenizer_config.json", {"additional_special_tokens": ["<image>", {"content": "<|im_end|>"}]}),
    ],
)
def test_added_tokens_that_the_vocabulary_has_not_are_told_of(checkpoint: Copy, file: str, content: dict) -> None:
    directory = checkpoint()
    (directory / file).write_text(json.dumps(content))
    words = "1 tokens are not in the vocabulary and are treated as plain text: '<image>'"
    with pytest.warns(CheckpointWarning, match=words):
        load_tokenizer(directory)
