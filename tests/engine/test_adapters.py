"""Requests with different adapters in one batch: each gets its tokens of a batch alone, and no one else's keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qwartet import LLM
from qwartet.engine.request import RequestOptions
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import CheckpointError, SettingError
from tests.adapter_files import write_adapter
from tests.models.broken import set_tensor

PROMPT = "hello weather question answer system user assistant model "
NAMES = (None, "one", "two", "qkv")


def settings(adapter: str | None, **changes: object) -> SamplingParams:
    return SamplingParams(max_tokens=24, temperature=0.0, adapter=adapter).updated(changes)


@pytest.fixture(scope="module", params=["bf16", "int4"])
def base(request: pytest.FixtureRequest, pristine: Callable[..., Path]) -> Path:
    return pristine() if request.param == "bf16" else pristine(bits=4)


@pytest.fixture(scope="module")
def directories(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("adapters")
    return {
        "one": write_adapter(place / "one", base, rank=4, seed=1),
        "two": write_adapter(place / "two", base, rank=16, seed=2, alpha=24, dtype=torch.bfloat16),
        "qkv": write_adapter(place / "qkv", base, rank=3, seed=3, targets=("c_attn",), std=0.3),
    }


@pytest.fixture(scope="module")
def llm(base: Path, directories: dict[str, Path]) -> Iterator[LLM]:
    with LLM(base, adapters=directories, max_num_seqs=8) as llm:
        yield llm


def answers(llm: LLM, names: tuple[str | None, ...], **changes: object) -> list[list[int]]:
    """The completions of one prompt with several adapters, in one batch."""
    ids, engine = llm.tokenizer.encode(PROMPT), llm.engine
    with engine.owned(wait=True):
        engine.forget_prefixes()
        requests = [engine.add_request(ids, settings(name, **changes)) for name in names]
        while engine.has_unfinished:
            engine.step()
    return [request.completion_ids for request in requests]


def test_adapters_mixed_in_a_batch_give_what_each_gives_alone(llm: LLM) -> None:
    alone = [answers(llm, (name,))[0] for name in NAMES]
    assert len({tuple(ids) for ids in alone}) == len(NAMES)
    assert answers(llm, NAMES) == alone
    assert answers(llm, NAMES[::-1]) == alone[::-1]


def test_a_batch_without_adapters_has_the_bits_of_a_model_without_them(llm: LLM, base: Path) -> None:
    ids = llm.tokenizer.encode(PROMPT)
    with LLM(base) as plain:
        assert torch.equal(llm.logits(ids), plain.logits(ids))
        assert answers(plain, (None,)) == answers(llm, (None,))


def test_logits_are_those_of_the_merged_weights(base: Path, directories: dict[str, Path], tmp_path: Path) -> None:
    if (base / "quantize_config.json").exists():
        pytest.skip("the oracle merges into float weights; Int4: tests/hf/test_served_adapters.py")
    merged = tmp_path / "merged"
    merged.mkdir()
    for file in base.iterdir():
        (merged / file.name).write_bytes(file.read_bytes())
    tensors, added = load_file(base / "model.safetensors"), load_file(directories["two"] / "adapter_model.safetensors")
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    for name in added:
        if ".lora_A." in name:
            low = added[name].float(), added[name.replace("lora_A", "lora_B")].float()
            tensors[name[len("base_model.model.") :].replace("lora_A.", "")] += 24 / 16 * low[1] @ low[0]
    save_file(tensors, merged / "model.safetensors", {"format": "pt"})
    ids = list(range(40))
    with LLM(merged, dtype="fp32") as expected, LLM(base, dtype="fp32", adapters=directories) as found:
        torch.testing.assert_close(found.logits(ids, adapter="two"), expected.logits(ids), rtol=1e-4, atol=1e-4)
        assert (found.logits(ids) - expected.logits(ids)).abs().max() > 0.1
    with LLM(base, adapters=directories) as native, LLM(merged, dtype="fp32") as expected:
        error = (native.logits(ids, adapter="two") - expected.logits(ids)).norm() / expected.logits(ids).norm()
        assert error < 0.02


def test_keys_computed_with_an_adapter_are_found_only_with_it(llm: LLM) -> None:
    ids = llm.tokenizer.encode(PROMPT * 6)
    assert len(ids) > 64
    llm.engine.forget_prefixes()
    cached = [
        llm.generate(ids, settings(name, max_tokens=2))[0].num_cached_tokens
        for name in (None, "one", "two", "one", None, "two")
    ]
    full = (len(ids) - 1) // 16 * 16
    assert cached == [0, 0, 0, full, full, full]


def test_drafts_are_verified_with_the_adapter(llm: LLM, base: Path, directories: dict[str, Path]) -> None:
    with LLM(base, adapters=directories, speculation="off") as plain:
        expected = answers(plain, NAMES, max_tokens=60)
    assert answers(llm, NAMES, max_tokens=60) == expected
    with LLM(base, adapters=directories, draft_model=base) as drafted:
        assert answers(drafted, NAMES, max_tokens=60) == expected


def test_several_completions_and_a_chat_use_the_adapter(llm: LLM) -> None:
    [[alone], pair] = [answers(llm, ("one",)), llm.generate(PROMPT, settings("one", n=2))]
    assert [completion.token_ids for completion in pair] == [alone, alone]
    texts = {name: llm.chat("hello", adapter=name, temperature=0.0, max_tokens=12)[0] for name in NAMES}
    assert len(set(texts.values())) == len(NAMES)


def test_an_unknown_adapter_is_refused_by_name(llm: LLM) -> None:
    with pytest.raises(SettingError, match="no adapter is called 'three'; use one of one, two, qkv"):
        llm.chat("hello", adapter="three")
    with pytest.raises(SettingError, match="no adapter is called 'three'"):
        llm.logits([1, 2], adapter="three")
    with pytest.raises(SettingError, match="no adapter is called 'three'"):
        llm.engine.add_request([1], settings("three"), RequestOptions())


def test_adapters_that_requests_could_not_share_are_refused(
    pristine: Callable[..., Path], directories: dict[str, Path], tmp_path: Path
) -> None:
    base = pristine()
    directory = write_adapter(tmp_path / "whole", base, modules_to_save=["wte"])
    whole = "base_model.model.transformer.wte.weight"
    set_tensor(directory / "adapter_model.safetensors", whole, torch.zeros(512, 128))
    with pytest.raises(CheckpointError, match=r"changes embedding, which .* with qwartet merge"):
        LLM(base, adapters={"whole": directory})
    with pytest.raises(SettingError, match="the adapter's name is ''"):
        LLM(base, adapters={"": directories["one"]})
    with pytest.raises(CheckpointError, match="file is missing"):
        LLM(base, adapters={"one": tmp_path / "absent"})
