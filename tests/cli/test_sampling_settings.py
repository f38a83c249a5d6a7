"""Settings as people write them."""

from __future__ import annotations

import pytest

from qwartet.cli.chat.sampling_settings import SETTINGS, checked, setting_name, setting_value
from qwartet.engine.sampling_params import SamplingParams
from qwartet.errors import SettingError


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("top_k", "top_k"), ("top-k", "top_k"), ("--top-k", "top_k"), ("temp", "temperature"), ("see", "seed"),
        ("max_new_tokens", "max_tokens"), ("rep", "repetition_penalty"),
    ],
)  # fmt: skip
def test_a_name_may_be_an_option_s_or_a_beginning(text: str, name: str) -> None:
    assert setting_name(text) == name


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("temprature", "did you mean temperature?"), ("top", "did you mean top_p or top_k?"),
        ("zzz", "it must be one of temp"), ("", "did you mean temperature or"),
    ],
)  # fmt: skip
def test_another_name_gets_a_suggestion(text: str, hint: str) -> None:
    with pytest.raises(SettingError, match="unknown sampling setting") as caught:
        setting_name(text)
    assert f"; {hint}" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [("temperature", "0.5", 0.5), ("temperature", "1", 1.0), ("top_k", "7", 7), ("stop", "a b", ("a b",))],
)
def test_a_value_has_the_type_of_its_setting(name: str, text: str, value: object) -> None:
    found = setting_value(name, text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temperature", "hot"), ("temperature", "-1"), ("temperature", "nan"), ("temperature", "1e999"),
        ("top_k", "1.5"), ("top_k", "1_000"), ("seed", "٣"), ("seed", "-1"), ("seed", "9" * 5000), ("top_p", "2"),
    ],
)  # fmt: skip
def test_a_value_out_of_its_bounds_is_told_with_them(name: str, text: str) -> None:
    with pytest.raises(SettingError, match=rf"^{name} is .*; it must be a (whole )?number") as caught:
        setting_value(name, text)
    assert len(str(caught.value)) < 200


def test_every_setting_is_one_of_the_engine_s() -> None:
    assert set(SETTINGS) <= set(vars(SamplingParams()))


def test_settings_of_a_file_must_be_exact() -> None:
    assert checked({"temperature": 0.5, "stop": ["a"]}) == {"temperature": 0.5, "stop": ("a",)}
    for wrong in ({"temp": 1.0}, {"n": 2}, {"temperature": "1"}, {"top_k": True}, {"stop": "a"}, {"seed": [1]}):
        with pytest.raises(SettingError):
            checked(wrong)
