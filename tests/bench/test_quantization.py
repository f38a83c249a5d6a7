"""`qwartet bench quantization`: KL, perplexity and layers of checkpoints against the model they were made from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from qwartet import DEMO
from qwartet.bench.quantization import measure_quantization
from qwartet.cli.main import run
from qwartet.errors import SettingError
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.load import load_model
from tests.bench.test_numerics import EXAMPLES, NUM_POSITIONS, text_file
from tests.tiny_checkpoint import NUM_LAYERS, VOCAB_SIZE, write_tiny_checkpoint


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {
        "parent": write_tiny_checkpoint(place / "parent"),
        "same": write_tiny_checkpoint(place / "same"),
        "int4": write_tiny_checkpoint(place / "int4", bits=4),
    }


def test_the_parent_is_no_distance_from_itself_and_codes_are(models: dict[str, Path]) -> None:
    told: list[str] = []
    others = [models["same"], models["int4"]]
    report = measure_quantization(models["parent"], others, EXAMPLES, NUM_POSITIONS, VOCAB_SIZE, told.append)
    same, int4 = report.effects
    assert same.mean_kl == same.p99_kl == 0 and same.top1 == 1 and same.perplexity == report.perplexity
    assert same.error_by_layer == [0.0] * NUM_LAYERS
    assert int4.mean_kl > 0 and int4.p99_kl >= int4.mean_kl and int4.top1 <= 1
    assert len(int4.error_by_layer) == NUM_LAYERS and all(error > 0 for error in int4.error_by_layer)
    assert report.num_positions >= NUM_POSITIONS and told
    assert set(int4.kl_by_position) <= {16, 32, 64, 128, 256, 512}


def test_perplexity_and_kl_are_those_of_the_logits(models: dict[str, Path]) -> None:
    example = EXAMPLES[0]
    report = measure_quantization(models["parent"], [models["int4"]], [example], len(example), VOCAB_SIZE)
    logits = []
    for name in ("parent", "int4"):
        network = load_model(models[name])
        with torch.inference_mode():
            logits.append(network(dense_batch([example], network.config.position)).double())
    for found, own in zip((report.perplexity, report.effects[0].perplexity), logits, strict=True):
        assert found == pytest.approx(math.exp(F.cross_entropy(own[:-1], torch.tensor(example[1:]))), rel=1e-5)
    p, q = (one.log_softmax(-1) for one in logits)
    kl = (p.exp() * (p - q)).sum(-1)
    assert report.effects[0].mean_kl == pytest.approx(float(kl.mean()), rel=1e-5)
    assert report.effects[0].top1 == float((p.argmax(-1) == q.argmax(-1)).double().mean())
    assert report.effects[0].kl_by_position[16] == pytest.approx(float(kl[:16].mean()), rel=1e-5)


def test_models_of_other_shapes_are_refused(models: dict[str, Path]) -> None:
    with pytest.raises(SettingError, match="has another shape"):
        measure_quantization(models["parent"], [DEMO], EXAMPLES, NUM_POSITIONS, VOCAB_SIZE)


def test_the_command_prints_a_table_and_draws(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "effect.svg"
    text = text_file(tmp_path)
    arguments = ["bench", "quantization", str(models["parent"]), str(models["int4"]), "--text", str(text)]
    assert run([*arguments, "--positions", "20", "--plot", str(picture), "--json"]) == 0
    printed = capsys.readouterr().out.splitlines()
    report = json.loads(printed[-1])
    assert report["effects"][0]["name"] == str(models["int4"]) and "mean KL" in printed[0]
    assert picture.read_text(encoding="utf-8").count("<svg") == 1
