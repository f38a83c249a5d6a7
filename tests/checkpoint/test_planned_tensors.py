"""The tensors that a layout implies are those that checkpoints have."""

from __future__ import annotations

import pytest

from qwartet.bench.synth import plan_synthesis
from qwartet.checkpoint.planned_tensors import planned_tensors
from qwartet.models.families import layout_of
from qwartet.models.shapes import SHAPES, Precision, gptq_config
from tests.bench.tiny_shape import TINY


@pytest.mark.parametrize("shape", [TINY, *SHAPES.values()], ids=lambda shape: shape.name)
@pytest.mark.parametrize(
    ("precision", "settings"),
    [
        ("bf16", {}),
        ("int4", {}),
        ("int8", {}),
        ("int4", {"group_size": -1}),
        ("int4", {"group_size": 64}),
        ("int4", {"method": "awq"}),
    ],
)
def test_they_are_those_of_a_published_checkpoint(shape, precision: Precision, settings: dict) -> None:
    gptq = gptq_config(precision, **settings)
    planned = plan_synthesis(shape, gptq)
    expected = sorted((tensor.name, tensor.dtype, tensor.shape, tensor.nbytes) for tensor in planned.tensors)
    assert sorted(planned_tensors(layout_of(planned.config), gptq, "F16" if gptq else "BF16")) == expected


def test_fp32_takes_twice_the_bytes() -> None:
    layout = layout_of(plan_synthesis(TINY, None).config)
    single, half = (sum(tensor.nbytes for tensor in planned_tensors(layout, None, kind)) for kind in ("F32", "F16"))
    assert single == 2 * half
