"""Text of the bundled model: pieces as they become certain, stop strings wherever they lie, drafts or none."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from qwartet import LLM
from qwartet.engine.engine import Engine
from qwartet.engine.engine_config import EngineConfig
from qwartet.engine.request import Request, RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.structure import Structure
from tests.engine.schedules import FixedCost, check_nothing_is_left

QUERIES = ("What is 23 + 45?", "你好", "请介绍一下北京", "Tell me something about the sea", "Write a poem about 春天")
REPEATING = ("1 2 3 4 5 6 1 2 3 4 5 6 1 2 3", "今天天气")  # completed, not answered
DRAFTING = ("off", "prompt-lookup", "draft")
GREEDY = SamplingParams(temperature=0, max_tokens=40)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(max_model_len=256)


def engine_of(llm: LLM, drafting: str) -> Engine:
    """An engine that drafts all it can; the model is its own draft model, so that it is always right."""
    config = EngineConfig(max_model_len=256, speculation="off" if drafting == "off" else "prompt-lookup")
    engine = Engine(llm.model, config, tokenizer=llm.tokenizer, draft_model=llm.model if drafting == "draft" else None)
    engine.speculation.cost = FixedCost(0.0)
    return engine


def prompts(llm: LLM) -> list[list[int]]:
    chats = [llm.chat_prompt(query, [], None, GREEDY) for query in QUERIES]
    return chats + [llm.tokenizer.encode(text) for text in REPEATING]


def serve(llm: LLM, engine: Engine, wanted: list[tuple[list[int], SamplingParams]]) -> list[Request]:
    """All together; the pieces of each must be its text, and nothing may be taken back."""
    requests = [engine.add_request(ids, params, RequestOptions(llm.stop_token_ids)) for ids, params in wanted]
    pieces = {request.request_id: "" for request in requests}
    while engine.has_unfinished:
        for output in engine.step():
            pieces[output.request.request_id] += output.text
    check_nothing_is_left(engine)
    assert [pieces[request.request_id] for request in requests] == [request.completion_text for request in requests]
    return requests


def text_of(llm: LLM, token_ids: list[int], errors: str = "replace") -> str:
    """What the ids say, all at once; `errors` is for half a character at the end."""
    texts = [llm.tokenizer.decode_bytes(one) for one in token_ids if not llm.tokenizer.is_special(one)]
    return b"".join(texts).decode("utf-8", errors)


@pytest.mark.parametrize("drafting", DRAFTING)
def test_the_pieces_are_the_text_of_the_ids(llm: LLM, drafting: str) -> None:
    engine = engine_of(llm, drafting)
    requests = serve(llm, engine, [(ids, GREEDY) for ids in prompts(llm)])
    assert requests[0].completion_text == "23 + 45 = 68"
    assert any(ord(letter) > 0x4E00 for letter in requests[1].completion_text)
    for request in requests:
        assert request.completion_text == text_of(llm, request.completion_ids) != ""
    assert drafting == "off" or engine.speculation.num_accepted > 20


@pytest.mark.parametrize("drafting", DRAFTING)
def test_an_answer_cut_within_a_character_says_so(llm: LLM, drafting: str) -> None:
    ids = prompts(llm)[1]
    whole = serve(llm, engine_of(llm, "off"), [(ids, GREEDY)])[0].completion_ids
    wanted = [(ids, replace(GREEDY, max_tokens=count)) for count in range(1, len(whole))]
    requests = serve(llm, engine_of(llm, drafting), wanted)
    for count, request in enumerate(requests, start=1):
        assert request.completion_ids == whole[:count] and request.finish_reason == "length"
        assert request.completion_text == text_of(llm, whole[:count])
    assert any(request.completion_text.endswith("\N{REPLACEMENT CHARACTER}") for request in requests)


def random_stops(llm: LLM, token_ids: list[int], rng: random.Random) -> list[tuple[str, ...]]:
    """Stop strings that occur in a text, within tokens and across their borders, and some that do not."""
    text, stops = text_of(llm, token_ids), []
    for _ in range(12):
        places = [rng.randrange(len(text)) for _ in range(rng.choice((1, 1, 2, 3)))]
        found = tuple(text[place : place + rng.choice((1, 2, 3, 8))] for place in places)
        stops.append((*found, "never said") if rng.random() < 0.3 else found)
    return [*stops, ("never said",), (text,), (text + "!", text[:2] + "~")]


def expected_stop(llm: LLM, token_ids: list[int], stop: tuple[str, ...]) -> tuple[list[int], str, bool]:
    """The ids up to the one that completes a stop string, the text before it, and whether one was completed."""
    text = text_of(llm, token_ids)
    ends = {one: text.index(one) + len(one) for one in stop if one in text}
    if not ends:
        return token_ids, text, False
    end = min(ends.values())
    longest = max((one for one in ends if ends[one] == end), key=len)
    count = next(n for n in range(len(token_ids) + 1) if len(text_of(llm, token_ids[:n], "ignore")) >= end)
    return token_ids[:count], text[: end - len(longest)], True


@pytest.mark.parametrize("drafting", DRAFTING)
def test_stop_strings_end_a_text_wherever_they_lie(llm: LLM, drafting: str) -> None:
    rng = random.Random(3)
    whole = serve(llm, engine_of(llm, "off"), [(ids, GREEDY) for ids in prompts(llm)])
    wanted, expected = [], []
    for request in whole:
        for stop in random_stops(llm, request.completion_ids, rng):
            wanted.append((request.prompt_ids, replace(GREEDY, stop=stop, logprobs=0)))
            ids, text, is_stopped = expected_stop(llm, request.completion_ids, stop)
            expected.append((ids, text, "stop" if is_stopped else request.finish_reason))
    engine = engine_of(llm, drafting)
    sampled, sample = [], engine.sampler.sample
    engine.sampler.sample = lambda *args: (sampled.append(sample(*args)), sampled[-1])[1]
    found = serve(llm, engine, wanted)
    assert [(one.completion_ids, one.completion_text, one.finish_reason) for one in found] == expected
    assert all([one.token_id for one in request.logprobs] == request.completion_ids for request in found)
    num_sampled = sum(len(one.token_ids) for step in sampled for one in step)
    num_dropped = num_sampled - sum(len(request.completion_ids) for request in found)
    assert num_dropped == 0 if drafting == "off" else num_dropped > 20, "no stop string lay before an accepted draft"


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("drafting", DRAFTING)
def test_a_structure_holds_for_all_children_and_ends_their_texts(llm: LLM, drafting: str, temperature: float) -> None:
    ids = prompts(llm)[0]
    params = replace(GREEDY, n=3, temperature=temperature, seed=2)
    choice, pattern = ("it is 68, I think", "no idea"), r"[a-z]{3}, \d{4}; 你好"
    texts = []
    for structure in (Structure(choice=choice), Structure(regex=pattern)):
        engine = engine_of(llm, drafting)
        wanted = replace(params, structure=structure)
        children = engine.add_requests(ids, wanted, RequestOptions(llm.stop_token_ids))
        while engine.has_unfinished:
            engine.step()
        check_nothing_is_left(engine)
        assert [child.finish_reason for child in children] == ["stop"] * 3
        texts.append([child.completion_text for child in children])
    assert set(texts[0]) <= set(choice)
    assert all(re.fullmatch(pattern, text) for text in texts[1])
    assert len(set(texts[1])) == (3 if temperature else 1)


def test_text_that_may_yet_become_a_stop_string_waits(llm: LLM) -> None:
    ids, stop = prompts(llm)[0], "45 = 69"  # the answer is 23 + 45 = 68
    engine = engine_of(llm, "off")
    request = engine.add_request(ids, replace(GREEDY, stop=(stop,)), RequestOptions(llm.stop_token_ids))
    seen = []
    while engine.has_unfinished:
        engine.step()
        seen.append(request.completion_text)
    assert "23 + " in seen and "23 + 45" not in seen and seen[-1] == "23 + 45 = 68"


def test_streams_and_generate_say_the_same(llm: LLM) -> None:
    for text in REPEATING:
        completion = llm.generate(
            [text], llm.sampling_params(temperature=0, max_tokens=30, stop=["6", "气天气天气天"])
        )[0]
        streamed = "".join(llm.complete_stream(text, temperature=0, max_tokens=30, stop=["6", "气天气天气天"]))
        assert streamed == completion.text and completion.finish_reason == "stop"
    check_nothing_is_left(llm.engine)
