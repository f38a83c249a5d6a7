"""model.chat and chat_stream in transformers against the original's, and the model card's quickstart, literally."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from qwartet import DEMO
from qwartet.errors import NotAChatModelError, RequestError, SettingError
from tests.golden_data import REPOSITORY, golden_jsonl, golden_path, real_vocabulary
from tests.hf.loaded import load, loaded, transformers
from tests.reference.recipe_checkpoint import write_recipe_checkpoint

QUERY, ANSWER = "What is 23 + 45?", "23 + 45 = 68"
GREEDY = {"do_sample": False, "max_new_tokens": 16}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory):
    """Model and tokenizer of the golden chats."""
    place = write_recipe_checkpoint(
        golden_path("chat-fullvocab"), real_vocabulary(), tmp_path_factory.mktemp("chat-fullvocab")
    )
    model = load(place, device_map="cpu", trust_remote_code=True, fp32=True).eval()
    return model, transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=True)


@pytest.fixture(scope="module")
def demo():
    return load(DEMO), transformers.AutoTokenizer.from_pretrained(DEMO)


def with_overrides(model, overrides):
    config = copy.deepcopy(model.generation_config)
    for name, value in overrides.items():
        setattr(config, name, value)
    return config


def test_chat_is_the_originals(published) -> None:
    model, tokenizer = published
    for case in golden_jsonl("chat-fullvocab/chat_cases.jsonl"):
        history = None if case["history"] is None else [tuple(turn) for turn in case["history"]]
        kwargs = copy.deepcopy(case["kwargs"])
        callers_list = kwargs.get("stop_words_ids")
        config = with_overrides(model, case["generation_config_overrides"])
        given = copy.deepcopy(history)
        response, returned = model.chat(tokenizer, case["query"], given, generation_config=config, **kwargs)
        assert response == case["response"], case["note"]
        assert [list(turn) for turn in returned] == case["returned_history"], case["note"]
        assert given == history, "the caller's history was changed"
        assert callers_list == case["callers_stop_words_ids_after_the_call"], case["note"]


def test_generate_gives_the_originals_ids_forced_eos_included(published) -> None:
    model, tokenizer = published
    for case in golden_jsonl("chat-fullvocab/chat_cases.jsonl"):
        config = with_overrides(model, case["generation_config_overrides"])
        stops = [*case["kwargs"].get("stop_words_ids", []), [tokenizer.im_end_id], [tokenizer.im_start_id]]
        output = model.generate(torch.tensor([case["context_ids"]]), generation_config=config, stop_words_ids=stops)
        assert output[0, len(case["context_ids"]) :].tolist() == case["output_ids"], case["note"]


def test_chat_stream_yields_what_the_original_yielded(published) -> None:
    model, tokenizer = published
    for case in golden_jsonl("chat-fullvocab/chat_stream_cases.jsonl"):
        config = with_overrides(model, case["generation_config_overrides"])
        assert list(model.chat_stream(tokenizer, case["query"], None, generation_config=config)) == case["yields"]
        response, _ = model.chat(tokenizer, case["query"], None, generation_config=config)
        assert response == case["chat_response_same_settings"]


def test_chat_takes_the_settings_of_generate(demo) -> None:
    model, tokenizer = demo
    response, history = model.chat(tokenizer, QUERY, None, **GREEDY)
    assert (response, history) == (ANSWER, [(QUERY, ANSWER)])
    assert model.chat(tokenizer, QUERY, None, top_k=1, do_sample=True)[0] == ANSWER
    assert model.chat(tokenizer, QUERY, [], num_beams=3, do_sample=False)[0] == ANSWER
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    assert model.chat(tokenizer, QUERY, messages, **GREEDY)[1] == [("Hi", "Hello!"), (QUERY, ANSWER)]
    torch.manual_seed(1)
    first = model.chat(tokenizer, QUERY, None, temperature=3.0, top_p=1.0)[0]
    torch.manual_seed(1)
    assert model.chat(tokenizer, QUERY, None, temperature=3.0, top_p=1.0)[0] == first


def test_a_stream_that_is_left_ends_its_thread_and_one_that_fails_raises(demo) -> None:
    model, tokenizer = demo
    stream = model.chat_stream(tokenizer, QUERY, None, do_sample=False, max_new_tokens=200)
    assert next(stream) == "2"
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "qwartet-chat-stream"]
    with pytest.raises(ValueError, match="typos in the generate arguments"):
        list(model.chat_stream(tokenizer, QUERY, None, top_q=1))
    assert list(model.chat_stream(tokenizer, QUERY, None, **GREEDY))[-1] == ANSWER


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stream": True}, SettingError, "chat_stream"),
        ({"stop_words_ids": ((5,),)}, SettingError, "must be a list of lists"),
        ({"max_window_size": -1}, SettingError, "max_window_size is -1"),
        ({"history": "ab"}, RequestError, "history is 'ab'"),
        ({"tokenizer": None}, SettingError, "tokenizer is None"),
    ],
)
def test_what_chat_cannot_do_is_refused(demo, arguments: dict, error: type[Exception], message: str) -> None:
    model, tokenizer = demo
    with pytest.raises(error, match=message):
        model.chat(**({"tokenizer": tokenizer, "query": QUERY, "history": None} | arguments))


def test_a_base_model_does_not_chat(demo) -> None:
    with pytest.raises(NotAChatModelError, match="chat_format is 'raw'"):
        loaded("tiny-72b-base-sharded").chat(demo[1], QUERY, None)


# The quickstart of the model card, as published; only the model's name becomes that of a directory.
QUICKSTART = """
from transformers import AutoTokenizer, AutoModelForCausalLM

# Note: The default behavior now has injection attack prevention off.
tokenizer = AutoTokenizer.from_pretrained("Qwen/Qwen-72B-Chat-Int4", trust_remote_code=True)

model = AutoModelForCausalLM.from_pretrained(
    "Qwen/Qwen-72B-Chat-Int4",
    device_map="auto",
    trust_remote_code=True
).eval()
response, history = model.chat(tokenizer, "你好", history=None)
print(response)
# 你好！很高兴为你提供帮助。

# Qwen-72B-Chat现在可以通过调整系统指令（System Prompt），实现角色扮演，语言风格迁移，任务设定，行为设定等能力。
# Qwen-72B-Chat can realize roly playing, language style transfer, task setting, and behavior setting by system prompt.
response, _ = model.chat(tokenizer, "你好呀", history=None, system="请用二次元可爱语气和我说话")
print(response)
# 哎呀，你好哇！是怎么找到人家的呢？是不是被人家的魅力吸引过来的呀~(≧▽≦)/~

response, _ = model.chat(tokenizer, "My colleague works diligently", history=None, system="You will write beautiful compliments according to needs")
print(response)
"""  # noqa: E501


def test_the_quickstart_runs_verbatim_after_one_import(tmp_path: Path) -> None:
    place = tmp_path / "Qwen" / "Qwen-72B-Chat-Int4"  # the name of the card, found as a directory
    place.parent.mkdir()
    place.symlink_to(DEMO)
    for file in ("tokenization_qwen.py", "modeling_qwen.py"):
        assert not (DEMO / file).exists()
    code = f"import qwartet.hf\n{QUICKSTART}"
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    environment = {"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "你好！很高兴为你提供帮助。"
    assert len(lines) >= 3 and all(re.search(r"\w", line) for line in lines)
