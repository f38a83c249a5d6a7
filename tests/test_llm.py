"""LLM on the bundled model: what a Python user relies on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qwartet import DEMO, LLM
from qwartet.engine.sampling_params import SamplingParams
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


def test_nothing_stays_queued_when_one_of_the_prompts_cannot_be_served(llm: LLM) -> None:
    with pytest.raises(RequestError, match="empty"):
        llm.generate([[1, 2, 3], []], SamplingParams())
    assert not llm.engine.has_unfinished


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
