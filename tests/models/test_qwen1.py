"""The map of tensor names: complete, one to one, and that of the published files."""

from __future__ import annotations

import pytest

from tests.published_names import published_layout

LAYOUT = published_layout()


def test_the_names_of_a_layer_are_the_published_ones() -> None:
    assert [module.disk_name for module in (*LAYOUT.modules[:8], *LAYOUT.modules[-2:])] == [
        "transformer.wte",
        "transformer.h.0.ln_1",
        "transformer.h.0.attn.c_attn",
        "transformer.h.0.attn.c_proj",
        "transformer.h.0.ln_2",
        "transformer.h.0.mlp.w1",
        "transformer.h.0.mlp.w2",
        "transformer.h.0.mlp.c_proj",
        "transformer.ln_f",
        "lm_head",
    ]


def test_no_two_modules_share_a_name_on_disk() -> None:
    names = [module.disk_name for module in LAYOUT]
    assert len(set(names)) == len(names) == 3 + 80 * 7


def test_a_parameter_is_named_like_its_module() -> None:
    assert LAYOUT.parameter_name("layers.79.mlp.gate.weight") == "transformer.h.79.mlp.w2.weight"
    assert LAYOUT.parameter_name("norm.weight") == "transformer.ln_f.weight"


@pytest.mark.parametrize(
    ("name", "harmless"),
    [
        ("transformer.rotary_emb.inv_freq", True),
        ("transformer.h.3.attn.rotary_emb.inv_freq", True),
        ("transformer.h.3.attn.masked_bias", True),
        ("transformer.h.3.attn.bias", True),
        ("transformer.h.3.attn.c_attn.bias", False),
        ("transformer.h.3.mlp.w1.weight", False),
        ("transformer.h.3.attn.bias.x", False),
    ],
)
def test_only_buffers_that_every_engine_recomputes_are_harmless(name: str, harmless: bool) -> None:
    assert LAYOUT.is_harmless_extra(name) is harmless


def test_the_layer_of_a_tensor_is_read_from_its_name() -> None:
    assert LAYOUT.layer_of("transformer.h.79.mlp.w1.qweight") == 79
    assert LAYOUT.layer_of("transformer.ln_f.weight") is LAYOUT.layer_of("x.transformer.h.1.ln_1") is None
    assert LAYOUT.layer_of("transformer.h." + "9" * 5000 + ".x") is None
