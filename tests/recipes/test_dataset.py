"""The examples of a step: a function of (seed, step), whole conversations, labelled on the answers."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from qwartet.finetune.examples import Example
from qwartet.tokenizer.chatml import IGNORED_LABEL
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from recipes.demo import vocabulary
from recipes.demo.corpus import mixture, react
from recipes.demo.dataset import LONG_EVERY, MAX_LENGTH, MAX_LONG_LENGTH, Dataset, encode

STEPS = 100
LONG_STEP = next(step for step in range(STEPS) if step >= mixture.LONG_START * STEPS and step % LONG_EVERY == 0)


@pytest.fixture(scope="module")
def tokenizer() -> TiktokenTokenizer:
    return TiktokenTokenizer(vocabulary.build(num_ranks=1200, num_conversations=600))


@pytest.fixture(scope="module")
def dataset(tokenizer: TiktokenTokenizer) -> Dataset:
    return Dataset(tokenizer, STEPS, tokens_per_step=8192)


def ids_of(examples: list[Example]) -> list[list[int]]:
    return [example.ids.tolist() for example in examples]


def test_a_step_does_not_depend_on_what_was_asked_before(dataset: Dataset, tokenizer: TiktokenTokenizer) -> None:
    first = ids_of(dataset[7])
    for step in (3, 99, LONG_STEP):
        dataset[step]
    assert ids_of(dataset[7]) == first
    assert ids_of(Dataset(tokenizer, STEPS, tokens_per_step=8192)[7]) == first


def test_steps_seeds_splits_and_forms_differ(dataset: Dataset, tokenizer: TiktokenTokenizer) -> None:
    first = ids_of(dataset[7])
    changes = ({"seed": 1}, {"split": "test"}, {"form": "text"})
    others = [dataset[8], *(replace(dataset, **change)[7] for change in changes)]
    assert all(ids_of(other) != first for other in others)


@pytest.mark.parametrize("step", [0, 50, LONG_STEP])
def test_a_step_has_whole_conversations_up_to_its_tokens(
    dataset: Dataset, tokenizer: TiktokenTokenizer, step: int
) -> None:
    examples = dataset[step]
    lengths = [len(example.ids) for example in examples]
    longest = MAX_LONG_LENGTH if step == LONG_STEP else MAX_LENGTH
    assert 8192 <= sum(lengths) < 8192 + longest and max(lengths) <= longest
    for example in examples:
        assert example.ids[0] == tokenizer.im_start_id and example.ids[-2] == tokenizer.im_end_id
        assert example.labels[0] == IGNORED_LABEL


def test_pretraining_has_texts_without_markers_all_of_it_learned(
    dataset: Dataset, tokenizer: TiktokenTokenizer
) -> None:
    for example in replace(dataset, form="text")[3]:
        assert example.ids.tolist() == example.labels.tolist()
        assert example.ids[-1] == tokenizer.eod_id and tokenizer.eod_id not in example.ids[:-1]
        assert tokenizer.im_start_id not in example.ids and "helpful" not in tokenizer.decode(example.ids.tolist())


def test_a_stage_is_a_part_of_the_curriculum(dataset: Dataset) -> None:
    early, late = (replace(dataset, begin=begin, end=begin + 0.01, tokens_per_step=40_000)[0] for begin in (0.0, 0.99))
    looking_back = ("repeat", "retrieval", "retrieval drill")
    shares = [sum(example.name in looking_back for example in part) / len(part) for part in (early, late)]
    assert shares[0] > 0.5 > shares[1]


def test_labels_are_the_answers_and_nothing_else(tokenizer: TiktokenTokenizer) -> None:
    rng = random.Random(0)
    for _ in range(50):
        conversation = mixture.draw(rng, "train", 1.0)
        example = encode(tokenizer, conversation, 4096)
        ids, labels = example.ids.tolist(), example.labels.tolist()
        kept = [token_id for token_id in labels if token_id != IGNORED_LABEL]
        answers = [message.content for message in conversation.messages if message.role == "assistant"]
        del answers[: conversation.num_unlabelled]
        answers[-1] = answers[-1][len(conversation.given) :]
        assert tokenizer.decode(kept) == "".join(f"{answer}<|im_end|>\n" for answer in answers)
        assert all(label in (IGNORED_LABEL, token_id) for token_id, label in zip(ids, labels, strict=True))


def test_what_is_given_of_an_answer_has_no_labels(tokenizer: TiktokenTokenizer) -> None:
    rng = random.Random(1)
    given = [conversation for conversation in (react.draw(rng, "train", "en") for _ in range(40)) if conversation.given]
    assert given
    for conversation in given:
        example = encode(tokenizer, conversation, 4096)
        kept = tokenizer.decode([label for label in example.labels.tolist() if label != IGNORED_LABEL])
        assert kept.startswith(" I now know the final answer.")


def test_a_conversation_that_is_too_long_is_refused(tokenizer: TiktokenTokenizer) -> None:
    conversation = mixture.draw_one(random.Random(2), "train", "react")
    length = len(encode(tokenizer, conversation, 4096).ids)
    assert encode(tokenizer, conversation, length) is not None
    assert encode(tokenizer, conversation, length - 1) is None


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


@pytest.mark.slow
def test_batches_are_built_faster_than_they_are_learnt(dataset: Dataset) -> None:
    start = time.process_time()
    num_tokens = sum(len(example.ids) for step in range(10) for example in dataset[step])
    assert num_tokens / (time.process_time() - start) > 30_000
