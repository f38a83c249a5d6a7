"""A fine-tuning run: files checked, model loaded for the method, trained, saved, reported.

finetune    conversations or preferences, a method and an output directory, as `qwartet finetune`
train       any model and data on the same loop: recipes/demo trains the bundled model with it
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import TrainingArguments

from qwartet.errors import SettingError
from qwartet.files import sha256_of
from qwartet.finetune import models
from qwartet.finetune import output as outputs
from qwartet.finetune.batches import Batches, packed
from qwartet.finetune.conversations import read_conversations
from qwartet.finetune.dpo import PreferenceTrainer
from qwartet.finetune.examples import Collator, Examples, encode
from qwartet.finetune.preferences import PairCollator, Pairs, encode_pairs, read_preferences
from qwartet.finetune.reports import LOG, PLOT, OnProgress, Reporter, Summary, curve, peak_memory_bytes, plot, read_log
from qwartet.finetune.settings import Settings
from qwartet.finetune.sharding import check_method, requested_sharding
from qwartet.finetune.trainer import QwartetTrainer, Work
from qwartet.hub.resolve import resolve
from qwartet.models.vocabulary_files import load_tokenizer
from qwartet.tokenizer.tokenizer import Tokenizer

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}  # all of them rise first


@dataclass(frozen=True)
class Request:
    """What to train on what, and where to."""

    model: str
    data: Path
    output: Path
    settings: Settings
    eval_data: Path | None = None
    resume: bool = False
    overwrite: bool = False
    device: str = "auto"
    deepspeed: Path | None = None  # its configuration


def is_first_process() -> bool:
    """Whether this process writes the files: of several that a launcher started, the first."""
    return int(os.environ.get("RANK", "0")) == 0


def finetune(request: Request, on_progress: OnProgress | None = None) -> Summary:
    """Trains and leaves the model, or the adapter, in the output directory.

    Raises CheckpointError, DataError, ModelNotFoundError, NotFiniteError, OutOfMemoryError, SettingError.
    """
    settings, device = request.settings, resolved_device(request.device)
    is_dpo = settings.objective == "dpo"
    read: Callable[[Path], Sequence[Any]] = read_preferences if is_dpo else read_conversations
    samples = read(request.data)
    held_out = None if request.eval_data is None else read(request.eval_data)
    record = {
        "settings": settings.to_json() | {"dtype": str(models.compute_dtype(settings, device)).removeprefix("torch.")},
        "model": request.model,
        "data": sha256_of(request.data),
    }
    if is_first_process():
        outputs.check_output(request.output, resume=request.resume, overwrite=request.overwrite, record=record)
    sharding = requested_sharding(request.deepspeed)
    check_method(settings.method, sharding, trains_whole_modules=False)
    found = models.plan(resolve(request.model), settings, device)
    check_method(settings.method, sharding, trains_whole_modules=bool(found.whole_modules))
    tokenizer = load_tokenizer(found.directory)
    train_set = _encoded(samples, settings, tokenizer, request.data)
    eval_set = None if held_out is None else _encoded(held_out, settings, tokenizer, request.eval_data or request.data)
    batches = batches_of(train_set, settings)
    num_steps = steps_of(batches, settings)
    models.check_room(found, request.output, num_steps=num_steps, is_sharded=sharding is not None)
    claimed = outputs.claimed(request.output, overwrite=request.overwrite, record=record)
    with claimed if is_first_process() else nullcontext(), _quiet():
        transformers.set_seed(settings.seed)
        model, weights = models.load(found, request.model)
        work = Work(
            train_set=train_set,
            batches=batches,
            collate=PairCollator(tokenizer.eod_id) if is_dpo else Collator(tokenizer.eod_id),
            weights=weights,
            eval_set=eval_set,
            eval_batches=None if eval_set is None else batches_of(eval_set, settings, shuffles=False),
        )
        return train(
            model, work, settings, request.output, device=device, dtype=found.dtype, on_progress=on_progress,
            deepspeed=request.deepspeed,
            make_trainer=partial(PreferenceTrainer, beta=settings.dpo_beta) if is_dpo else QwartetTrainer,
        )  # fmt: skip


def _encoded(samples: Sequence[Any], settings: Settings, tokenizer: Tokenizer, file: Path) -> Examples | Pairs:
    if settings.objective == "dpo":
        return encode_pairs(samples, tokenizer, settings.model_max_length, file)
    return encode(samples, tokenizer, settings.model_max_length, file, settings.loss_on)


def batches_of(examples: Examples | Pairs, settings: Settings, *, shuffles: bool = True) -> Batches:
    """The batches of a set: of a number of samples, or of as many as fit tokens_per_batch."""
    if settings.tokens_per_batch is None:
        size = settings.per_device_train_batch_size
        return Batches(len(examples), size=size, seed=settings.seed, shuffles=shuffles)
    given = packed(examples.lengths, settings.tokens_per_batch, settings.seed)
    return Batches(given, seed=settings.seed, shuffles=shuffles)


def steps_of(batches: Batches, settings: Settings) -> int:
    """Steps of a run in one process."""
    in_epoch = -(-len(batches) // settings.gradient_accumulation_steps)
    return settings.max_steps if settings.max_steps > 0 else math.ceil(settings.num_train_epochs * in_epoch)


def train(
    model: nn.Module,
    work: Work,
    settings: Settings,
    output: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    on_progress: OnProgress | None = None,
    deepspeed: Path | None = None,
    make_trainer: Callable[..., QwartetTrainer] = QwartetTrainer,
) -> Summary:
    """Trains the parameters of a model that require a gradient, from the last checkpoint in `output` if there is one.

    The model's forward takes the collated batch by name and returns a loss. `dtype` is that of its matrix products.
    """
    if settings.gradient_checkpointing:
        _enable_checkpointing(model)
    reporter = Reporter(output, on_progress)
    trainer = make_trainer(model, arguments(settings, output, device, dtype, work, deepspeed), work, [reporter])
    reporter.trainer = trainer
    trainer.accelerator.wait_for_everyone()  # the first process may have removed what an earlier run left
    finished = outputs.checkpoints(output)
    trainer.resume(finished[-1] if finished else None)
    trainer.save_weights(output, is_result=True)
    entries = read_log(output / LOG)
    losses, eval_losses = curve(entries, "loss"), curve(entries, "eval_loss")
    if losses and trainer.args.should_save:
        plot(output / PLOT, losses, eval_losses)
    return Summary(
        output=str(output),
        steps=trainer.state.global_step,
        epochs=round(float(trainer.state.epoch or 0), 4),
        losses=losses,
        eval_losses=eval_losses,
        tokens=trainer.all_tokens,
        seconds=round(trainer.seconds, 3),
        tokens_per_second=round(trainer.tokens_per_second, 1),
        peak_memory_bytes=peak_memory_bytes(device),
        trained_parameters=sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad),
        files=sorted(path.name for path in output.iterdir() if not path.name.startswith(".")),
    )


def arguments(
    settings: Settings, output: Path, device: torch.device, dtype: torch.dtype, work: Work,
    deepspeed: Path | None = None,
) -> TrainingArguments:  # fmt: skip
    """The settings as transformers takes them."""
    evaluates = work.eval_set is not None
    found = TrainingArguments(
        output_dir=str(output), learning_rate=settings.learning_rate, num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps, per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps, weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1, adam_beta2=settings.adam_beta2, adam_epsilon=settings.adam_epsilon,
        max_grad_norm=settings.max_grad_norm, warmup_steps=settings.warmup_ratio,
        lr_scheduler_type=_SCHEDULES[settings.lr_scheduler_type], optim="adamw_torch",
        bf16=dtype == torch.bfloat16, fp16=dtype == torch.float16, use_cpu=device.type == "cpu",
        save_strategy="steps", save_steps=settings.save_steps, save_total_limit=settings.save_total_limit,
        logging_strategy="steps", logging_steps=settings.logging_steps, logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluates else "no", eval_steps=settings.eval_steps or settings.save_steps,
        report_to=["tensorboard"] if settings.tensorboard else [], disable_tqdm=True, remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=device.type == "cuda", seed=settings.seed, use_cache=True,
        deepspeed=None if deepspeed is None else str(deepspeed),
    )  # fmt: skip
    if found.n_gpu > 1:  # otherwise one process would split each batch over all GPUs
        found._n_gpu = 1
    return found


def _enable_checkpointing(model: Any) -> None:
    """Activations are computed again in the backward pass; later versions of transformers have renamed the method."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@contextmanager
def _quiet() -> Iterator[None]:
    """Leaves progress and messages to the caller."""
    logging = transformers.utils.logging
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # names that are new in transformers 5.2x
            yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def resolved_device(device: str) -> torch.device:
    """The device of a name; "auto" is a GPU where there is one."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingError(
            "--device is cuda, but torch finds no GPU; leave it out to use the CPU, or run qwartet doctor"
        )
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
