"""Engine settings are checked before anything is made with them."""

from __future__ import annotations

import pytest

from qwartet.engine.engine_config import EngineConfig
from qwartet.errors import SettingError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_model_len", 1), ("max_num_seqs", 0), ("max_num_seqs", None), ("max_num_batched_tokens", 0),
        ("num_blocks", True), ("num_blocks", 1.5), ("speculation", "on"), ("max_stall_s", 0),
        ("max_stall_s", float("inf")), ("max_stall_s", True), ("enable_prefix_caching", 1),
    ],
)  # fmt: skip
def test_a_setting_out_of_bounds_is_refused_by_its_name_and_value(name: str, value: object) -> None:
    with pytest.raises(SettingError, match=f"^{name} is {value!r}; it must be "):
        EngineConfig(**{name: value})


def test_an_unknown_name_is_refused_with_the_nearest_one_or_all() -> None:
    assert EngineConfig.of({"max_num_seqs": 3}).max_num_seqs == 3
    with pytest.raises(SettingError, match="'max_num_seq'; did you mean max_num_seqs"):
        EngineConfig.of({"max_num_seq": 3})
    with pytest.raises(SettingError, match="'x'; use one of max_model_len, max_num_seqs"):
        EngineConfig.of({"x": 3})
