"""Logits through transformers: those of LLM and of the original, with and without a cache, padded or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qwartet.errors import RequestError, SettingError
from tests.golden_data import golden_path
from tests.hf.loaded import (
    FLOAT_SETS,
    QUANTISED_SETS,
    PagedCache,
    QWenLMHeadModel,
    cache_of,
    dynamic_cache,
    llm_logits,
    loaded,
)

SETS = FLOAT_SETS + QUANTISED_SETS
pytestmark = pytest.mark.filterwarnings("ignore::qwartet.errors.CheckpointWarning")


def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(golden_path(f"{name.replace('-v2zeros', '')}/golden.safetensors"))


def ways(model, ids: torch.Tensor, **arguments) -> dict[str, torch.Tensor]:
    """Logits of ids [B, L] without a cache, over the kernels' own and over transformers'."""
    with torch.no_grad():
        own = model(ids, **arguments)
        assert isinstance(cache_of(own), PagedCache)
        return {
            "no cache": model(ids, use_cache=False, **arguments).logits,
            "paged cache": own.logits,
            "dynamic cache": model(ids, past_key_values=dynamic_cache(model), **arguments).logits,
        }


@pytest.mark.parametrize("name", SETS)
def test_logits_are_those_of_llm_and_of_the_original(name: str) -> None:
    data, model = golden(name), loaded(name)
    ids = data["prompt_ids"]
    expected = llm_logits(name, tuple(ids.tolist()))
    for way, logits in ways(model, ids[None].long()).items():
        assert logits.dtype == torch.float32
        assert (logits[0] - expected).abs().max() <= 1e-5, way
        assert (logits[0] - data["logits"]).abs().max() <= 2e-4, way


def test_logits_follow_ntk_and_logn() -> None:
    data, model = golden("tiny-7b"), loaded("tiny-7b")
    prompts = [key.removesuffix(".ids") for key in data if key.startswith("p") and key.endswith(".ids")]
    assert len(prompts) >= 9
    for prompt in prompts:
        ids, places = data[f"{prompt}.ids"], data[f"{prompt}.positions"].long()
        expected = llm_logits("tiny-7b", tuple(ids.tolist()))
        for way, logits in ways(model, ids[None].long()).items():
            assert (logits[0] - expected).abs().max() <= 1e-5, (prompt, way)
            assert (logits[0, places] - data[f"{prompt}.logits"]).abs().max() <= 2e-4, (prompt, way)


@pytest.mark.parametrize("name", ["tiny-72b", "gptq-int4", "gptq-int4-descact"])
def test_bf16_runs_on_the_kernels_of_llm(name: str) -> None:
    model, ids = loaded(name, "bfloat16"), golden(name)["prompt_ids"]
    expected = llm_logits(name, tuple(ids.tolist()), "bf16")
    for way, logits in ways(model, ids[None].long()).items():
        difference = (logits[0].float() - expected).abs()
        assert difference.max() <= 0.4 and difference.mean() <= 0.04, way
    assert ways(model, ids[None].long())["no cache"].float()[0].equal(expected)


@pytest.mark.parametrize("name", ["tiny-72b", "tiny-7b"])
def test_a_left_padded_batch_is_the_originals(name: str) -> None:
    data, model = golden(name), loaded(name)
    ids, mask = data["batch.input_ids"].long(), data["batch.attention_mask"].long()
    [key] = [key for key in data if key.startswith("batch.logits_last")]
    num_last = int(key.removeprefix("batch.logits_last"))
    for way, logits in ways(model, ids, attention_mask=mask).items():
        assert (logits[:, -num_last:] - data[key]).abs().max() <= 2e-4, way


def test_padding_anywhere_leaves_the_tokens_alone() -> None:
    model, ids = loaded("tiny-72b"), golden("tiny-72b")["prompt_ids"][:24].long()
    with torch.no_grad():
        alone = model(ids[None], use_cache=False).logits[0]
    right = torch.cat([ids, ids.new_zeros(5)])[None]
    for way, logits in ways(model, right, attention_mask=torch.tensor([[1] * 24 + [0] * 5])).items():
        assert (logits[0, :24] - alone).abs().max() <= 1e-4, way
    holed = torch.cat([ids[:10], ids.new_zeros(3), ids[10:]])[None]
    mask = torch.tensor([[1] * 10 + [0] * 3 + [1] * 14])
    told = ways(model, holed, attention_mask=mask)
    for way, logits in told.items():
        assert (logits[0, :10] - alone[:10]).abs().max() <= 1e-4, way
        assert (logits - told["dynamic cache"])[:, mask[0].bool()].abs().max() <= 1e-5, way


def test_training_on_right_padding_gives_padding_logits_too() -> None:
    model, ids = loaded("tiny-72b"), golden("tiny-72b")["prompt_ids"][:24].long()
    with torch.no_grad():
        plain = model(ids[None], use_cache=False).logits
        masked = model(ids[None], attention_mask=torch.tensor([[1] * 20 + [0] * 4]), use_cache=False).logits
    assert (plain - masked).abs().max() <= 1e-5


def test_embeddings_may_be_given_instead_of_ids() -> None:
    model, ids = loaded("tiny-72b"), golden("tiny-72b")["prompt_ids"][None, :20].long()
    expected = ways(model, ids)["no cache"]
    with torch.no_grad():
        embedded = model.get_input_embeddings()(ids)
        for arguments in ({}, {"use_cache": False}, {"past_key_values": dynamic_cache(model)}):
            assert (model(inputs_embeds=embedded, **arguments).logits - expected).abs().max() <= 1e-5


def test_only_some_columns_get_logits() -> None:
    model, ids = loaded("tiny-72b"), golden("tiny-72b")["batch.input_ids"].long()
    mask = golden("tiny-72b")["batch.attention_mask"].long()
    every = ways(model, ids, attention_mask=mask)
    for kept, columns in ((1, [-1]), (3, [-3, -2, -1]), (torch.tensor([5, 46]), [5, 46])):
        for way, logits in ways(model, ids, attention_mask=mask, logits_to_keep=kept).items():
            assert logits.shape == (3, len(columns), 1024)
            assert (logits - every[way][:, columns]).abs().max() <= 1e-5, way


def test_hidden_states_are_the_originals() -> None:
    data, model = golden("tiny-72b"), loaded("tiny-72b")
    names = ["hidden.embed", "hidden.after_layer_0", "hidden.after_layer_1", "hidden.ln_f"]
    for arguments in ({"use_cache": False}, {}, {"past_key_values": dynamic_cache(model)}):
        with torch.no_grad():
            result = model(data["prompt_ids"][None].long(), output_hidden_states=True, logits_to_keep=1, **arguments)
        assert len(result.hidden_states) == 4 and result.logits.shape[1] == 1
        for name, state in zip(names, result.hidden_states, strict=True):
            usual = data[name].square().mean().sqrt()
            assert (state[0] - data[name]).abs().max() <= 1e-4 * usual, name
        assert (result.logits[0, 0] - data["logits"][-1]).abs().max() <= 2e-4


def test_a_result_as_a_tuple() -> None:
    model, ids = loaded("tiny-72b"), golden("tiny-72b")["prompt_ids"][None, :8].long()
    with torch.no_grad():
        logits, cache = model(ids, return_dict=False)
        (alone,) = model(ids, return_dict=False, use_cache=False)
    assert (logits - alone).abs().max() <= 1e-5 and isinstance(cache, PagedCache)


def test_position_ids_may_only_say_what_the_columns_say() -> None:
    model, data = loaded("tiny-72b"), golden("tiny-72b")
    ids, mask = data["batch.input_ids"].long(), data["batch.attention_mask"].long()
    expected = ways(model, ids, attention_mask=mask)["no cache"]
    counted = (mask.cumsum(1) - 1).clamp(min=0)
    for positions in (torch.arange(47)[None], torch.arange(47).expand(3, -1), counted):
        assert ways(model, ids, attention_mask=mask, position_ids=positions)["no cache"].equal(expected)
    for positions in (torch.arange(47)[None] + 1, torch.arange(46)[None], torch.arange(47)[None] % 10):
        with pytest.raises(RequestError, match="position_ids differ"):
            model(ids, attention_mask=mask, position_ids=positions)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"input_ids": None}, RequestError, "either input_ids or inputs_embeds"),
        ({"inputs_embeds": torch.zeros(1, 1, 256)}, RequestError, "either input_ids or inputs_embeds"),
        ({"input_ids": torch.tensor([[1024]])}, RequestError, "input_ids contains 1024; ids go from 0 to 1023"),
        ({"input_ids": torch.tensor([[-1]])}, RequestError, "input_ids contains -1"),
        ({"attention_mask": torch.ones(1, 3)}, RequestError, r"attention_mask is \[1, 3\]; it must be \[1, 2\]"),
        ({"output_attentions": True}, SettingError, "output_attentions is not supported"),
        ({"head_mask": torch.ones(2)}, SettingError, "head_mask is not supported"),
        (
            {"input_ids": torch.zeros(1, 40_000, dtype=torch.long)},
            RequestError,
            "more than the model's context of 32768",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        loaded("tiny-72b")(**({"input_ids": torch.tensor([[1, 2]])} | arguments))


def test_the_dtype_that_the_class_itself_is_asked_for_is_that_of_the_model(pristine: Callable[..., Path]) -> None:
    for name in ("dtype", "torch_dtype"):
        assert QWenLMHeadModel.from_pretrained(pristine(), **{name: torch.float32}).dtype == torch.float32
