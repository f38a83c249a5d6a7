"""GenerationConfig: supported and rejected settings, and where settings come from."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from qwartet import DEMO, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from qwartet.errors import CheckpointError, ModelNotFoundError, SettingError

QUERY = "What is 23 + 45?"
PROMPT = torch.tensor([[5, 6, 7]])


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(DEMO)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO)


OUT_OF_RANGE = [
    ("temperature", 0, "a strictly positive float; for greedy decoding set do_sample=False"),
    ("temperature", 0.0, "a strictly positive float"),
    ("temperature", -1.0, "a strictly positive float"),
    ("temperature", float("nan"), "a strictly positive float"),
    ("temperature", "0.5", "a strictly positive float"),
    ("temperature", True, "a strictly positive float"),
    ("repetition_penalty", 0, "a strictly positive float"),
    ("repetition_penalty", 0.0, "a strictly positive float"),
    ("repetition_penalty", -1.5, "a strictly positive float"),
    ("repetition_penalty", float("inf"), "a strictly positive float"),
    ("top_k", -1, "a strictly positive integer"),
    ("top_k", 2.5, "a strictly positive integer"),
    ("top_k", False, "a strictly positive integer"),
    ("top_p", -0.1, "a float > 0 and < 1"),
    ("top_p", 1.5, "a float > 0 and < 1"),
    ("top_p", "0.8", "a float > 0 and < 1"),
    ("max_new_tokens", 0, "an integer greater than 0"),
    ("max_new_tokens", -5, "an integer greater than 0"),
    ("max_new_tokens", 2.5, "an integer greater than 0"),
    ("min_new_tokens", -1, "a non-negative integer"),
    ("min_length", -1, "a non-negative integer"),
    ("num_return_sequences", 0, "an integer greater than 0"),
    ("max_window_size", -1, "a non-negative integer"),
    ("do_sample", None, "True or False"),
    ("do_sample", 1, "True or False"),
    ("do_sample", "False", "True or False"),
    ("eos_token_id", "x", "a token id"),
    ("pad_token_id", 1.5, "a token id"),
]


@pytest.mark.parametrize(("name", "value", "words"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_a_value_error_with_its_name_and_never_another_value(
    model, tokenizer, name: str, value: object, words: str
) -> None:
    settings = {"do_sample": True, "max_new_tokens": 2, name: value}
    message = rf"`{name}` has to be {words.replace('(', '[(]')}.*but is {value!r}"
    for act in (
        lambda: model.generate(PROMPT, **settings),
        lambda: model.chat(tokenizer, QUERY, None, **settings),
        lambda: model.chat_stream(tokenizer, QUERY, None, **settings),
        lambda: model.generate(PROMPT, GenerationConfig(**settings)),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            act()
        assert raised.value.param == name  # type: ignore[attr-defined]
    assert not model.engine.has_unfinished


def test_what_is_not_drawn_with_is_not_looked_at(model) -> None:
    """As in the original, whose greedy search has no temperature."""
    greedy = model.generate(PROMPT, do_sample=False, max_new_tokens=4)
    unused = {"temperature": 0, "top_p": 7, "top_k": -1}
    assert model.generate(PROMPT, do_sample=False, max_new_tokens=4, **unused).equal(greedy)
    with pytest.raises(SettingError, match="repetition_penalty"):
        model.generate(PROMPT, do_sample=False, repetition_penalty=0)


def test_a_length_that_another_one_overrules_is_told_of(model) -> None:
    with pytest.warns(UserWarning, match="max_length=9 has no effect: max_new_tokens is 4"):
        assert model.generate(PROMPT, do_sample=False, max_length=9, max_new_tokens=4).shape == (1, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.generate(PROMPT, do_sample=False, max_length=9, max_new_tokens=None).shape == (1, 9)


def test_none_and_neutral_values_switch_a_setting_off(model) -> None:
    plain = model.generate(PROMPT, do_sample=False, max_new_tokens=4)
    off = {"temperature": None, "top_k": None, "top_p": None, "repetition_penalty": None, "min_length": None}
    assert model.generate(PROMPT, do_sample=False, max_new_tokens=4, **off).equal(plain)
    torch.manual_seed(1)
    drawn = model.generate(PROMPT, do_sample=True, max_new_tokens=4, top_p=1.0, temperature=1.0)
    torch.manual_seed(1)
    assert model.generate(PROMPT, do_sample=True, max_new_tokens=4, **off).equal(drawn)
    neutral = {
        "num_beams": 1,
        "no_repeat_ngram_size": 0,
        "bad_words_ids": None,
        "suppress_tokens": [],
        "max_time": None,
    }
    harmless = {"early_stopping": True, "length_penalty": 2.0, "use_cache": False, "renormalize_logits": True}
    settings = {**neutral, **harmless, "do_sample": False, "max_new_tokens": 4}
    assert model.generate(PROMPT, **settings).equal(plain)
    assert model.generate(PROMPT, GenerationConfig(**settings)).equal(plain)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 4),
        ("num_beam_groups", 2),
        ("penalty_alpha", 0.6),
        ("typical_p", 0.2),
        ("forced_eos_token_id", 5),
        ("guidance_scale", 1.5),
        ("stop_strings", ["x"]),
        ("output_scores", True),
        ("sequence_bias", {(5,): 1.0}),
    ],
)
def test_a_setting_that_would_change_the_answer_is_refused_wherever_it_comes_from(
    model, tmp_path: Path, name: str, value: object
) -> None:
    with pytest.raises(SettingError, match=rf"{name}=.* is not supported; only"):
        model.generate(PROMPT, max_new_tokens=2, **{name: value})
    assigned = GenerationConfig(max_new_tokens=2)
    setattr(assigned, name, value)
    with pytest.raises(SettingError, match=name):
        model.generate(PROMPT, assigned)
    if name != "sequence_bias":  # JSON has no tuples for keys
        (tmp_path / "generation_config.json").write_text(json.dumps({"max_new_tokens": 2, name: value}))
        with pytest.raises(SettingError, match=name):
            model.generate(PROMPT, GenerationConfig.from_pretrained(tmp_path))


def test_settings_of_the_engine_are_honoured_in_every_place(model, tmp_path: Path) -> None:
    plain = model.generate(PROMPT, do_sample=False, max_new_tokens=8)[0, 3:].tolist()
    first, second = plain[0], plain[1]
    for settings, is_kept in (
        ({"suppress_tokens": [first]}, lambda ids: first not in ids),
        ({"begin_suppress_tokens": [first]}, lambda ids: ids[0] != first),
        ({"bad_words_ids": [[first, second]]}, lambda ids: [first, second] not in [ids[i : i + 2] for i in range(8)]),
        ({"no_repeat_ngram_size": 1}, lambda ids: len({5, 6, 7, *ids}) == 11),
    ):
        given = model.generate(PROMPT, do_sample=False, max_new_tokens=8, **settings)
        ids = given[0, 3:].tolist()
        assert is_kept(ids) and not is_kept(plain), settings
        config = GenerationConfig(do_sample=False, max_new_tokens=8, **settings)
        assert model.generate(PROMPT, config).equal(given)
        config.save_pretrained(tmp_path)
        assert model.generate(PROMPT, GenerationConfig.from_pretrained(tmp_path)).equal(given)
    with pytest.raises(SettingError, match="no_repeat_ngram_size is -1"):
        model.generate(PROMPT, no_repeat_ngram_size=-1)
    with pytest.raises(SettingError, match="min_p is 2"):
        model.generate(PROMPT, do_sample=True, min_p=2)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("topp", "did you mean top_p"),
        ("prefix_allowed_tokens_fn", "use logits_processor="),
        ("seed", "call set_seed"),
        ("inputs_embeds", "pass input_ids"),
        ("assistant_model", "draft_model"),
        ("xyz", "supported settings: max_length"),
    ],
)
def test_a_setting_that_does_not_exist_is_named(model, name: str, hint: str) -> None:
    with pytest.raises(SettingError, match=f"has no setting '{name}'; .*{hint}"):
        model.generate(PROMPT, **{name: 1})
    with pytest.raises(SettingError, match=hint):
        GenerationConfig(**{name: 1})
    config = GenerationConfig(max_new_tokens=2)
    setattr(config, name, 1)
    with pytest.raises(SettingError, match=hint):
        model.generate(PROMPT, config)


def test_arguments_of_none_that_do_not_exist_mean_nothing(model) -> None:
    settings = {"inputs_embeds": None, "past_key_values": None, "position_ids": None, "synced_gpus": False}
    assert model.generate(PROMPT, max_new_tokens=2, do_sample=False, **settings).shape == (1, 5)


def test_the_settings_of_a_directory(tmp_path: Path) -> None:
    config = GenerationConfig.from_pretrained(DEMO, pad_token_id=7, trust_remote_code=True, resume_download=True)
    assert (config.chat_format, config.pad_token_id, config.do_sample) == ("chatml", 7, True)
    assert not hasattr(config, "trust_remote_code")
    with pytest.raises(ModelNotFoundError, match="no such directory"):
        GenerationConfig.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: file is missing"):
        GenerationConfig.from_pretrained(tmp_path)
    with pytest.raises(SettingError, match="did you mean top_p"):
        GenerationConfig.from_pretrained(DEMO, topp=1)
    with pytest.raises(SettingError, match="HF_HUB_CACHE"):
        GenerationConfig.from_pretrained("Qwen/Qwen-7B-Chat", cache_dir="x")


def test_names_that_nothing_knows_are_kept_in_a_file_and_mean_nothing(model, tmp_path: Path) -> None:
    content = {"max_new_tokens": 2, "note": "mine", "_from_model_config": True, "changed": 5, "update": None}
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    config = GenerationConfig.from_pretrained(tmp_path)
    assert config.note == "mine"
    assert model.generate(PROMPT, config).shape == (1, 5)
    config.save_pretrained(tmp_path / "new")
    saved = json.loads((tmp_path / "new" / "generation_config.json").read_text())
    assert saved == {"max_new_tokens": 2, "note": "mine"}


def test_a_checkpoint_without_a_file_has_the_ids_of_its_config(tmp_path: Path) -> None:
    directory = Path(shutil.copytree(DEMO, tmp_path / "model"))
    (directory / "generation_config.json").unlink()
    model = AutoModelForCausalLM.from_pretrained(directory, pad_token_id=9)
    assert (model.generation_config.pad_token_id, model.generation_config.max_length) == (9, 20)
    assert AutoModelForCausalLM.from_pretrained(DEMO, pad_token_id=9).generation_config.pad_token_id == 4096


def test_settings_are_copied_compared_and_updated() -> None:
    config = GenerationConfig(top_p=0.5, eos_token_id=[3, 4])
    assert copy.deepcopy(config) == config != GenerationConfig(top_p=0.5)
    assert config.update(top_p=0.7, trust_remote_code=True) == {} and config.top_p == 0.7
    assert config.to_dict()["eos_token_id"] == [3, 4] and "_of_the_file" not in config.to_dict()
    with pytest.raises(SettingError, match="did you mean top_p"):
        config.update(topp=1)


def test_another_librarys_object_and_a_mapping_are_settings_too(model) -> None:
    settings = {"max_new_tokens": 3, "do_sample": False}
    expected = model.generate(PROMPT, **settings)
    foreign = SimpleNamespace(to_dict=lambda: {**settings, "num_beams": 1, "of_a_later_version": None})
    assert model.generate(PROMPT, generation_config=foreign).equal(expected)
    assert model.generate(PROMPT, generation_config=settings).equal(expected)
    foreign = SimpleNamespace(to_dict=lambda: {**settings, "num_beams": 3})
    with pytest.raises(SettingError, match="num_beams=3"):
        model.generate(PROMPT, generation_config=foreign)
    with pytest.raises(SettingError, match="generation_config is 5"):
        model.generate(PROMPT, generation_config=5)
