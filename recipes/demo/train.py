"""Trains the bundled model from scratch, in the stages of a chat model; can be stopped and resumed at any time.

    python -m recipes.demo.train --vocabulary build/demo/qwen.tiktoken --out build/demo --steps 9000

    pretraining    texts, all of which are learned: next-token cross entropy
    chat           conversations, whose answers are learned (supervised fine-tuning)
    preferences    pairs of answers, of which the better one is to become more likely: `qwartet finetune` with DPO

The first two go through one curriculum. All run on the loop of qwartet/finetune: its checkpoints, its log and its plot
are in the directory of each stage. fp32 weights, and bf16 products where they are faster.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qwartet.checkpoint.shards import Checkpoint
from qwartet.checkpoint.writer import save_tensors, write_json
from qwartet.finetune.batches import Batches
from qwartet.finetune.examples import Example
from qwartet.finetune.reports import Progress
from qwartet.finetune.run import Request, finetune, train
from qwartet.finetune.settings import Settings, settings_for
from qwartet.finetune.trainer import Work
from qwartet.layers.dense_batch import dense_batch
from qwartet.models.families import layout_of, parse_config
from qwartet.models.qwen import QwenModel
from qwartet.tokenizer.chatml import IGNORED_LABEL
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from recipes.demo.dataset import Dataset, Form
from recipes.demo.optimizer import MuonAdamW
from recipes.demo.preferences import write_pairs
from recipes.demo.shape import config_json, generation_config_json

PRETRAINING, CHAT, PREFERENCES = "pretraining", "chat", "preferences"
PRETRAINING_SHARE = 1 / 4  # of the steps, and of the curriculum
SAVE_STEPS, LOG_STEPS = 500, 20
WARMUP_STEPS = 50
DECAY_SHARE = 0.45  # of the steps of the chat stage
LEARNING_RATE = 3e-3
LOOK_BACK_FREQUENCIES = 24
LOOK_BACK_WEIGHT = 4.0
PAD_TO = 8  # tokens
ROUND_TO = 512  # tokens
NUM_PAIRS = 2048


@dataclass(frozen=True)
class TrainSettings:
    """Everything that determines the result of a run."""

    vocabulary: Path
    out: Path
    steps: int  # of pretraining and chat together
    seed: int = 0
    tokens_per_step: int = 4096
    num_pairs: int = NUM_PAIRS


@cache
def product_dtype() -> torch.dtype:
    """bf16 where its products are faster than fp32 ones: twice as fast on one processor, half as fast on another."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(1024, 1024, dtype=dtype)
        x @ x
        start = time.perf_counter()
        x @ x
        seconds[dtype] = time.perf_counter() - start
    return min(seconds, key=lambda dtype: seconds[dtype])


def warm_up(step: int, total: int) -> float:
    """The factor of the learning rate in pretraining: a rise, then 1."""
    return min(1.0, (step + 1) / WARMUP_STEPS)


def warm_up_and_decay(step: int, total: int) -> float:
    """The same in the chat stage, with a straight fall to 0 at the end."""
    start = int(total * (1 - DECAY_SHARE))
    return warm_up(step, total) * (1.0 if step < start else max(0.0, (total - step) / (total - start)))


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


def optimizer(model: nn.Module) -> MuonAdamW:
    """Muon for the block matrices, AdamW for embeddings, head, norms and biases."""
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in named.items() if p.ndim != 2 or ".layers." not in name]
    return MuonAdamW(matrices, others, matrix_lr=LEARNING_RATE, lr=LEARNING_RATE, dtype=product_dtype())


def collate(steps: Sequence[list[Example]]) -> Mapping[str, Any]:
    """The examples of one step side by side: input_ids and labels [T], and their lengths.

    Each is padded to a multiple of PAD_TO, the longest first: equal lengths are adjacent, so that dense attention takes
    them in one call. A last one without labels fills up to a multiple of ROUND_TO: for every new size torch would
    create a new matrix kernel.
    """
    (examples,) = steps
    ids, labels, lengths = [], [], []
    for example in sorted(examples, key=lambda example: len(example.ids), reverse=True):
        pad = (0, -len(example.ids) % PAD_TO)
        ids.append(F.pad(torch.from_numpy(example.ids), pad))
        labels.append(F.pad(torch.from_numpy(example.labels).long(), pad, value=IGNORED_LABEL))
        lengths.append(len(ids[-1]))
    if missing := -sum(lengths) % ROUND_TO:
        ids.append(torch.zeros(missing, dtype=torch.int32))
        labels.append(torch.full((missing,), IGNORED_LABEL))
        lengths.append(missing)
    return {"input_ids": torch.cat(ids), "labels": torch.cat(labels), "lengths": lengths}


class LanguageModel(nn.Module):
    """The network with its loss, as the loop calls it. Embedding and head are one matrix while learning."""

    def __init__(self, network: QwenModel) -> None:
        super().__init__()
        self.network = network
        network.lm_head.weight = network.embedding.weight

    def forward(self, input_ids: Tensor, labels: Tensor, lengths: list[int]) -> dict[str, Tensor]:
        """Mean cross entropy in nats over the labelled tokens; the head runs on their predecessors alone."""
        documents = input_ids.split(lengths)
        forward = dense_batch(documents, self.network.config.position, training=True)
        shifted = torch.cat([document.roll(-1) for document in labels.split(lengths)])
        ends = torch.tensor(lengths).cumsum(0) - 1
        shifted[ends] = IGNORED_LABEL  # the last token of a document predicts nothing
        index = (shifted != IGNORED_LABEL).nonzero()[:, 0]
        index = F.pad(index, (0, -len(index) % ROUND_TO), value=len(shifted) - 1)
        logits = self.network(replace(forward, logits_index=index))
        return {"loss": F.cross_entropy(logits.float(), shifted[index], ignore_index=IGNORED_LABEL)}


@dataclass(frozen=True)
class PublishedLayout:
    """Writes and reads the network as a checkpoint of the published layout, with its vocabulary."""

    vocabulary: Path
    num_ranks: int

    @property
    def _layout(self) -> Any:
        return layout_of(parse_config(config_json(self.num_ranks), Path("config.json")))

    def _disk_name(self, parameter: str) -> str:
        return str(self._layout.parameter_name(parameter.removeprefix("network.")))

    def write(self, directory: Path, parameters: Mapping[str, Tensor], *, is_result: bool) -> None:
        """bf16 for the result, fp32 for a checkpoint."""
        dtype = torch.bfloat16 if is_result else torch.float32
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {self._disk_name(name): p.to(dtype, copy=True).contiguous() for name, p in parameters.items()}
        save_tensors(directory / "model.safetensors", tensors, {"format": "pt"})
        config = config_json(self.num_ranks)
        write_json(directory / "config.json", config)
        write_json(directory / "generation_config.json", generation_config_json(self.num_ranks))
        tokenizer = {"model_max_length": config["seq_length"], "tokenizer_class": "QWenTokenizer"}
        write_json(directory / "tokenizer_config.json", tokenizer)
        shutil.copy(self.vocabulary, directory / "qwen.tiktoken")

    def read(self, directory: Path) -> dict[str, Tensor]:
        """The parameters by their names in LanguageModel."""
        checkpoint = Checkpoint(directory)
        names = dict(new_network(self.num_ranks).named_parameters(remove_duplicate=False))
        return {f"network.{name}": checkpoint.read(self._disk_name(name)) for name in names}


def new_network(num_ranks: int, seed: int = 0) -> QwenModel:
    """The network before training."""
    network = QwenModel(parse_config(config_json(num_ranks), Path("config.json")))
    network.initialize(torch.Generator().manual_seed(seed))
    look_back(network)
    return network


def train_stage(settings: TrainSettings, stage: str) -> Path:
    """Pretraining or the chat stage, resumed if it was begun; returns the directory of its result."""
    output, tokenizer = settings.out / stage, TiktokenTokenizer.load(settings.vocabulary)
    num_ranks = tokenizer.vocabulary.num_ranks
    model, weights = (
        LanguageModel(new_network(num_ranks, settings.seed)),
        PublishedLayout(settings.vocabulary, num_ranks),
    )
    num_pretraining = int(settings.steps * PRETRAINING_SHARE)
    form: Form = "text" if stage == PRETRAINING else "chat"
    if stage == PRETRAINING:
        steps, begin, end = num_pretraining, 0.0, PRETRAINING_SHARE
    else:
        steps, begin, end = settings.steps - num_pretraining, PRETRAINING_SHARE, 1.0
        model.load_state_dict(weights.read(settings.out / PRETRAINING))
    work = Work(
        train_set=Dataset(tokenizer, steps, form, begin, end, settings.tokens_per_step, settings.seed),
        batches=Batches([[step] for step in range(steps)], shuffles=False),
        collate=collate,
        weights=weights,
        make_optimizer=optimizer,
        learning_rate=warm_up if stage == PRETRAINING else warm_up_and_decay,
    )
    loop = Settings(
        method="full", num_train_epochs=1, gradient_accumulation_steps=1, gradient_checkpointing=False,
        save_steps=SAVE_STEPS, save_total_limit=1, logging_steps=LOG_STEPS, seed=settings.seed,
    )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    train(model, work, loop, output, device=torch.device("cpu"), dtype=product_dtype(), on_progress=_printer(stage))
    return output


def prefer(settings: TrainSettings) -> Path:
    """The last stage, on the result of the chat stage."""
    pairs, output = settings.out / "pairs.jsonl", settings.out / PREFERENCES
    write_pairs(pairs, settings.num_pairs, settings.seed)
    loop = settings_for(
        "full", objective="dpo", learning_rate=2e-6, num_train_epochs=1.0, per_device_train_batch_size=16,
        gradient_accumulation_steps=1, weight_decay=0.0, gradient_checkpointing=False, dtype="fp32",
        logging_steps=8, seed=settings.seed,
    )  # fmt: skip
    request = Request(str(settings.out / CHAT), pairs, output, loop, resume=output.exists(), device="cpu")
    finetune(request, _printer(PREFERENCES))
    return output


def train_all(settings: TrainSettings) -> Path:
    """All stages; those whose result exists are skipped. Returns the directory of the last result."""
    for stage in (PRETRAINING, CHAT):
        if not is_finished(settings.out / stage):
            train_stage(settings, stage)
    output = settings.out / PREFERENCES
    return output if is_finished(output) else prefer(settings)


def is_finished(directory: Path) -> bool:
    """Whether a stage has left its result."""
    return (directory / "config.json").exists()


def _printer(stage: str) -> Any:
    def show(state: Progress) -> None:
        if state.step % LOG_STEPS == 0 and state.loss is not None:
            print(
                f"{stage} step {state.step}/{state.num_steps} loss {state.loss:.3f} "
                f"{state.tokens_per_second:.0f} tok/s",
                flush=True,
            )

    return show


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True, help="of pretraining and chat together")
    parser.add_argument("--seed", type=int, default=0)
    train_all(TrainSettings(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
