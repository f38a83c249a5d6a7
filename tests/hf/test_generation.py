"""generate() of transformers: the original's ids in every golden case, and the same ids over either cache."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

from qwartet import DEMO
from qwartet.errors import RequestError, SettingError
from tests.golden.test_decode import assert_same_path
from tests.golden_data import golden_json, golden_path
from tests.hf.loaded import PagedCache, cache_of, dynamic_cache, load, loaded, transformers

GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "eos_token_id": None}
DECODED = ["tiny-72b", "tiny-72b-base-sharded", "gptq-int4", "gptq-int8-allbias", "gptq-int4-descact"]


def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(golden_path(f"{name}/golden.safetensors"))


def decoded(model, ids: torch.Tensor, num_tokens: int, **arguments) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy ids [B, n], and the logits [B, n, V] that they were chosen from."""
    arguments = {"attention_mask": torch.ones_like(ids).long(), **arguments}
    result = model.generate(
        ids.long(), max_new_tokens=num_tokens, return_dict_in_generate=True, output_logits=True, stop_words_ids=None,
        pad_token_id=0, **GREEDY, **arguments,
    )  # fmt: skip
    return result.sequences[:, ids.shape[1] :], torch.stack(result.logits, dim=1)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", DECODED)
def test_greedy_decoding_is_the_originals(name: str, dtype: str) -> None:
    data, model = golden(name), loaded(name, {"fp32": "float32", "bf16": "bfloat16"}[dtype])
    expected = [data[key][None] for key in ("greedy_ids", "greedy_logits", "greedy_margin")]
    told = decoded(without_stop_words(model), data["prompt_ids"][None], len(data["greedy_ids"]))
    assert_same_path(*told, *expected, dtype)


def without_stop_words(model):
    """The model with a generation config that has none, which base models come with."""
    model = copy.copy(model)
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.stop_words_ids = None
    return model


@pytest.mark.parametrize("cache", ["paged", "dynamic"])
@pytest.mark.parametrize("case", ["decode120", "decode250"])
def test_a_decode_that_crosses_seq_length_keeps_the_alpha_of_its_prefill(case: str, cache: str) -> None:
    data, model = golden("tiny-7b"), loaded("tiny-7b")
    expected = [data[f"{case}.{key}"][None] for key in ("greedy_ids", "greedy_logits", "greedy_margin")]
    arguments = {"cache_implementation": "dynamic"} if cache == "dynamic" else {}
    ids, logits = decoded(model, data[f"{case}.prompt_ids"][None], expected[0].shape[1], **arguments)
    assert_same_path(ids, logits, *expected, "fp32")


@pytest.mark.parametrize("cache", ["paged", "dynamic"])
@pytest.mark.parametrize("name", ["tiny-72b", "tiny-7b"])
def test_a_left_padded_batch_is_the_originals(name: str, cache: str) -> None:
    data, model = golden(name), loaded(name)
    expected = [data[f"batch.greedy_{key}"] for key in ("ids", "logits", "margin")]
    arguments = {"cache_implementation": "dynamic"} if cache == "dynamic" else {}
    mask = data["batch.attention_mask"].long()
    told = decoded(model, data["batch.input_ids"], expected[0].shape[1], attention_mask=mask, **arguments)
    assert_same_path(*told, *expected, "fp32")


def test_every_published_case_gives_the_originals_ids() -> None:
    """But one: a batch of one whose mask is ignored; here it counts, as everywhere in transformers."""
    cases = golden_json("generation_cases.json")
    model = without_stop_words(loaded(cases["model"]))
    for name in ("eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, cases[name])
    for name, value in cases["defaults"].items():
        setattr(model.generation_config, name, value)
    differing = []
    for case in cases["cases"]:
        mask = None if case["attention_mask"] is None else torch.tensor(case["attention_mask"])
        output = model.generate(torch.tensor(case["input_ids"]), attention_mask=mask, **case["kwargs"])
        if output.tolist() != case["output_ids"]:
            differing.append(case)
    assert len(cases["cases"]) == 20 and len(differing) <= 1
    for case in differing:
        [row], [mask] = case["input_ids"], case["attention_mask"]
        width = mask.index(1)
        assert width > 0, case["name"]
        kwargs = {name: value for name, value in case["kwargs"].items() if name != "max_length"}
        output = model.generate(torch.tensor([row]), attention_mask=torch.tensor([mask]), **kwargs)
        alone = model.generate(torch.tensor([row[width:]]), **kwargs)
        assert output[0, len(row) :].tolist() == alone[0, len(row) - width :].tolist()


MODES = {
    "beam search": {"num_beams": 4},
    "beams returned": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
    "beam sampling": {"num_beams": 3, "do_sample": True, "temperature": 1.5},
    "sampling": {"do_sample": True, "top_p": 0.9, "temperature": 1.2},
    "several samples": {"do_sample": True, "num_return_sequences": 3, "top_k": 20},
    "prompt lookup": {"prompt_lookup_num_tokens": 4, "eos_token_id": 3},  # older versions need one
    "no cache": {"use_cache": False},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["tiny-72b", "tiny-7b"])
def test_every_decoding_mode_gives_the_same_over_either_cache(name: str, mode: str) -> None:
    data, model = golden(name), loaded(name)
    ids, mask = data["batch.input_ids"][:, -40:].long(), data["batch.attention_mask"][:, -40:].long()
    if mode == "prompt lookup":
        ids, mask = ids[:1].repeat(1, 2), mask[:1].repeat(1, 2)
    told = []
    for arguments in ({}, {"past_key_values": dynamic_cache(model)}):
        torch.manual_seed(0)
        settings = {**GREEDY, "pad_token_id": 0, "max_new_tokens": 12, **MODES[mode]}
        if mode == "no cache":
            arguments = {} if not arguments else {"use_cache": True}
        told.append(model.generate(ids, attention_mask=mask, **{**settings, **arguments}))
    assert told[0].equal(told[1])


@pytest.mark.parametrize("name", ["tiny-72b", "gptq-int4"])
def test_assisted_decoding_gives_the_greedy_ids(name: str) -> None:
    model, ids = without_stop_words(loaded(name)), golden(name)["prompt_ids"][None].long()
    greedy = model.generate(ids, max_new_tokens=20, pad_token_id=0, **GREEDY)
    helpers = [loaded(name), loaded(name, "bfloat16")]
    if name == "gptq-int4":
        helpers.append(loaded("tiny-72b-base-sharded"))  # its float parent: it is often wrong
    for helper in helpers:
        arguments = {"assistant_model": without_stop_words(helper), "pad_token_id": 0}
        assert model.generate(ids, max_new_tokens=20, **GREEDY, **arguments).equal(greedy)


def test_a_conversation_goes_on_from_the_cache_that_generate_returns() -> None:
    model, ids = loaded("tiny-72b"), golden("tiny-72b")["prompt_ids"][None].long()
    whole = model.generate(ids, max_new_tokens=16, pad_token_id=0, **GREEDY)
    first = model.generate(ids, max_new_tokens=6, pad_token_id=0, return_dict_in_generate=True, **GREEDY)
    cache = cache_of(first)
    assert isinstance(cache, PagedCache) and cache.get_seq_length() == ids.shape[1] + 5
    for again in (copy.deepcopy(cache), cache):
        rest = model.generate(first.sequences, past_key_values=again, max_new_tokens=10, pad_token_id=0, **GREEDY)
        assert rest.equal(whole)


def test_settings_that_cannot_be_kept_are_refused() -> None:
    model, ids = loaded("tiny-7b"), torch.randint(0, 500, (1, 200), generator=torch.Generator().manual_seed(0))
    with pytest.raises(SettingError, match="prefill_chunk_size cannot be used for a prompt of 200 tokens"):
        model.generate(ids, prefill_chunk_size=64, max_new_tokens=2)
    short = model.generate(ids[:, :100], prefill_chunk_size=32, max_new_tokens=4, pad_token_id=0, **GREEDY)
    assert short.equal(model.generate(ids[:, :100], max_new_tokens=4, pad_token_id=0, **GREEDY))
    with pytest.raises(RequestError, match="pad on the left"):
        model.generate(ids[:, :4], attention_mask=torch.tensor([[1, 1, 1, 0]]), max_new_tokens=2)
    with pytest.raises(SettingError, match="eos_token_id is None"):
        model.generate(ids[:, :4], stop_words_ids=[[5]], eos_token_id=None, max_new_tokens=2)


def test_a_static_cache_of_transformers_gives_the_same_ids() -> None:
    model, ids = loaded("tiny-72b"), golden("tiny-72b")["prompt_ids"][None].long()
    greedy = model.generate(ids, max_new_tokens=8, pad_token_id=0, **GREEDY)
    cache = transformers.StaticCache(config=model.config, max_cache_len=128)
    assert model.generate(ids, past_key_values=cache, max_new_tokens=8, pad_token_id=0, **GREEDY).equal(greedy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_paged_cache_does_to_rows_what_the_dynamic_one_does(dtype: str) -> None:
    model, data = loaded("tiny-7b", dtype), golden("tiny-7b")
    ids, mask = data["batch.input_ids"].long(), data["batch.attention_mask"].long()
    tolerance = {"float32": 1e-4, "bfloat16": 0.4}[dtype]

    def both(ids: torch.Tensor, mask: torch.Tensor) -> None:
        with torch.no_grad():
            told = [model(ids, attention_mask=mask, past_key_values=cache).logits.float() for cache in caches]
        real = mask[:, -ids.shape[1] :].bool()
        assert (told[0] - told[1])[real].abs().max() <= tolerance

    caches = [model.paged_cache(), dynamic_cache(model)]
    both(ids, mask)
    new = torch.tensor([[3, 4], [5, 6], [7, 8]])
    mask = torch.cat([mask, torch.ones(3, 2, dtype=torch.long)], dim=1)
    both(new, mask)
    for cache in caches:
        cache.reorder_cache(torch.tensor([2, 2, 0]))
    caches[1].qwartet_ntk_slots = caches[0].qwartet_ntk_slots  # beams of one prompt, which has one alpha
    mask = torch.cat([mask[[2, 2, 0]], torch.ones(3, 2, dtype=torch.long)], dim=1)
    both(new, mask)
    for cache in caches:
        cache.crop(-1)
    mask = mask[:, :-1]
    mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], dim=1)
    both(new[:, :1], mask)
    for cache in caches:
        cache.batch_select_indices(torch.tensor([1, 2]))
        cache.batch_repeat_interleave(2)
    caches[1].qwartet_ntk_slots = caches[0].qwartet_ntk_slots
    assert caches[0].get_seq_length() == caches[1].get_seq_length() == mask.shape[1]
    # more than was reserved
    rows = torch.tensor([1, 1, 2, 2])
    longer = torch.randint(0, 500, (4, 300), generator=torch.Generator().manual_seed(1))
    both(longer, torch.cat([mask[rows], torch.ones(4, 300, dtype=torch.long)], dim=1))


def test_a_cache_is_not_used_for_what_it_does_not_hold() -> None:
    model, ids = loaded("tiny-72b"), torch.tensor([[0, 1, 2], [3, 4, 5]])
    cache = model.paged_cache()
    with torch.no_grad():
        model(ids, attention_mask=torch.tensor([[0, 1, 1], [1, 1, 1]]), past_key_values=cache)
        with pytest.raises(SettingError, match="attention_mask differs from that of the cached tokens"):
            model(ids[:, :1], attention_mask=torch.ones(2, 4), past_key_values=cache)
        with pytest.raises(SettingError, match=r"attention_mask differs|holds 2 rows"):
            model(ids[:1, :1], past_key_values=cache)
    with pytest.raises(SettingError, match="belongs to Qwartet's kernels"):
        cache.update(torch.zeros(1), torch.zeros(1), 0)
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.batch_size == -1


def test_text_ends_at_stop_strings_of_transformers() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO)
    model = load(DEMO)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 23 + 45?"}], add_generation_prompt=True, return_tensors="pt"
    )
    output = model.generate(**ids, do_sample=False, max_new_tokens=16, stop_strings=["="], tokenizer=tokenizer)
    assert tokenizer.decode(output[0]).endswith("assistant\n23 + 45 =")
