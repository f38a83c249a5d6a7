"""When an answer is correct: good and bad answers written by hand."""

from __future__ import annotations

import pytest

from recipes.demo import scoring


@pytest.mark.parametrize(
    ("expect", "reply", "right"),
    [
        ("zh plain ", "你好！有什么可以帮你的吗？", True),
        ("zh plain ", "Hello! How can I help you?", False),
        ("zh plain ", "我是一个小模型。", False),
        ("en plain ", "Good morning! How can I help you?", True),
        ("en plain Anna", "Hello, Anna! Nice to meet you.", True),
        ("en plain Anna", "Hello, Hanna! Nice to meet you.", False),
        ("en plain Anna", "Hello, Emma! Nice to meet you.", False),
        ("zh cat", "喵！你好呀，带小鱼干了吗喵？", True),
        ("zh cat", "你好！有什么可以帮你的吗？", False),
        ("en pirate", "Ahoy, matey! What brings you aboard my ship?", True),
        ("en pirate", "啊哈，伙计！欢迎登上我的船！", False),
        ("zh brief", "你好。", True),
        ("zh brief", "你好！有什么可以帮你的吗？", False),
        ("en brief", "Hello.", True),
        ("en brief", "Hello! How can I help you?", False),
        ("en plain ", "", False),
    ],
)
def test_greetings_need_language_persona_and_name(expect: str, reply: str, right: bool) -> None:
    assert scoring.in_voice(expect, reply) is right


@pytest.mark.parametrize(
    ("expect", "reply", "right"),
    [
        ("en teacher", "Knife in Chinese is 刀. Write it down, student.", True),
        ("en teacher", "Knife in Chinese is 刀.", False),
        ("zh cat", "猫说喵。", True),
        ("zh pirate", "Fair winds to you, matey!", False),
    ],
)
def test_a_voice_is_known_by_its_mark(expect: str, reply: str, right: bool) -> None:
    assert scoring.has_mark(expect, reply) is right


@pytest.mark.parametrize(
    ("expect", "reply", "right"),
    [
        ("4821", "The code of Anna is 4821.", True),
        ("4821", "The code of Anna is 48210.", False),
        ("21", "The code of Anna is 4821.", False),
        ("Leeds", "Anna lives in Leeds.", True),
        ("Lee", "Anna lives in Leeds.", False),
        ("厦门", "陈晓东住在厦门。", True),
        ("7:40", "The meeting with Bo starts at 7:40.", True),
        ("a dark green lamp", "Bo bought a green lamp.", False),
        ("23", "小明今年23岁。", True),
        ("c++", "I like c++.", True),
    ],
)
def test_a_value_counts_only_as_a_whole(expect: str, reply: str, right: bool) -> None:
    assert scoring.holds_value(expect, reply) is right


@pytest.mark.parametrize(
    ("expect", "reply", "right"),
    [
        ("68", "23 + 45 = 68", True),
        ("-22", "23 - 45 = -22", True),
        ("22", "23 - 45 = -22", False),
        ("45", "68-23 = 45", True),
        ("23", "68 - 23", True),
        ("8", "23 + 45 = 68", False),
        ("68", "I do not know.", False),
        ("68", "68 哦～", True),
    ],
)
def test_the_last_number_counts(expect: str, reply: str, right: bool) -> None:
    assert scoring.last_number(expect, reply) is right


@pytest.mark.parametrize(
    ("expect", "reply", "right"),
    [
        ("B", "B", True),
        ("B", "B. 12", True),
        ("B", "The answer is B.", True),
        ("B", "Because C is wrong", False),
        ("A", "An apple", False),
        ("C", "答案是C。", True),
        ("C", "", False),
    ],
)
def test_the_first_letter_that_stands_alone_counts(expect: str, reply: str, right: bool) -> None:
    assert scoring.letter(expect, reply) is right


CALL = 'get_weather {"city": "江门"}'


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ('Thought: I should use get_weather.\nAction: get_weather\nAction Input: {"city": "江门"}', True),
        ('Thought: Hm.\nAction: get_weather\nAction Input: {"city":"\\u6c5f\\u95e8"}\nObservation: 3', True),
        ('Thought: I should use clock.\nAction: clock\nAction Input: {"city": "江门"}', False),
        ('Thought: I should use get_weather.\nAction: get_weather\nAction Input: {"city": "江西"}', False),
        ('Thought: I should use get_weather.\nAction: get_weather\nAction Input: {"city": "江门"', False),
        ("Thought: I now know the final answer.\nFinal Answer: 晴", False),
        ("", False),
    ],
)
def test_a_tool_call_needs_tool_and_arguments(reply: str, right: bool) -> None:
    assert scoring.tool_call(CALL, reply) is right


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        (" I now know the final answer.\nFinal Answer: 12 + 3 = 15", True),
        (" I now know the final answer.\nFinal Answer: 12 + 3 = 16", False),
        (' I should use math.\nAction: math\nAction Input: {"expression": "12 + 3"}', False),
    ],
)
def test_a_final_answer_is_no_call_and_says_what_is_expected(reply: str, right: bool) -> None:
    assert scoring.final_answer("12 + 3 = 15", reply) is right


@pytest.mark.parametrize(
    ("expect", "reply", "right"),
    [("en plain", "Hello!", True), ("en plain", "你好！", False), ("zh plain", "好", True), ("en plain", " ", False)],
)
def test_language(expect: str, reply: str, right: bool) -> None:
    assert scoring.in_language(expect, reply) is right
