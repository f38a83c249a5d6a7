"""compat's chat() and chat_stream() against the original's, with the real vocabulary."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

from qwartet import AutoModelForCausalLM, AutoTokenizer
from qwartet.layers.dense_batch import dense_batch
from qwartet.tokenizer.chatml import make_context
from tests.golden_data import golden_jsonl, golden_path, real_vocabulary
from tests.reference.recipe_checkpoint import write_recipe_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    target = tmp_path_factory.mktemp("chat-fullvocab")
    return write_recipe_checkpoint(golden_path("chat-fullvocab"), real_vocabulary(), target)


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return AutoTokenizer.from_pretrained(str(checkpoint), trust_remote_code=True)


@pytest.fixture(scope="module")
def model(checkpoint):
    return AutoModelForCausalLM.from_pretrained(
        str(checkpoint), device_map="cpu", trust_remote_code=True, fp32=True
    ).eval()


def with_overrides(model, overrides):
    config = copy.copy(model.generation_config)
    for name, value in overrides.items():
        setattr(config, name, value)
    return config


def test_last_logits_are_the_originals(model) -> None:
    golden = load_file(golden_path("chat-fullvocab/golden_logits.safetensors"))
    with torch.no_grad():
        logits = model.model(dense_batch([golden["context_ids"].tolist()], model.model.config.position))[-1]
    assert (logits[golden["kept_rows"].long()] - golden["last_logits_kept_rows"]).abs().max() <= 2e-4


def test_chat_is_the_originals(model, tokenizer) -> None:
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


def test_the_context_of_every_chat_is_the_originals(model, tokenizer) -> None:
    for case in golden_jsonl("chat-fullvocab/chat_cases.jsonl"):
        context = make_context(
            tokenizer.core,
            case["query"],
            history=case["history"] or [],
            system=case["kwargs"].get("system", "You are a helpful assistant."),
            max_window_size=case["kwargs"].get("max_window_size", model.generation_config.max_window_size),
        )
        assert context.ids == case["context_ids"], case["note"]


def test_generate_gives_the_originals_ids_forced_eos_included(model, tokenizer) -> None:
    for case in golden_jsonl("chat-fullvocab/chat_cases.jsonl"):
        config = with_overrides(model, case["generation_config_overrides"])
        stops = [*case["kwargs"].get("stop_words_ids", []), [tokenizer.im_end_id], [tokenizer.im_start_id]]
        output = model.generate(torch.tensor([case["context_ids"]]), generation_config=config, stop_words_ids=stops)
        assert output[0, len(case["context_ids"]) :].tolist() == case["output_ids"], case["note"]


def test_chat_stream_yields_what_the_original_yielded(model, tokenizer) -> None:
    for case in golden_jsonl("chat-fullvocab/chat_stream_cases.jsonl"):
        config = with_overrides(model, case["generation_config_overrides"])
        assert list(model.chat_stream(tokenizer, case["query"], None, generation_config=config)) == case["yields"]
        response, _ = model.chat(tokenizer, case["query"], None, generation_config=config)
        assert response == case["chat_response_same_settings"]
