"""Training rows: a batch is a function of (seed, step), holds whole conversations, and is labelled on the answers."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from qwartet.errors import SettingError
from qwartet.tokenizer.chatml import IGNORED_LABEL
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from recipes.demo import vocabulary
from recipes.demo.corpus import mixture, react
from recipes.demo.dataset import LONG_EVERY, LONG_ROW_LENGTH, ROW_LENGTH, Dataset, encode, pack

STEPS = 100
LONG_STEP = next(step for step in range(STEPS) if step >= mixture.LONG_START * STEPS and step % LONG_EVERY == 0)


@pytest.fixture(scope="module")
def tokenizer() -> TiktokenTokenizer:
    return TiktokenTokenizer(vocabulary.build(num_ranks=1200, num_conversations=600))


@pytest.fixture(scope="module")
def dataset(tokenizer: TiktokenTokenizer) -> Dataset:
    return Dataset(tokenizer, STEPS, tokens_per_step=8192)


def assert_equal(left, right) -> None:
    np.testing.assert_array_equal(left.ids, right.ids)
    np.testing.assert_array_equal(left.labels, right.labels)
    assert left.lengths == right.lengths


def test_a_batch_does_not_depend_on_what_was_asked_before(dataset: Dataset, tokenizer: TiktokenTokenizer) -> None:
    first = dataset.batch(7)
    for step in (3, 99, LONG_STEP):
        dataset.batch(step)
    assert_equal(dataset.batch(7), first)
    assert_equal(Dataset(tokenizer, STEPS, tokens_per_step=8192).batch(7), first)


def test_steps_seeds_and_splits_differ(dataset: Dataset, tokenizer: TiktokenTokenizer) -> None:
    first = dataset.batch(7).ids
    others = [
        dataset.batch(8),
        Dataset(tokenizer, STEPS, 8192, seed=1).batch(7),
        Dataset(tokenizer, STEPS, 8192, split="test").batch(7),
    ]
    assert all(not np.array_equal(first, other.ids) for other in others)


@pytest.mark.parametrize("step", [0, 50, LONG_STEP])
def test_rows_hold_whole_conversations_and_padding_last(
    dataset: Dataset, tokenizer: TiktokenTokenizer, step: int
) -> None:
    batch = dataset.batch(step)
    assert batch.ids.dtype == batch.labels.dtype == np.int32
    assert batch.ids.size == 8192
    assert batch.ids.shape[1] == (LONG_ROW_LENGTH if step == LONG_STEP else ROW_LENGTH)
    for ids, labels, lengths in zip(batch.ids, batch.labels, batch.lengths, strict=True):
        assert sum(lengths) == len(ids)
        start = 0
        for index, length in enumerate(lengths):
            piece, marks = ids[start : start + length], labels[start : start + length]
            if index == len(lengths) - 1 and piece[0] == tokenizer.eod_id:
                assert (piece == tokenizer.eod_id).all()
                assert (marks == IGNORED_LABEL).all()
            else:
                assert piece[0] == tokenizer.im_start_id
                assert piece[-2] == tokenizer.im_end_id
                assert marks[0] == IGNORED_LABEL  # so that no conversation predicts the start of the next one
            start += length


def test_rows_are_nearly_full(dataset: Dataset, tokenizer: TiktokenTokenizer) -> None:
    padding = np.mean([(dataset.batch(step).ids == tokenizer.eod_id).mean() for step in range(0, STEPS, 20)])
    assert padding < 0.1


def test_labels_are_the_answers_and_nothing_else(tokenizer: TiktokenTokenizer) -> None:
    rng = random.Random(0)
    for _ in range(50):
        conversation = mixture.draw(rng, "train", 1.0)
        ids, labels = encode(tokenizer, conversation, 4096)
        kept = [token_id for token_id in labels if token_id != IGNORED_LABEL]
        answers = [message.content for message in conversation.messages if message.role == "assistant"]
        answers[-1] = answers[-1][len(conversation.given) :]
        assert tokenizer.decode(kept) == "".join(f"{answer}<|im_end|>\n" for answer in answers)
        assert all(label in (IGNORED_LABEL, token_id) for token_id, label in zip(ids, labels, strict=True))


def test_what_is_given_of_an_answer_has_no_labels(tokenizer: TiktokenTokenizer) -> None:
    rng = random.Random(1)
    given = [conversation for conversation in (react.draw(rng, "train", "en") for _ in range(40)) if conversation.given]
    assert given
    for conversation in given:
        _, labels = encode(tokenizer, conversation, 4096)
        kept = tokenizer.decode([label for label in labels if label != IGNORED_LABEL])
        assert kept.startswith(" I now know the final answer.")


def test_a_conversation_that_is_too_long_is_refused(tokenizer: TiktokenTokenizer) -> None:
    conversation = mixture.draw_one(random.Random(2), "train", "react")
    ids, _ = encode(tokenizer, conversation, 4096)
    assert encode(tokenizer, conversation, len(ids)) is not None
    assert encode(tokenizer, conversation, len(ids) - 1) is None


def test_what_fits_nowhere_is_left_out() -> None:
    batch = pack([([1] * 3, [1] * 3), ([2] * 4, [2] * 4), ([3] * 4, [3] * 4)], num_rows=1, row_length=8, pad_id=0)
    assert batch.ids.tolist() == [[2, 2, 2, 2, 3, 3, 3, 3]]
    assert batch.lengths == [[4, 4]]


def test_the_curriculum_starts_with_looking_back_and_two_facts() -> None:
    rng = random.Random(3)
    looking_back = ("repeat", "retrieval", "retrieval drill")
    share = {
        progress: sum(mixture.draw(rng, "train", progress).kind in looking_back for _ in range(500)) / 500
        for progress in (0.0, 1.0)
    }
    assert share[0.0] > 0.5 > share[1.0]
    assert {mixture.retrieval_stage(rng, 0.0).facts for _ in range(50)} == {(2, 2)}
    assert sum(mixture.weight(kind, 0.6) for kind in mixture.WEIGHTS) == pytest.approx(100, abs=3)


def test_a_step_outside_the_run_is_an_index_error(dataset: Dataset) -> None:
    with pytest.raises(IndexError):
        dataset[STEPS]


def test_a_bad_batch_size_is_refused(tokenizer: TiktokenTokenizer) -> None:
    with pytest.raises(SettingError, match="1000; use a multiple of 2048"):
        Dataset(tokenizer, STEPS, tokens_per_step=1000)


@pytest.mark.slow
def test_batches_are_built_faster_than_they_are_learnt(dataset: Dataset) -> None:
    start = time.process_time()
    num_tokens = sum(dataset.batch(step).ids.size for step in range(10))
    assert num_tokens / (time.process_time() - start) > 30_000
