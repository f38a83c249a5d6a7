"""LLM on the bundled model: what a Python user relies on."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qwartet import DEMO, LLM
from qwartet.engine.sampling_params import SamplingParams
from qwartet.engine.structure import Structure
from qwartet.errors import NotFiniteError, RequestError, SettingError

SUMS = {f"What is {a} + {b}?": f"{a} + {b} = {a + b}" for a, b in ((23, 45), (7, 8), (60, 31), (12, 12), (5, 90))}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM()


def prompts(llm: LLM) -> list[list[int]]:
    params = llm.sampling_params()
    return [llm.chat_prompt(query, [], None, params) for query in SUMS]


def test_many_prompts_are_answered_together_in_their_order(llm: LLM) -> None:
    completions = llm.generate(prompts(llm), llm.sampling_params(temperature=0))
    assert [completion.text for completion in completions] == list(SUMS.values())
    assert all(completion.finish_reason == "stop" for completion in completions)


def test_n_completions_of_a_prompt_stand_one_after_another_and_share_its_blocks(llm: LLM) -> None:
    params = llm.sampling_params(temperature=1.5, seed=3, n=3, max_tokens=12)
    found = llm.generate(["Tell me something about the sea and the sky", "你好"], params)
    assert len(found) == 6 and len({one.text for one in found[:3]}) > 1
    assert [one.text for one in found] == [
        one.text for one in llm.generate(["Tell me something about the sea and the sky", "你好"], params)
    ]
    alone = llm.generate(
        ["Tell me something about the sea and the sky"], llm.sampling_params(temperature=1.5, seed=3, max_tokens=12)
    )
    assert alone[0].text == found[0].text


def test_a_history_of_any_form_is_answered_as_pairs_are(llm: LLM) -> None:
    query, answer = next(iter(SUMS.items()))
    pairs = [(query, answer)]
    messages = [{"role": "user", "content": query}, {"role": "assistant", "content": answer}]
    saved = {"format": "qwartet conversation", "version": 1, "system": None, "sampling": {}}
    expected = llm.chat("What is 7 + 8?", pairs, temperature=0)
    for history in (messages, {**saved, "turns": [{"user": query, "assistant": answer}]}, [[query, answer]]):
        assert llm.chat("What is 7 + 8?", history, temperature=0) == expected
    assert expected[1] == [*pairs, ("What is 7 + 8?", expected[0])]
    for wrong in (["ab", "cd"], [{"q": query, "a": answer}], [(query, None)]):
        with pytest.raises(RequestError, match="history"):
            llm.chat("What is 7 + 8?", wrong)
        with pytest.raises(RequestError, match="history"):
            llm.chat_stream("What is 7 + 8?", wrong)


def test_a_system_message_of_the_history_is_the_system_prompt_in_later_turns_too(llm: LLM, monkeypatch) -> None:
    given: list[str | None] = []
    build = llm.chat_prompt
    monkeypatch.setattr(llm, "chat_prompt", lambda *parts: (given.append(parts[2]), build(*parts))[1])
    _, history = llm.chat("hi", [{"role": "system", "content": "Be brief."}], max_tokens=2)
    _, history = llm.chat("hi", history, max_tokens=2)
    llm.chat("hi", history, system="Be kind.", max_tokens=2)
    assert given == ["Be brief.", "Be brief.", "Be kind."]


def test_a_temperature_of_none_is_one_that_is_not_given(llm: LLM) -> None:
    params = [llm.sampling_params(do_sample=True, **given) for given in ({}, {"temperature": None})]
    greedy = replace(llm.generation_defaults, do_sample=False, temperature=0.7)
    assert params[0] == params[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm, "generation_defaults", greedy)
        assert llm.sampling_params().temperature == 0
        assert llm.sampling_params(do_sample=True, temperature=None).temperature == 0.7


def test_a_prompt_that_was_served_before_is_found_in_the_cache(llm: LLM) -> None:
    ids = llm.tokenizer.encode("The code of Rosa is 42. " * 10)
    first, second = (llm.generate([ids], llm.sampling_params(temperature=0, max_tokens=4))[0] for _ in range(2))
    assert second.num_cached_tokens == (len(ids) - 1) // 16 * 16 > first.num_cached_tokens
    assert second.token_ids == first.token_ids


def test_logprobs_are_those_of_the_plain_logits(llm: LLM) -> None:
    ids = llm.tokenizer.encode("What is your name?")
    params = llm.sampling_params(temperature=0, max_tokens=3, logprobs=2, prompt_logprobs=0, repetition_penalty=1.3)
    found = llm.generate([ids], params)[0]
    whole = llm.logits(ids + found.token_ids)[:, : llm.tokenizer.num_tokens].log_softmax(-1)
    for place, one in enumerate(found.logprobs, start=len(ids) - 1):
        assert one.token_id == found.token_ids[place - len(ids) + 1] and len(one.top) == 2
        assert one.logprob == pytest.approx(float(whole[place, one.token_id]), abs=0.05)
        assert one.top[0][1] == pytest.approx(float(whole[place].max()), abs=0.05)
    assert found.prompt_logprobs[0] is None and len(found.prompt_logprobs) == len(ids)
    for place, one in enumerate(found.prompt_logprobs[1:]):
        assert one is not None and one.token_id == ids[place + 1]
        assert one.logprob == pytest.approx(float(whole[place, one.token_id]), abs=0.05)


def test_a_stream_that_is_left_frees_its_blocks_and_others_go_on(llm: LLM) -> None:
    manager = llm.engine.block_manager
    stream = llm.chat_stream("What is 23 + 45?", temperature=0)
    next(stream)
    assert manager.num_free_blocks < manager.num_blocks
    assert llm.chat("What is 7 + 8?", temperature=0)[0] == "7 + 8 = 15"
    stream.close()
    assert manager.num_free_blocks == manager.num_blocks and not llm.engine.has_unfinished


def test_what_fails_for_one_prompt_is_said_there_and_the_others_are_answered(llm: LLM, monkeypatch) -> None:
    run, broken = llm.engine.runner.run, []

    def run_with_nan(batch):
        hidden = run(batch)
        if not broken and len(hidden) == len(SUMS):
            hidden[2] = float("nan")
            broken.append(True)
        return hidden

    monkeypatch.setattr(llm.engine.runner, "run", run_with_nan)
    found = llm.generate(prompts(llm), llm.sampling_params(temperature=0))
    assert [one.finish_reason for one in found] == ["stop", "stop", "error", "stop", "stop"]
    assert isinstance(found[2].error, NotFiniteError) and "not finite" in str(found[2].error)
    monkeypatch.undo()
    assert llm.engine.block_manager.num_free_blocks == llm.engine.block_manager.num_blocks


@pytest.mark.parametrize("bad", [[], "", [1] * 5000, "hello " * 3000, [10, 99999], [-1], None, [1, 2.5], [None]])
def test_a_prompt_that_cannot_be_served_has_its_error_and_the_others_are_answered(llm: LLM, bad: Any) -> None:
    params = replace(llm.sampling_params(temperature=0), n=2)
    expected = llm.generate(prompts(llm)[:2], params)
    first, second, *rest = llm.generate([prompts(llm)[0], bad, prompts(llm)[1]], params)
    assert [first, second, *rest[2:]] == expected
    for one in rest[:2]:
        assert (one.finish_reason, one.token_ids, one.text) == ("error", [], "")
        assert isinstance(one.error, RequestError) and "; " in str(one.error)
    assert not llm.engine.has_unfinished


def test_a_list_of_prompts_none_of_which_can_be_served_is_a_list_of_errors(llm: LLM) -> None:
    assert [one.finish_reason for one in llm.generate(["", [], [99999]])] == ["error"] * 3
    assert llm.generate([]) == []


def test_a_single_prompt_that_cannot_be_served_raises_its_error(llm: LLM) -> None:
    for prompt, words in (("", "empty"), ([10, 99999], "outside"), ([1] * 5000, "5000 tokens"), ([1, "a"], "a string")):
        with pytest.raises(RequestError, match=words):
            llm.generate(prompt, SamplingParams())
    assert not llm.engine.has_unfinished


def test_settings_that_no_prompt_can_be_served_with_raise_before_anything_is_queued(llm: LLM) -> None:
    for wrong in ({"structure": Structure(regex="(")}, {"logit_bias": ((10**6, 1.0),)}):
        with pytest.raises(ValueError, match=r"; |vocabulary"):
            llm.generate(["hello", ""], llm.sampling_params(**wrong))
    assert not llm.engine.has_unfinished


def test_prompts_may_be_arrays(llm: LLM) -> None:
    params = llm.sampling_params(temperature=0, max_tokens=3)
    ids = [prompts(llm)[0][:9], prompts(llm)[1][:9]]
    expected = [one.token_ids for one in llm.generate(ids, params)]
    for arrays in (
        np.array(ids),
        torch.tensor(ids),
        [np.array(one) for one in ids],
        [torch.tensor(one) for one in ids],
    ):
        assert [one.token_ids for one in llm.generate(arrays, params)] == expected
    for array in (np.array(ids[0]), torch.tensor(ids[0])):
        assert [one.token_ids for one in llm.generate(array, params)] == expected[:1]


def test_one_structure_holds_for_all_prompts(llm: LLM) -> None:
    params = llm.sampling_params(structure=Structure(regex="[0-9]{3}[a-z]{4}"), temperature=2.0, seed=4, n=2)
    found = llm.generate(["hello", "What", "a b c"], params)
    assert all(re.fullmatch("[0-9]{3}[a-z]{4}", one.text) for one in found) and len(found) == 6
    assert [one.text for one in llm.generate("What", params)] == [one.text for one in found[2:4]]


def test_a_draft_model_changes_nothing_but_the_time() -> None:
    assisted = LLM(draft_model=DEMO, max_model_len=256)
    found = assisted.generate(prompts(assisted), assisted.sampling_params(temperature=0))
    assert [one.text for one in found] == list(SUMS.values())
    assert assisted.engine.speculation.num_accepted > 0


def test_an_unknown_engine_setting_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SettingError, match="unknown setting 'max_num_seq'; did you mean max_num_seqs"):
        LLM(max_num_seq=3)
    with pytest.raises(SettingError, match="a stream is one completion"):
        next(LLM(max_model_len=64).complete_stream("x", n=2))


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_each_of_several_end_ids_ends_a_completion(llm: LLM, tmp_path: Path, name: str) -> None:
    directory = Path(shutil.copytree(DEMO, tmp_path / "model"))
    im_end = llm.tokenizer.im_end_id
    query = prompts(llm)[:1]

    def completion() -> tuple[str, int]:
        one = LLM(directory, chat_format="raw")  # a chat stops at <|im_end|> anyway
        found = one.generate(query, one.sampling_params(temperature=0, max_tokens=20))[0]
        return found.finish_reason, found.token_ids.index(im_end)

    assert completion() == ("length", place := completion()[1])
    content = json.loads((directory / name).read_text(encoding="utf-8"))
    content["eos_token_id"] = [llm.tokenizer.eod_id, im_end]
    (directory / name).write_text(json.dumps(content), encoding="utf-8")
    assert completion() == ("stop", place)


def test_the_engine_can_be_stepped_by_hand() -> None:
    llm = LLM(device="cpu")
    [request] = llm.add(
        llm.chat_prompt("What is 3 + 4?", [], None, llm.sampling_params()), SamplingParams(temperature=0)
    )
    while llm.engine.has_unfinished:
        llm.engine.step()
    assert request.completion_text == "3 + 4 = 7"


def test_a_batch_of_queries_has_the_answers_that_each_has_alone(llm: LLM) -> None:
    queries = ["What is 3 + 4?", "你好", "What is 23 + 45?"]
    batch = llm.chat_batch(queries, temperature=0)
    assert [one.text for one in batch] == [llm.chat(query, temperature=0)[0] for query in queries]
    formal = llm.chat_batch(queries[1:2], system="请用二次元可爱语气和我说话", temperature=0)
    assert (
        formal[0].text == llm.chat(queries[1], system="请用二次元可爱语气和我说话", temperature=0)[0] != batch[1].text
    )


def test_a_query_of_a_batch_that_is_too_long_is_its_own_error(llm: LLM) -> None:
    good, bad, also_good = llm.chat_batch(["你好", "long " * 5000, "你好"], temperature=0)
    assert good.text == also_good.text == "你好！很高兴为你提供帮助。" and good.error is None
    assert isinstance(bad.error, RequestError) and bad.finish_reason == "error"
    with pytest.raises(RequestError, match="queries is a string"):
        llm.chat_batch("你好")
