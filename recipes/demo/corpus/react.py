"""Tool calls in the ReAct format: the prompt lists the tools, and the model calls one or answers by itself.

There are two prompts to one call: the question, which the model answers with a call, and the question with the
call and its result, from which the model draws the final answer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

from qwartet.tokenizer.react import react_answer, react_call, react_observation, react_question
from recipes.demo.corpus import arithmetic, knowledge, smalltalk, values
from recipes.demo.corpus.conversation import Conversation, Language, Talk, conversation, one_turn
from recipes.demo.corpus.names import person, town
from recipes.demo.corpus.split import Split

Tool = dict[str, object]


@dataclass(frozen=True)
class Ability:
    """A kind of tool: its names, what it is for, its one parameter, and how users ask for it (`{v}` the argument)."""

    names: tuple[str, ...]
    human: str
    description: str
    parameter: str
    argument: Callable[[random.Random, Split, Language], str]
    questions: dict[Language, tuple[str, ...]]
    result: Callable[[random.Random, str, Language], str]
    answer: dict[Language, str]  # `{v}` the argument, `{r}` the result


def _expression(rng: random.Random, split: Split, language: Language) -> str:
    a, b = arithmetic.operands(rng, split)
    return f"{a} {rng.choice('+-*')} {b}"


def _computed(rng: random.Random, expression: str, language: Language) -> str:
    a, operation, b = expression.split()
    return str({"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[operation])


def _weather(rng: random.Random, argument: str, language: Language) -> str:
    sky = {"en": ("sunny", "rainy", "cloudy", "snowy", "windy"), "zh": ("晴", "小雨", "多云", "下雪", "大风")}[language]
    degrees = rng.randint(-9, 38)
    return f"{rng.choice(sky)}, {degrees} degrees" if language == "en" else f"{rng.choice(sky)}，{degrees}度"


def _clock(rng: random.Random, argument: str, language: Language) -> str:
    return values.clock(rng, "train")


def _number(rng: random.Random, argument: str, language: Language) -> str:
    return values.number(rng, "train", 1000, 99999)


def _place(rng: random.Random, argument: str, language: Language) -> str:
    return town(rng, "train", language)


def _anyone(rng: random.Random, split: Split, language: Language) -> str:
    return person(rng, split, language)


def _capital_or_town(rng: random.Random, split: Split, language: Language) -> str:
    if split == "train" and rng.random() < 0.3:
        return rng.choice(knowledge.CAPITALS[language])[1]
    return town(rng, split, language)


ABILITIES = (
    Ability(
        ("get_weather", "weather", "weather_api"),
        "weather",
        "Tells the weather of a city.",
        "city",
        _capital_or_town,
        {
            "en": (
                "What is the weather in {v}?",
                "How is the weather in {v} today?",
                "Is it raining in {v}?",
                "Weather in {v}?",
            ),
            "zh": ("{v}天气怎么样？", "{v}今天的天气如何？", "查一下{v}的天气。", "{v}下雨了吗？"),
        },
        _weather,
        {"en": "The weather in {v} is {r}.", "zh": "{v}的天气是{r}。"},
    ),
    Ability(
        ("calculator", "calculate", "math"),
        "calculator",
        "Computes an expression.",
        "expression",
        _expression,
        {
            "en": ("What is {v}?", "Calculate {v}.", "How much is {v}?", "{v} = ?"),
            "zh": ("{v}等于多少？", "计算{v}。", "帮我算{v}。", "{v}=？"),
        },
        _computed,
        {"en": "{v} = {r}", "zh": "{v} = {r}"},
    ),
    Ability(
        ("get_time", "clock", "world_time"),
        "clock",
        "Tells the time in a city.",
        "city",
        _capital_or_town,
        {
            "en": ("What time is it in {v}?", "Tell me the time in {v}.", "What is the time in {v}?"),
            "zh": ("{v}现在几点？", "{v}是什么时间？", "告诉我{v}的时间。"),
        },
        _clock,
        {"en": "The time in {v} is {r}.", "zh": "{v}的时间是{r}。"},
    ),
    Ability(
        ("find_phone", "phone_book", "contacts"),
        "phone book",
        "Finds the phone number of a person.",
        "name",
        _anyone,
        {
            "en": ("What is the phone number of {v}?", "Find the phone number of {v}.", "How can I call {v}?"),
            "zh": ("{v}的电话是多少？", "查一下{v}的电话。", "我想给{v}打电话。"),
        },
        _number,
        {"en": "The phone number of {v} is {r}.", "zh": "{v}的电话是{r}。"},
    ),
    Ability(
        ("find_person", "where_is", "locate"),
        "locator",
        "Tells where a person is.",
        "name",
        _anyone,
        {
            "en": ("Where is {v} now?", "Find out where {v} is.", "In which town is {v}?"),
            "zh": ("{v}现在在哪里？", "查一下{v}在哪儿。", "{v}在哪个城市？"),
        },
        _place,
        {"en": "{v} is in {r}.", "zh": "{v}在{r}。"},
    ),
    Ability(
        ("search", "web_search", "lookup"),
        "search",
        "Searches the web.",
        "query",
        lambda rng, split, language: values.password(rng, split),
        {
            "en": ("Search for {v}.", "Look up {v} on the web.", "Find {v} online."),
            "zh": ("搜索{v}。", "在网上查一下{v}。", "帮我搜一下{v}。"),
        },
        _number,
        {"en": "There are {r} pages about {v}.", "zh": "关于{v}有{r}个网页。"},
    ),
)
THOUGHT = "I should use {name}."


def _tool(ability: Ability, name: str) -> Tool:
    parameter = {"name": ability.parameter, "type": "string"}
    return {
        "name_for_model": name,
        "name_for_human": ability.human,
        "description_for_model": ability.description,
        "parameters": [parameter],
    }


def draw(rng: random.Random, split: Split, language: Language) -> Conversation:
    """A question with one to three tools: a call (expects name and arguments), its outcome, or a plain answer."""
    abilities = rng.sample(ABILITIES, rng.choice((1, 2, 2, 3)))
    names = [rng.choice(ability.names) for ability in abilities]
    tools = [_tool(ability, name) for ability, name in zip(abilities, names, strict=True)]
    if rng.random() < 0.15:
        asked, answered = smalltalk.talk(rng, split, language).turns[0]
        return conversation("react answer", one_turn(react_question(tools, asked), react_answer(answered), answered))
    index = rng.randrange(len(abilities))
    ability, name = abilities[index], names[index]
    argument = ability.argument(rng, split, language)
    question = react_question(tools, rng.choice(ability.questions[language]).format(v=argument))
    arguments = json.dumps({ability.parameter: argument}, ensure_ascii=False)
    call = react_call(THOUGHT.format(name=name), name, arguments)
    if rng.random() < 0.6:
        return conversation("react call", one_turn(question, call, f"{name} {arguments}"))
    result = ability.result(rng, argument, language)
    answer = ability.answer[language].format(v=argument, r=result)
    given = call + react_observation(result)
    full = given + react_answer(answer).removeprefix("Thought:")
    return conversation("react final", Talk(((question, full),), answer), given=given)
