"""The benchmark of a training step: both sides train the same adapter on the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("peft", reason="peft is not installed")
pytest.importorskip("transformers", minversion="5.3", reason="transformers is not installed (the extra 'hf')")

from qwartet.bench.finetune import FinetuneSettings, faster_dtype, measure_finetune
from qwartet.errors import SettingError
from tests.golden_data import golden_path


def test_both_sides_have_the_same_loss_and_the_ratio_is_of_their_times(monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = faster_dtype(24)
    monkeypatch.setattr("qwartet.bench.finetune.faster_dtype", lambda _count: dtype)
    settings = FinetuneSettings(Path(golden_path("gptq-int4")), tokens=12, batch_size=2, rank=2, rounds=2)
    report = measure_finetune(settings, lambda _text: None)
    assert report["ours_loss"] == pytest.approx(report["peer_loss"], rel=0.01)
    assert [one["speed_up"] for one in report["rounds"]] == [one["peer_s"] / one["ours_s"] for one in report["rounds"]]
    assert report["ours_tok_s"] == pytest.approx(24 / report["ours_s"], rel=0.01)
    assert report["peer_dtype"] == str(dtype).removeprefix("torch.")


def test_a_float_model_or_an_empty_step_is_refused() -> None:
    with pytest.raises(SettingError, match="has no quantised weights"):
        measure_finetune(FinetuneSettings(Path(golden_path("tiny-72b-base-sharded"))), lambda _text: None)
    with pytest.raises(SettingError, match="at least 1"):
        measure_finetune(FinetuneSettings(Path(golden_path("gptq-int4")), rank=0), lambda _text: None)
    assert faster_dtype(4) in (torch.float32, torch.bfloat16)
