"""Trains the bundled model from scratch; can be stopped and resumed at any time.

    python -m recipes.demo.train --vocabulary build/demo/qwen.tiktoken --out build/demo/float --steps 3000

Next-token cross entropy on the answers (the labels of `dataset.batch`); fp32 weights, and bf16 products where they are
faster. Muon for the matrices inside the blocks, AdamW for everything else; the learning rate is flat and
falls linearly over the last part.
State is saved as safetensors every few minutes, complete or not at all; a run with the same arguments resumes from it
and sees the batches that it would have seen, because a batch is a function of (seed, step).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwartet.layers.dense_batch import dense_batch
from qwartet.models.families import layout_of, parse_config
from qwartet.models.qwen import QwenModel
from qwartet.tokenizer.chatml import IGNORED_LABEL
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from recipes.demo.dataset import Batch, Dataset
from recipes.demo.shape import config_json, generation_config_json

CHECKPOINT_SECONDS = 180
TOKENS_PER_STEP = 4096
WARMUP_STEPS = 50
DECAY_FRACTION = 0.3
PEAK_LEARNING_RATE = {"muon": 3e-3, "adamw": 3e-3}
LOG_EVERY = 20
LOOK_BACK_FREQUENCIES = 24
LOOK_BACK_WEIGHT = 4.0
PAD_TO = 8  # tokens
ROUND_TO = 512  # tokens


@dataclass(frozen=True)
class TrainSettings:
    """Everything that determines the result of a run."""

    vocabulary: Path
    out: Path
    steps: int
    seed: int = 0


@cache
def is_bf16_faster() -> bool:
    """Whether bf16 products are faster here than fp32 ones: twice as fast on one processor, half as fast on another."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(1024, 1024, dtype=dtype)
        x @ x
        start = time.perf_counter()
        x @ x
        seconds[dtype] = time.perf_counter() - start
    return seconds[torch.bfloat16] < seconds[torch.float32]


def learning_rate_factor(step: int, total: int) -> float:
    """Warm-up, flat, linear decay to zero."""
    decay_start = int(total * (1 - DECAY_FRACTION))
    warm = min(1.0, (step + 1) / WARMUP_STEPS)
    return warm if step < decay_start else warm * max(0.0, (total - step) / (total - decay_start))


def look_back(model: QwenModel) -> None:
    """Initialises the heads of the first layer to attend to the token 1, 2, ... positions back.

    With constant queries and keys rotary attention depends on the distance alone: q = (w, 0) and
    k = w (cos o f, sin o f) give the score sum_j w^2 cos((i - j - o) f), which is highest o positions back. Copying a
    fact from the text (an induction head: Olsson et al. 2022) is built on such a head; finding it unaided takes much
    of a short run.
    """
    attention, dim = model.layers[0].attention, model.config.position.rotary_dim
    frequencies = 1 / model.config.position.rope_theta ** (torch.arange(0, dim, 2) / dim)
    weight = torch.where(torch.arange(dim // 2) < LOOK_BACK_FREQUENCIES, LOOK_BACK_WEIGHT, 0.0)
    with torch.no_grad():
        bias = attention.qkv.bias.view(3, model.config.num_heads, 2, dim // 2)
        for head in range(model.config.num_heads):
            angle = (head + 1) * frequencies
            bias[0, head, 0] = weight
            bias[1, head] = weight * torch.stack([angle.cos(), angle.sin()])


def build_optimizers(model: QwenModel) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the block matrices, AdamW for embeddings, head, norms and biases."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name.startswith("layers.")]
    ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in ids]
    rates = PEAK_LEARNING_RATE
    return [
        torch.optim.Muon(matrices, lr=rates["muon"], weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rates["adamw"], betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def documents_of(batch: Batch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids and labels of each conversation, padded to a multiple of PAD_TO, the longest first.

    Equal lengths are adjacent, so that dense attention takes them in one call. A last document without
    labels fills the batch up to a multiple of ROUND_TO: for every new size torch would create a new matrix kernel.
    """
    documents = []
    for ids, labels, lengths in zip(batch.ids, batch.labels, batch.lengths, strict=True):
        start = 0
        for length in lengths:
            piece = slice(start, start + length)
            start += length
            if (labels[piece] == IGNORED_LABEL).all():  # fills up the row
                continue
            pad = (0, -length % PAD_TO)
            documents.append((np.pad(ids[piece], pad), np.pad(labels[piece], pad, constant_values=IGNORED_LABEL)))
    documents.sort(key=lambda document: len(document[0]), reverse=True)
    missing = -sum(len(ids) for ids, _ in documents) % ROUND_TO
    if missing:
        documents.append((np.zeros(missing, np.int32), np.full(missing, IGNORED_LABEL, np.int32)))
    return documents


def loss_of(model: QwenModel, batch: Batch) -> Tensor:
    """Mean cross entropy in nats over the labelled tokens; the head runs on their predecessors alone."""
    documents = documents_of(batch)
    forward = dense_batch([ids for ids, _ in documents], model.config.position, training=True)
    labels = torch.from_numpy(np.concatenate([np.roll(labels, -1) for _, labels in documents])).long()
    index = (labels != IGNORED_LABEL).nonzero()[:, 0]
    index = F.pad(index, (0, -len(index) % ROUND_TO), value=len(labels) - 1)  # the last token has no label
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16_faster()):
        logits = model(replace(forward, logits_index=index))
    return F.cross_entropy(logits.float(), labels[index], ignore_index=IGNORED_LABEL)


class TrainState:
    """Model, optimizers and step, and how they are saved."""

    def __init__(self, model: QwenModel, directory: Path) -> None:
        self.model = model
        self.optimizers = build_optimizers(model)
        self.directory = directory
        self.step = 0

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": p.data for name, p in self.model.named_parameters()}
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{number}.{index}.{key}": torch.as_tensor(v) for key, v in state.items()}
        return {name: tensor.contiguous() for name, tensor in tensors.items()}

    def save(self) -> None:
        """Writes the state; an earlier one stays until the new one is complete."""
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self.directory / "state.tmp"
        save_file(self._tensors(), temporary, metadata={"step": str(self.step)})
        os.replace(temporary, self.directory / "state.safetensors")

    def restore(self) -> bool:
        """Reads the state of an earlier run; False when there is none."""
        path = self.directory / "state.safetensors"
        if not path.exists():
            return False
        tensors = load_file(path)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
        for number, optimizer in enumerate(self.optimizers):
            saved = optimizer.state_dict()
            prefix = f"optimizer.{number}."
            for name, tensor in tensors.items():
                if name.startswith(prefix):
                    index, key = name.removeprefix(prefix).split(".", 1)
                    saved["state"].setdefault(int(index), {})[key] = tensor
            optimizer.load_state_dict(saved)
        with safe_open(path, framework="pt") as file:
            self.step = int(file.metadata()["step"])
        return True


def export(model: QwenModel, tokenizer: TiktokenTokenizer, vocabulary: Path, directory: Path) -> None:
    """Writes a published-layout bf16 checkpoint directory."""
    directory.mkdir(parents=True, exist_ok=True)
    num_ranks = tokenizer.vocabulary.num_ranks
    named, layout = model.named_parameters(remove_duplicate=False), layout_of(model.config)
    tensors = {layout.parameter_name(name): p.detach().to(torch.bfloat16, copy=True) for name, p in named}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    for name, content in (("config", config_json(num_ranks)), ("generation_config", generation_config_json(num_ranks))):
        (directory / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {"model_max_length": config_json(num_ranks)["seq_length"], "tokenizer_class": "QWenTokenizer"}, indent=2
        )
        + "\n"
    )
    shutil.copy(vocabulary, directory / "qwen.tiktoken")


def train(settings: TrainSettings) -> QwenModel:
    """Runs to settings.steps; prints a line every few steps; leaves the float checkpoint in settings.out."""
    tokenizer = TiktokenTokenizer.load(settings.vocabulary)
    model = QwenModel(parse_config(config_json(tokenizer.vocabulary.num_ranks), Path("config.json")))
    model.initialize(torch.Generator().manual_seed(settings.seed))
    look_back(model)
    model.lm_head.weight = model.embedding.weight  # one matrix while learning (fewer weights to fit), two on disk
    state = TrainState(model, settings.out / "state")
    if state.restore():
        print(f"resuming at step {state.step}", flush=True)
    dataset = Dataset(tokenizer, settings.steps, TOKENS_PER_STEP, settings.seed)
    saved_at = logged_at = time.monotonic()
    num_tokens, losses = 0, []
    while state.step < settings.steps:
        batch = dataset.batch(state.step)
        losses.append(train_step(state, batch, settings.steps))
        num_tokens += batch.ids.size
        if state.step % LOG_EVERY == 0:
            seconds = time.monotonic() - logged_at
            mean = sum(losses) / len(losses)
            rate = num_tokens / seconds
            print(f"step {state.step}/{settings.steps} loss {mean:.3f} {rate:.0f} tok/s", flush=True)
            logged_at, num_tokens, losses = time.monotonic(), 0, []
        if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            state.save()
            export(model, tokenizer, settings.vocabulary, settings.out)
            saved_at = time.monotonic()
    state.save()
    export(model, tokenizer, settings.vocabulary, settings.out)
    return model


def train_step(state: TrainState, batch: Batch, total: int) -> float:
    """One update; returns the loss."""
    factor = learning_rate_factor(state.step, total)
    for optimizer, peak in zip(state.optimizers, PEAK_LEARNING_RATE.values(), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * factor
        optimizer.zero_grad(set_to_none=True)
    loss = loss_of(state.model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    for optimizer in state.optimizers:
        optimizer.step()
    state.step += 1
    return loss.item()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    train(TrainSettings(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
