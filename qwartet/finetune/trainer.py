"""transformers' Trainer with checkpoints that need no pickle and resume exactly, and an order of data of its own.

Trained parameters are fp32; a step's loss is the mean over the labelled tokens of all its batches, on all processes.
A subclass with another loss overrides compute_loss, and num_items, what its mean is over.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState

from qwartet.errors import CheckpointError, NotFiniteError
from qwartet.finetune import sharding, training_state
from qwartet.finetune.batches import Batches, Loader
from qwartet.finetune.examples import SAMPLES
from qwartet.finetune.output import publish_checkpoint, unfinished
from qwartet.finetune.weights import WeightFiles
from qwartet.tokenizer.chatml import IGNORED_LABEL

Collate = Callable[[Sequence[Any]], Mapping[str, Any]]
MakeOptimizer = Callable[[nn.Module], Optimizer]
LearningRate = Callable[[int, int], float]
"""(step, all steps) -> factor of the peak learning rate."""


@dataclass(frozen=True)
class Work:
    """What a trainer computes on: sets of examples, their batches, and where the weights go."""

    train_set: Any
    batches: Batches
    collate: Collate
    weights: WeightFiles
    eval_set: Any = None
    eval_batches: Batches | None = None
    make_optimizer: MakeOptimizer | None = None  # None: AdamW of the settings
    learning_rate: LearningRate | None = None  # None: the schedule of the settings


class QwartetTrainer(Trainer):  # type: ignore[misc]
    """One run. NotFiniteError for a loss or gradient that is NaN or infinite."""

    optimizer: Any
    lr_scheduler: Any
    control: Any

    def __init__(self, model: nn.Module, args: Any, work: Work, callbacks: Sequence[TrainerCallback] = ()) -> None:
        self.work, self.directory = work, Path(args.output_dir)
        self.num_tokens, self.seconds = 0, 0.0  # of training, in this process, since the run began or was resumed
        self.all_tokens = 0  # of all processes, at the last entry of the log
        self._step_began, self._names = 0.0, list[str]()
        super().__init__(
            model, args, data_collator=work.collate, train_dataset=work.train_set, eval_dataset=work.eval_set,
            callbacks=[_Clock(self), *callbacks],
        )  # fmt: skip

        self.remove_callback(PrinterCallback)

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        sharding.ensure_sharded(self)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of training that all processes computed per second of their steps."""
        return self.all_tokens / self.seconds if self.seconds else 0.0

    def resume(self, checkpoint: Path | None) -> None:
        """Trains from a checkpoint on, or from the beginning; a run that is finished only gets its weights back."""
        if checkpoint is not None:
            state = TrainerState.load_from_json(str(checkpoint / training_state.TRAINER))
            if state.global_step >= state.max_steps:
                self.state = state
                self._load_from_checkpoint(str(checkpoint))
                return
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    # Data

    def get_train_dataloader(self) -> Any:
        return self._loader(self.work.train_set, self.work.batches)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        assert self.work.eval_batches is not None
        return self._loader(self.work.eval_set, self.work.eval_batches)

    def _loader(self, examples: Any, batches: Batches) -> Loader:
        batches.rank, batches.num_ranks = self.args.process_index, self.args.world_size
        generator = torch.Generator().manual_seed(self.args.seed)  # not the one whose state is resumed
        return Loader(examples, batch_sampler=batches, collate_fn=self.work.collate, generator=generator)

    # Optimizer

    def create_optimizer(self, model: Any = None) -> Any:
        if self.work.make_optimizer is None:
            return super().create_optimizer(model)
        if self.optimizer is None:
            self.optimizer = self.work.make_optimizer(self.model if model is None else model)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        factor = self.work.learning_rate
        if factor is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: factor(step, num_training_steps))
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Steps

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        names = inputs.pop(SAMPLES, [])
        self._names += names
        self.num_tokens += num_tokens(inputs)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if not math.isfinite(float(loss)):
            raise self._not_finite(f"the loss is {float(loss)}", names)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and self.accelerator.scaler is None and not math.isfinite(float(norm)):
            raise self._not_finite(f"the gradient's norm is {float(norm)}", self._names)
        return norm

    def _not_finite(self, what: str, names: Sequence[str]) -> NotFiniteError:
        shown = ", ".join(repr(name)[:60] for name in names[:8])
        return NotFiniteError(
            f"step {self.state.global_step + 1}: {what}; check its samples ({shown}), lower the learning rate, or "
            "compute in bf16 or fp32"
        )

    def num_items(self, inputs: Mapping[str, Any]) -> int:
        """What the loss of a batch is the mean over: its labelled tokens."""
        return int(inputs["labels"][..., 1:].ne(IGNORED_LABEL).sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            counted = torch.tensor(self.num_tokens, device=self.args.device)
            self.all_tokens = int(self.accelerator.reduce(counted) if self.args.world_size > 1 else counted)
            logs |= {"tokens": self.all_tokens, "tokens_per_second": round(self.tokens_per_second, 1)}
        super().log(logs, start_time)

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """The mean loss over all items of the evaluation set, logged as eval_loss."""
        model, batches = self.model_wrapped, self.work.eval_batches
        assert batches is not None
        loader = self.get_eval_dataloader()
        model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for number, inputs in enumerate(loader):
            inputs.pop(SAMPLES, None)
            count = self.num_items(inputs) if batches.is_own(number) else 0
            with torch.no_grad():
                loss = self.compute_loss(model, self._prepare_inputs(inputs))
            total += torch.tensor([float(loss) * count if count else 0.0, count], device=self.args.device)
        if self.args.world_size > 1:
            total = self.accelerator.reduce(total)
        metrics = {f"{metric_key_prefix}_loss": float(total[0] / total[1].clamp(min=1))}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint, which gets its name when it is complete."""
        step = self.state.global_step
        place = unfinished(self.directory, step)
        if self.args.should_save:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self.save_weights(place, is_result=False)
        self._save_optimizer_and_scheduler(str(place))
        self._save_scaler(str(place))
        self._save_rng_state(str(place))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(place / training_state.TRAINER))
            publish_checkpoint(self.directory, step, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()

    def save_weights(self, directory: Path, *, is_result: bool) -> None:
        """Gathers the trained parameters and writes them; every process has to call this."""
        parameters = self._gathered()
        if self.args.should_save:
            self.work.weights.write(directory, parameters, is_result=is_result)

    def _trained(self) -> dict[str, nn.Parameter]:
        model = self.accelerator.unwrap_model(self.model)
        named = model.named_parameters(remove_duplicate=False)
        return {name: parameter for name, parameter in named if parameter.requires_grad}

    def _gathered(self) -> dict[str, Tensor]:
        if self.is_deepspeed_enabled:
            state = self.accelerator.get_state_dict(self.deepspeed)
            return {name: state[name] for name in self._trained()} if self.args.should_save else {}
        return {name: gathered(parameter) for name, parameter in self._trained().items()}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        stored = self.work.weights.read(Path(resume_from_checkpoint))
        with torch.no_grad():
            for name, parameter in self._trained().items():
                if name not in stored:
                    raise CheckpointError(
                        resume_from_checkpoint, "is missing", tensor=name, hint="resume from another checkpoint"
                    )
                parameter.copy_(placed_like(parameter, stored[name].to(parameter.dtype)))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = self.optimizer.state_dict()
        entries = {
            key: {name: gathered(value) if isinstance(value, Tensor) else value for name, value in one.items()}
            for key, one in state["state"].items()
        }
        if self.args.should_save:
            training_state.save_optimizer(Path(output_dir), {**state, "state": entries})
            training_state.save_schedule(Path(output_dir), self.lr_scheduler.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        state = training_state.load_optimizer(Path(checkpoint))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for key, entries in state["state"].items():
            parameter = parameters[int(key)]
            for name, value in entries.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    entries[name] = placed_like(parameter, value)
        self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(training_state.load_schedule(Path(checkpoint)))

    def _save_scaler(self, output_dir: str) -> None:
        if self.accelerator.scaler is not None and self.args.should_save:
            state = self.accelerator.scaler.state_dict()
            training_state.save_schedule(Path(output_dir), state, training_state.SCALER)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            state = training_state.load_schedule(Path(checkpoint), training_state.SCALER)
            self.accelerator.scaler.load_state_dict(state)

    def _save_rng_state(self, output_dir: str) -> None:
        training_state.save_random_states(Path(output_dir), self.args.process_index)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            training_state.restore_random_states(Path(checkpoint), self.args.process_index)

    def begin_step(self) -> None:
        """Called before the first batch of a step."""
        self._step_began, self._names = time.perf_counter(), []

    def end_step(self) -> None:
        """Called after its update."""
        self.seconds += time.perf_counter() - self._step_began


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Tells the trainer when its steps begin and end."""

    def __init__(self, trainer: QwartetTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.begin_step()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.trainer.end_step()


def num_tokens(inputs: Mapping[str, Any]) -> int:
    """Tokens of a batch that are computed."""
    mask = inputs.get("attention_mask")
    return int(inputs["input_ids"].numel() if mask is None else mask.sum())


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be spread over processes, all of which have to call this."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def placed_like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, spread over processes as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
