"""Runs of each method on a tiny model: they learn, they resume exactly, and they leave what they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from qwartet import LLM
from qwartet.checkpoint.adapter import read_adapter
from qwartet.errors import NotFiniteError, OutOfMemoryError, SettingError
from qwartet.finetune import models, output, training_state
from qwartet.finetune.reports import Progress
from qwartet.models.load import open_checkpoint
from tests.finetune.runs import assert_same_tensors, conversations, run, tensors_of, turn, write_data
from tests.tiny_checkpoint import Copy


class Killed(BaseException):
    """Ends a run as kill -9 does: nothing is cleaned up."""


@pytest.fixture(autouse=True)
def no_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take half of a run's time; one test looks at them."""
    if "published_layout" not in request.node.name:
        monkeypatch.setattr("qwartet.finetune.run.plot", lambda *arguments: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data.json")


def kill_at(step: int) -> Any:
    def on_progress(state: Progress) -> None:
        if state.step == step:
            raise Killed

    return on_progress


def test_full_training_leaves_a_model_of_the_published_layout_that_chats(
    pristine: Copy, data: Path, tmp_path: Path
) -> None:
    base, out = pristine(), tmp_path / "out"
    summary = run(base, out, data, "full", eval_data=data)
    assert summary.steps == 6 and summary.losses[-1][1] < summary.losses[0][1] - 1
    assert [step for step, _ in summary.eval_losses] == [2, 4, 6] and summary.tokens == 2 * summary.tokens // 2 > 500
    assert {path.name for path in base.iterdir()} <= set(summary.files)
    before, after = tensors_of(base), tensors_of(out)
    assert {name: tensor.dtype for name, tensor in after.items()} == {name: t.dtype for name, t in before.items()}
    assert all(not after[name].equal(tensor) for name, tensor in before.items())
    open_checkpoint(out), open_checkpoint(out / "checkpoint-4")
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    with LLM(out) as llm:
        assert isinstance(llm.chat("hello 1", max_tokens=3)[0], str)
    files = {path.suffix for path in out.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert files == {".json", ".jsonl", ".png", ".safetensors", ".tiktoken"}, "no pickles"
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_lora_leaves_an_adapter_as_peft_saves_it(pristine: Copy, data: Path, tmp_path: Path) -> None:
    base, out = pristine(), tmp_path / "out"
    summary = run(base, out, data)
    assert summary.losses[-1][1] < summary.losses[0][1] - 0.3
    adapter = read_adapter(out, open_checkpoint(base).layout)
    assert len(adapter.linears) == 10 and not adapter.replaced and adapter.config.base == str(base)
    from peft import AutoPeftModelForCausalLM

    import qwartet.hf  # noqa: F401

    loaded = AutoPeftModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    for name, low_rank in adapter.linears.items():
        module = loaded.base_model.model.get_submodule(open_checkpoint(base).layout[name].disk_name)
        assert module.lora_B["default"].weight.equal(low_rank.b) and low_rank.b.abs().max() > 0


def test_lora_on_a_base_model_trains_embedding_and_head_too(pristine: Copy, data: Path, tmp_path: Path) -> None:
    base, out = pristine(chat_format="raw"), tmp_path / "out"
    run(base, out, data, max_steps=1)
    assert set(read_adapter(out, open_checkpoint(base).layout).replaced) == {"embedding", "lm_head"}
    run(base, tmp_path / "none", data, max_steps=1, modules_to_save=())
    assert not read_adapter(tmp_path / "none", open_checkpoint(base).layout).replaced


@pytest.mark.parametrize(("method", "killed_at"), [("full", 3), ("lora", 5)])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    pristine: Copy, data: Path, tmp_path: Path, method: str, killed_at: int
) -> None:
    """With dropout, in the middle of the first epoch, and of the second; a half-written line of the log is dropped."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    expected = run(pristine(), whole, data, method)
    with pytest.raises(Killed):
        run(pristine(), resumed, data, method, on_progress=kill_at(killed_at))
    with (resumed / "log.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    steps: list[int] = []
    found = run(pristine(), resumed, data, method, resume=True, on_progress=lambda state: steps.append(state.step))
    assert min(steps) == killed_at // 2 * 2 + 1, "it does not begin again"
    assert found.losses == expected.losses and len(found.losses) == 6
    assert [json.loads(line)["step"] for line in (resumed / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert_same_tensors(whole, resumed)


def test_a_run_that_is_killed_while_it_saves_resumes_from_the_checkpoint_before(
    pristine: Copy, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(pristine(), whole, data)

    def save_random_states(directory: Path, rank: int) -> None:
        if directory.name == ".checkpoint-4.tmp":
            raise Killed
        original(directory, rank)

    original = training_state.save_random_states
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(training_state, "save_random_states", save_random_states)
        run(pristine(), out, data)
    assert (out / ".checkpoint-4.tmp").is_dir()
    assert [path.name for path in output.checkpoints(out)] == ["checkpoint-2"]
    run(pristine(), out, data, resume=True)
    assert not list(out.glob(".checkpoint*"))
    assert_same_tensors(whole, out)


def test_only_the_newest_checkpoints_are_kept(pristine: Copy, data: Path, tmp_path: Path) -> None:
    run(pristine(), tmp_path / "out", data, save_steps=1, save_total_limit=2)
    assert [path.name for path in output.checkpoints(tmp_path / "out")] == ["checkpoint-5", "checkpoint-6"]


def test_a_loss_that_is_not_finite_ends_the_run_with_step_and_samples(
    pristine: Copy, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qwartet.finetune.trainer import QwartetTrainer

    original = QwartetTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs) * (float("nan") if self.state.global_step == 2 else 1.0)

    monkeypatch.setattr(QwartetTrainer, "compute_loss", compute_loss)
    with pytest.raises(NotFiniteError, match=r"step 3: the loss is nan; check its samples \('c\d+', 'c\d+'\), lower"):
        run(pristine(), tmp_path / "out", data)
    assert [path.name for path in output.checkpoints(tmp_path / "out")] == ["checkpoint-2"]


def test_packed_batches_give_the_losses_and_weights_of_unpacked_ones(
    pristine: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same step of all conversations: one batch of all, and one conversation at a time."""
    data = write_data(tmp_path / "data.json", conversations(6))
    all_at_once = {"tokens_per_batch": 1000, "gradient_accumulation_steps": 1}
    common = {"num_train_epochs": 3, "save_steps": 9, "warmup_ratio": 0.0}
    one = run(pristine(), tmp_path / "packed", data, "full", **all_at_once, **common)
    each = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 6}
    other = run(pristine(), tmp_path / "each", data, "full", **each, **common)
    assert one.steps == other.steps == 3 and one.tokens == other.tokens
    torch.testing.assert_close(torch.tensor(one.losses), torch.tensor(other.losses), rtol=1e-5, atol=1e-5)


def test_an_output_directory_is_resumed_or_overwritten_only_when_asked(
    pristine: Copy, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(pristine(), out, data, max_steps=2)
    with pytest.raises(
        SettingError, match="holds an earlier run; resume it with --resume, replace it with --overwrite"
    ):
        run(pristine(), out, data)
    with pytest.raises(
        SettingError, match=r"with other settings \(learning_rate 0.01, not 0.02, seed 42, not 1\); use"
    ):
        run(pristine(), out, data, max_steps=2, resume=True, learning_rate=0.02, seed=1)
    with pytest.raises(SettingError, match=r"with other settings \(data '.*, not '.*\); use"):
        run(pristine(), out, write_data(tmp_path / "new.json", conversations(5)), max_steps=2, resume=True)
    with pytest.raises(SettingError, match="exclude each other"):
        run(pristine(), out, data, resume=True, overwrite=True)
    assert run(pristine(), out, data, max_steps=2, resume=True, save_steps=7).steps == 2, "nothing is left to do"
    assert run(pristine(), out, data, max_steps=1, overwrite=True).steps == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    for flags in ({}, {"overwrite": True}):
        with pytest.raises(SettingError, match="is not empty, and is not of an earlier run"):
            run(pristine(), tmp_path / "mine", data, **flags)


@pytest.mark.parametrize(
    ("bits", "method", "words"),
    [
        (4, "full", "is quantised, and full training needs a float checkpoint; use --method qlora, or the float model"),
        (4, "lora", "is quantised, where LoRA is Q-LoRA; use --method qlora"),
        (None, "qlora", "is not quantised; use --method lora, or an -Int4 checkpoint"),
    ],
)
def test_a_method_that_does_not_suit_the_checkpoint_is_refused_with_the_way_out(
    pristine: Copy, data: Path, tmp_path: Path, bits: Any, method: str, words: str
) -> None:
    with pytest.raises(SettingError, match=words):
        run(pristine(bits=bits), tmp_path / "out", data, method)
    assert not (tmp_path / "out").exists()


def test_what_the_model_lacks_is_refused_before_it_is_loaded(
    pristine: Copy, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SettingError, match="'q_proj', which is not a linear of this model; choose from c_attn, c_proj"):
        run(pristine(), out, data, lora_target_modules=("c_attn", "q_proj"))
    with pytest.raises(SettingError, match="model_max_length is 4096, but the model's context is 2048"):
        run(pristine(), out, data, model_max_length=4096)
    with pytest.raises(SettingError, match="modules_to_save names 'ln_f'; it may name wte and lm_head"):
        run(pristine(), out, data, modules_to_save=("ln_f",))
    monkeypatch.setattr(models, "available_bytes", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match=r"full training of 0.0 billion .* GB are free; use --method lora"):
        run(pristine(), out, data, "full")
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000}))
    with pytest.raises(SettingError, match=r"but only .* GB are free there; free some space, lower"):
        run(pristine(), out, data)
    assert not out.exists()


def test_samples_without_an_id_are_named_by_their_place(pristine: Copy, tmp_path: Path) -> None:
    nameless = [{"conversations": [turn("user", "a"), turn("assistant", "b")]}] * 2
    data = write_data(tmp_path / "data.json", nameless)
    with pytest.raises(NotFiniteError, match=r"'entry [01]', 'entry [01]'"):
        run(pristine(), tmp_path / "out", data, "full", learning_rate=1e30, num_train_epochs=20, warmup_ratio=0.0)


def test_q_lora_trains_an_adapter_on_a_quantised_model_and_resumes_exactly(
    pristine: Copy, data: Path, tmp_path: Path
) -> None:
    base, whole, resumed = pristine(bits=4), tmp_path / "whole", tmp_path / "resumed"
    run(pristine(bits=8), tmp_path / "int8", data, "qlora", max_steps=1, dtype="auto")
    expected = run(base, whole, data, "qlora", dtype="auto")
    assert expected.losses[-1][1] < expected.losses[0][1] - 0.3
    assert json.loads((whole / "run.json").read_text())["settings"]["dtype"] == "bfloat16"
    adapter = read_adapter(whole, open_checkpoint(base).layout)
    assert len(adapter.linears) == 10 and not adapter.replaced
    with pytest.raises(Killed):
        run(base, resumed, data, "qlora", dtype="auto", on_progress=kill_at(3))
    assert run(base, resumed, data, "qlora", dtype="auto", resume=True).losses == expected.losses
    assert_same_tensors(whole, resumed)
