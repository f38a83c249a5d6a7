"""Settings of generation_config.json affect the answers of LLM, and invalid ones fail at load."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qwartet import LLM
from qwartet.errors import CheckpointError, CheckpointWarning
from qwartet.models.inspection import inspect_checkpoint
from tests.models.broken import edit_json
from tests.tiny_checkpoint import Copy

PROMPT = [5, 6, 7, 5, 6]


def loaded(directory: Path, **changes: Any) -> LLM:
    edit_json(directory / "generation_config.json", {"do_sample": False, "repetition_penalty": 1.0} | changes)
    return LLM(directory)


def ids(llm: LLM, **sampling: Any) -> list[int]:
    completion = llm.generate([PROMPT], llm.sampling_params(**{"max_tokens": 12, **sampling}))[0]
    assert completion.error is None, completion.error
    return completion.token_ids


def test_the_defaults_of_a_checkpoint_are_those_of_every_request(checkpoint: Copy) -> None:
    directory = checkpoint()
    plain = ids(loaded(directory))
    assert plain[0] not in ids(loaded(directory, suppress_tokens=[plain[0]]))
    assert plain[0] != ids(loaded(directory, begin_suppress_tokens=[plain[0]]))[0]
    assert plain[1] != ids(loaded(directory, bad_words_ids=[plain[:2]]))[1]
    without_repeats = [*PROMPT, *ids(loaded(directory, no_repeat_ngram_size=2))]
    pairs = list(pairwise(without_repeats))
    assert len(set(pairs)) == len(pairs) - 1, "the prompt itself has one pair twice"


def test_the_same_settings_may_be_given_from_python_by_their_published_names(checkpoint: Copy) -> None:
    llm = loaded(checkpoint())
    plain = ids(llm)
    assert ids(llm, suppress_tokens=plain[:1])[0] != plain[0]
    assert len(ids(llm, stop_token_ids=[plain[1]], min_new_tokens=5)) >= 5
    assert len(llm.chat("hello", temperature=0, max_tokens=3, num_beams=1)[0]) > 0  # asks for nothing


def test_a_minimum_delays_the_end_and_max_length_counts_the_prompt(checkpoint: Copy) -> None:
    directory = checkpoint()
    first = ids(loaded(directory))[0]
    ends = {"stop_words_ids": [[first]]}
    assert len(ids(loaded(directory, **ends))) == 1
    assert len(ids(loaded(directory, min_new_tokens=4, **ends))) >= 5
    assert len(ids(loaded(directory, min_new_tokens=0, min_length=len(PROMPT) + 4, **ends))) >= 5
    limited = loaded(directory, min_length=0, max_new_tokens=None, max_length=len(PROMPT) + 2, stop_words_ids=None)
    assert len(limited.generate([PROMPT], limited.sampling_params())[0].token_ids) == 2


def test_num_beams_is_told_of_at_load(checkpoint: Copy) -> None:
    with pytest.warns(CheckpointWarning, match=r"generation_config.json: ignored: num_beams 4 \(there is no beam"):
        loaded(checkpoint(), num_beams=4)


@pytest.mark.parametrize("key", ["stop_words_ids", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"])
def test_ids_of_no_token_fail_at_load_and_are_found_by_inspect(checkpoint: Copy, key: str) -> None:
    directory = checkpoint()
    bad = [1, 999999]
    with pytest.raises(CheckpointError, match=f"{key} holds the id 999999, but the model has 512 tokens") as caught:
        loaded(directory, **{key: [bad] if key.endswith("words_ids") else bad})
    assert caught.value.path == str(directory / "generation_config.json")
    assert any(f"{key} holds the id 999999" in problem for problem in inspect_checkpoint(directory).problems)


def test_a_value_out_of_bounds_fails_at_load_and_is_found_by_inspect(checkpoint: Copy) -> None:
    directory = checkpoint()
    with pytest.raises(CheckpointError, match=r"generation_config\.json: top_p is 7; it must be a number from 0 to 1"):
        loaded(directory, top_p=7)
    assert any("top_p is 7" in problem for problem in inspect_checkpoint(directory).problems)
