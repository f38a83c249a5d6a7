"""`qwartet bench kv-cache`: outliers in the keys change nothing but the keys, and the kinds of cache come in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from qwartet.bench.cache_numerics import CACHES, NATIVE, REFERENCE, measure_cache_numerics
from qwartet.bench.numerics import load_reference, logits_of
from qwartet.bench.outliers import write_key_outliers
from qwartet.checkpoint.shards import Checkpoint
from qwartet.cli.main import run
from qwartet.errors import SettingError
from qwartet.kernels.cpu import library as native
from tests.bench.test_numerics import EXAMPLES, NUM_POSITIONS, text_file
from tests.published_names import disk_name
from tests.tiny_checkpoint import NUM_LAYERS, VOCAB_SIZE, write_tiny_checkpoint

HEAD_DIM = 128


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "int4", bits=4)


def test_one_pair_of_every_head_is_multiplied_in_the_keys_and_divided_in_the_queries(model: Path, tmp_path) -> None:
    chosen = write_key_outliers(model, tmp_path / "outliers")
    assert write_key_outliers(model, tmp_path / "other", seed=1) != chosen
    before, after = Checkpoint(model), Checkpoint(tmp_path / "outliers")
    changed = {name for name in before if not torch.equal(before.read(name), after.read(name))}
    assert set(before) == set(after) and len(chosen) == NUM_LAYERS
    for layer, (pair,) in enumerate(chosen):
        qkv = disk_name(f"layers.{layer}.attention.qkv")
        ratio = after.read(f"{qkv}.scales").float() / before.read(f"{qkv}.scales").float()
        expected = torch.ones(3, HEAD_DIM)
        expected[0, [pair, pair + HEAD_DIM // 2]], expected[1, [pair, pair + HEAD_DIM // 2]] = 1 / 32, 32
        assert torch.allclose(ratio, expected.flatten().expand_as(ratio), rtol=1e-2)
        changed -= {f"{qkv}.scales", f"{qkv}.bias"}
    assert not changed


def test_the_network_computes_what_it_did(model: Path, tmp_path: Path) -> None:
    write_key_outliers(model, tmp_path / "outliers")
    before, after = (logits_of(load_reference(directory), EXAMPLES) for directory in (model, tmp_path / "outliers"))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-4)


def test_a_checkpoint_that_is_not_quantised_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is not quantised"):
        write_key_outliers(write_tiny_checkpoint(tmp_path / "bf16"), tmp_path / "outliers")


def test_the_fewer_bits_a_cache_has_the_further_it_is_and_outliers_cost_the_codes_most(model: Path) -> None:
    told: list[str] = []
    report = measure_cache_numerics(model, EXAMPLES, NUM_POSITIONS, VOCAB_SIZE, told.append)
    assert list(report.variants) == ["as it is", "outliers in the keys"]
    assert told[-1].startswith("outliers in the keys: 151 of 151")
    ways = [REFERENCE] if native.native_library() is None else [REFERENCE, NATIVE]
    for rows in report.variants.values():
        assert list(rows) == [f"{way} {name}" for way in ways for name in CACHES]
        bf16, int8, int4 = (rows[f"{REFERENCE} {name}"].mean_kl for name in CACHES)
        assert 0 < bf16 < int8 < int4 / 10
    before, after = (rows[f"{REFERENCE} int8"].mean_kl for rows in report.variants.values())
    assert after > 1.5 * before
    before, after = (rows[f"{REFERENCE} bf16"].mean_kl for rows in report.variants.values())
    assert after == pytest.approx(before, rel=0.1), "a power of two does not change floats"


def test_the_verb_prints_a_table_and_json(model: Path, tmp_path: Path, capsys) -> None:
    options = ["--text", str(text_file(tmp_path)), "--positions", "50", "--json"]
    assert run(["bench", "kv-cache", str(model), *options]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    for variant, rows in json.loads(last)["variants"].items():
        assert table.count(variant) == 1
        for name, row in rows.items():
            assert any(f"  {name} " in line and f"{row['mean_kl']:.2e}" in line for line in table)
