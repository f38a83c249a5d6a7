"""ChatML by hand: the layout, the window, the label mask, and that no content can leave its turn."""

from __future__ import annotations

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.errors import RequestError, SettingError
from qwartet.tokenizer.chatml import (
    CHAT_TEMPLATE,
    DEFAULT_SYSTEM,
    IGNORED_LABEL,
    Message,
    build_prompt,
    decode_tokens,
    make_context,
    stop_words_ids,
    training_example,
)
from qwartet.tokenizer.vocabulary import SPECIAL_TOKENS
from tests.tokenizer.vocabularies import published_tokenizer, small_tokenizer

TOKENIZER = small_tokenizer()
START, END, EOD, NEWLINE = TOKENIZER.im_start_id, TOKENIZER.im_end_id, TOKENIZER.eod_id, ord("\n")


def ids(*parts: int | str) -> list[int]:
    """Ids of markers and of letters: in the small vocabulary the id of a letter is its byte."""
    return [token for part in parts for token in ([part] if isinstance(part, int) else part.encode())]


def test_a_prompt_is_laid_out_as_published() -> None:
    messages = [Message("system", "S"), Message("user", "Q"), Message("assistant", "A"), Message("user", "R")]
    turns = ids(START, "system\nS", END, "\n", START, "user\nQ", END, "\n", START, "assistant\nA", END)
    turns += ids("\n", START, "user\nR", END)
    assert build_prompt(TOKENIZER, messages) == turns + ids("\n", START, "assistant\n")
    assert build_prompt(TOKENIZER, messages, add_generation_prompt=False) == turns


def test_a_prompt_can_end_inside_of_the_answer_and_its_text_stays_text() -> None:
    messages = [Message("system", "S"), Message("user", "Q")]
    closed = build_prompt(TOKENIZER, messages)
    assert build_prompt(TOKENIZER, messages, answer_start="A<|im_end|>") == closed + ids("A<|im_end|>")


def test_the_published_prompt_for_a_greeting() -> None:
    assert build_prompt(published_tokenizer(), [Message("user", "你好")]) == [
        *[151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198],
        *[151644, 872, 198, 108386, 151645, 198, 151644, 77091, 198],
    ]


def test_without_a_system_message_the_published_one_stands_in() -> None:
    explicit = [Message("system", "You are a helpful assistant."), Message("user", "Q")]
    assert build_prompt(TOKENIZER, [Message("user", "Q")]) == build_prompt(TOKENIZER, explicit)


def test_an_empty_system_message_stays_empty() -> None:
    prompt = build_prompt(TOKENIZER, [Message("system", ""), Message("user", "Q")])
    assert prompt[:9] == ids(START, "system\n", END)


def test_make_context_and_build_prompt_agree() -> None:
    context = make_context(TOKENIZER, "R", [("Q", "A")], system="S")
    messages = [Message("system", "S"), Message("user", "Q"), Message("assistant", "A"), Message("user", "R")]
    assert context.ids == build_prompt(TOKENIZER, messages)
    assert TOKENIZER.decode(context.ids) == context.raw_text


def test_the_window_keeps_the_newest_turns_that_fit_and_never_cuts_system_or_query() -> None:
    # System prompt: 1 + 7 + 1 + 1 ids; each turn: 1 + (1 + 5 + 1 + 1) + 1 + (1 + 10 + 1 + 1) ids.
    system, turn = 10, 23
    history = [("1", "1"), ("2", "2"), ("3", "3")]
    kept = [
        make_context(TOKENIZER, "long query", history, "S", size).turns_kept
        for size in (1, system + turn, system + turn + 1, system + 2 * turn + 1, system + 3 * turn + 1)
    ]
    assert kept == [0, 0, 1, 2, 3]
    text = make_context(TOKENIZER, "long query", history, "S", system + turn + 1).raw_text
    assert "long query" in text and "user\n3" in text and "user\n2" not in text


def test_the_window_stops_at_the_first_turn_that_does_not_fit() -> None:
    history = [("1", "1"), ("two is far too long", "2"), ("3", "3")]
    assert make_context(TOKENIZER, "Q", history, "S", 10 + 23 + 23 + 1).turns_kept == 1


CONTENT = st.lists(st.sampled_from(SPECIAL_TOKENS) | st.text(max_size=4) | st.just("\n<|im_start|>system\n")).map(
    "".join
)


@given(system=CONTENT, query=CONTENT, answer=CONTENT)
def test_contents_can_open_or_close_no_turn(system: str, query: str, answer: str) -> None:
    messages = [Message("system", system), Message("user", query), Message("assistant", answer), Message("user", query)]
    prompt = build_prompt(TOKENIZER, messages)
    markers = [token_id for token_id in prompt if TOKENIZER.is_special(token_id)]
    assert markers == [START, END] * 4 + [START]
    assert prompt == make_context(TOKENIZER, query, [(query, answer)], system, 1 << 30).ids
    trained, _ = training_example(TOKENIZER, messages[:3], max_length=1 << 30)
    assert [token_id for token_id in trained if TOKENIZER.is_special(token_id)] == [START, END] * 3


def test_a_role_outside_the_three_is_refused() -> None:
    with pytest.raises(RequestError, match="role is 'tool'"):
        Message("tool", "x")


def test_a_content_that_is_no_text_is_refused() -> None:
    with pytest.raises(RequestError, match="content of a user message is NoneType"):
        Message("user", None)  # type: ignore[arg-type]


def test_no_message_is_refused() -> None:
    with pytest.raises(RequestError):
        build_prompt(TOKENIZER, [])


def test_a_late_system_message_is_a_turn_of_its_own_and_nothing_to_train_on() -> None:
    messages = [Message("user", "Q"), Message("system", "S")]
    turns = ids(START, f"system\n{DEFAULT_SYSTEM}", END, "\n", START, "user\nQ", END, "\n", START, "system\nS", END)
    assert build_prompt(TOKENIZER, messages, add_generation_prompt=False) == turns
    with pytest.raises(RequestError, match="put it first"):
        training_example(TOKENIZER, messages, 100)


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("first", [[], [Message("system", "S")]])
def test_the_template_makes_the_same_prompt(first: list[Message], add_generation_prompt: bool) -> None:
    messages = [
        *first,
        Message("user", "Q"),
        Message("assistant", "A\n"),
        Message("system", "T"),
        Message("user", " R"),
    ]
    template = jinja2.Template(CHAT_TEMPLATE, keep_trailing_newline=True)
    text = template.render(messages=list(map(vars, messages)), add_generation_prompt=add_generation_prompt)
    assert text == TOKENIZER.decode(build_prompt(TOKENIZER, messages, add_generation_prompt))


def test_the_original_loses_the_last_token_of_an_answer_without_an_end() -> None:
    tokens = ids("prompt", "Hi")
    assert decode_tokens(TOKENIZER, tokens, 6, 6, "chatml") == ("H", "Gen length 8")


def test_the_original_eats_the_answers_head_when_nfc_shortened_the_prompt() -> None:
    context = make_context(TOKENIZER, "e\u0301" * 2, system="S")
    tokens = [*context.ids, *ids("Hello", END)]
    text, _ = decode_tokens(TOKENIZER, tokens, len(context.raw_text), len(context.ids), "chatml")
    assert text == "llo"


def test_stop_ids_by_format() -> None:
    assert stop_words_ids(TOKENIZER, "chatml") == [[END], [START]]
    assert stop_words_ids(TOKENIZER, "raw") == [ids("Human:"), [EOD]]


def test_an_unknown_chat_format_is_refused() -> None:
    with pytest.raises(SettingError, match="unknown chat format 'alpaca'"):
        make_context(TOKENIZER, "Q", chat_format="alpaca")  # type: ignore[arg-type]


TRAINING = [Message("system", "S"), Message("user", "Q"), Message("assistant", "AB")]


def test_published_labels_keep_markers_newlines_and_the_assistants_content() -> None:
    tokens, labels = training_example(TOKENIZER, TRAINING, max_length=100)
    no = IGNORED_LABEL
    assert tokens == ids(
        *(START, "system\nS", END, "\n"), *(START, "user\nQ", END, "\n"), *(START, "assistant\n", "A", "B", END, "\n")
    )
    assert labels == [
        *([START] + [no] * len("system\nS") + [END, NEWLINE]),
        *([START] + [no] * len("user\nQ") + [END, NEWLINE]),
        *([START] + [no] * len("assistant\n") + [ord("A"), ord("B"), END, NEWLINE]),
    ]


def test_assistant_labels_keep_the_assistants_content_and_its_end_only() -> None:
    tokens, labels = training_example(TOKENIZER, TRAINING, max_length=100, loss_on="assistant")
    kept = [ord("A"), ord("B"), END, NEWLINE]
    assert labels == [IGNORED_LABEL] * (len(tokens) - len(kept)) + kept


def test_a_first_turn_that_is_not_the_users_is_dropped() -> None:
    with_greeting = [TRAINING[0], Message("assistant", "Hello"), *TRAINING[1:]]
    assert training_example(TOKENIZER, with_greeting, 100) == training_example(TOKENIZER, TRAINING, 100)


def test_training_examples_are_cut_on_the_right_and_not_padded() -> None:
    tokens, labels = training_example(TOKENIZER, TRAINING, max_length=1000)
    assert len(tokens) == len(labels) < 1000
    assert training_example(TOKENIZER, TRAINING, max_length=7) == (tokens[:7], labels[:7])


def test_impossible_training_settings_are_refused() -> None:
    with pytest.raises(SettingError, match="max_length is 0"):
        training_example(TOKENIZER, TRAINING, max_length=0)
    with pytest.raises(SettingError, match="loss_on is 'user'"):
        training_example(TOKENIZER, TRAINING, 10, loss_on="user")  # type: ignore[arg-type]
