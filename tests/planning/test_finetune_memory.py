"""The forecast of fine-tuning's memory: its rows follow from the sizes, and what is smaller needs less."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwartet.errors import SettingError
from qwartet.models.shapes import SHAPES
from qwartet.planning.finetune_memory import FinetuneLoad, FinetunePlan, Method
from tests.planning.test_memory_plan import GIB, published


def plan(method: Method, shape: str = "1.8b", **load: object) -> FinetunePlan:
    network = published(SHAPES[shape], "int4" if method == "qlora" else "bf16", head="exact")
    return FinetunePlan(network, FinetuneLoad(method, 256, **load), process_bytes=250 << 20, free_bytes=24 * GIB)


def test_the_rows_of_an_adapter_follow_from_its_rank() -> None:
    made = plan("qlora", rank=64)
    widths = (2048 + 6144) + (2048 + 2048) + 3 * (2048 + 5504)
    assert made.num_trained == 24 * 64 * widths == 53_673_984  # PEFT counts the same
    assert made.rows["adapter"] == made.rows["gradients"] == 4 * made.num_trained
    assert made.rows["AdamW"] == 8 * made.num_trained
    assert plan("qlora", rank=32).num_trained * 2 == made.num_trained


def test_full_fine_tuning_holds_four_fp32_copies_of_every_weight() -> None:
    made = plan("full")
    assert "adapter" not in made.rows
    weights = sum(made.rows[name] for name in ("linears", "embedding", "head", "norms and biases"))
    assert weights == made.rows["gradients"] == made.rows["AdamW"] // 2 == 4 * made.num_trained
    assert 1.8e9 < made.num_trained < 1.85e9


def test_less_work_needs_less_memory() -> None:
    made = plan("qlora", batch_size=4)
    for change in ({"batch_size": 2}, {"context": 128}, {"rank": 8}):
        assert replace(made, load=replace(made.load, **change)).total_bytes < made.total_bytes
    without = replace(made, load=replace(made.load, gradient_checkpointing=False))
    assert without.activation_bytes > 5 * made.activation_bytes
    assert without.smaller() == ["--gradient-checkpointing", "--batch-size 2"]
    assert plan("qlora").total_bytes < plan("lora").total_bytes < plan("full").total_bytes
    assert not replace(made, free_bytes=GIB).fits


def test_impossible_sizes_are_refused() -> None:
    config = plan("qlora").network.config
    for load in (FinetuneLoad("qlora", 1), FinetuneLoad("qlora", 9000)):
        with pytest.raises(SettingError, match="must be between 2 and 8192"):
            load.check(config)
    with pytest.raises(SettingError, match="batch size is 0 and rank 64; both must be at least 1"):
        FinetuneLoad("qlora", 256, batch_size=0).check(config)
