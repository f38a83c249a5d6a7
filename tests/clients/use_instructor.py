"""instructor: objects from text, in each of its modes."""

from __future__ import annotations

from typing import Any

import instructor
import openai
from instructor.core.exceptions import InstructorRetryException
from pydantic import BaseModel, ConfigDict, Field
from uses import API_KEY, BASE_URL, MODEL, WEATHER, busy, raises, run, use

client = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY)
asked: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": WEATHER}]


class City(BaseModel):
    """A city."""

    model_config = ConfigDict(extra="forbid")  # else the schema allows any other key, which a small model makes up
    city: str = Field(max_length=20)


def ask(mode: instructor.Mode, **options: Any) -> Any:
    made = instructor.from_openai(client, mode=mode)
    return made.chat.completions.create(
        model=MODEL, messages=asked, response_model=City, temperature=0, max_retries=2, max_tokens=100, **options
    )  # fmt: skip


@use
def tools() -> None:
    assert isinstance(ask(instructor.Mode.TOOLS), City)
    assert isinstance(ask(instructor.Mode.TOOLS_STRICT), City)


@use
def structured() -> None:
    assert isinstance(ask(instructor.Mode.JSON_SCHEMA), City)


@use
def stream() -> None:
    made = instructor.from_openai(client, mode=instructor.Mode.JSON_SCHEMA)
    found = list(made.chat.completions.create_partial(model=MODEL, messages=asked, response_model=City, temperature=0))
    assert found[-1].city


@use
def asks_again() -> None:
    class Wrong(BaseModel):
        city: str = Field(max_length=20)

        def model_post_init(self, context: Any) -> None:
            raise ValueError("no city is right")

    made = instructor.from_openai(client, mode=instructor.Mode.TOOLS)

    def work() -> Any:
        return made.chat.completions.create(
            model=MODEL, messages=asked, response_model=Wrong, temperature=0, max_retries=2, max_tokens=60
        )  # fmt: skip

    raises(InstructorRetryException, work, "no city is right")


@use
def responses() -> None:
    made = instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS)
    assert isinstance(made.responses.create(model=MODEL, input=WEATHER, response_model=City, temperature=0), City)


@use
def errors() -> None:
    made = instructor.from_openai(client, mode=instructor.Mode.TOOLS)
    raises(
        Exception, lambda: made.chat.completions.create(model="x", messages=asked, response_model=City), "not served"
    )  # fmt: skip


@use
def retries() -> None:
    with busy() as url:
        made = instructor.from_openai(client.with_options(base_url=url), mode=instructor.Mode.TOOLS)
        assert isinstance(made.chat.completions.create(model=MODEL, messages=asked, response_model=City), City)


run()
