"""Evaluates the stages of training and the quantised models side by side and writes docs/demo_model.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qwartet.models.families import load_config
from recipes.demo.evaluate import FLOORS, Result, llm_answer, run_prompts, run_tests

NUM_ITEMS = 200  # held-back questions of each kind

Measured = Mapping[str, tuple[list[Result], list[bool | None]]]
"""For each model its results by kind, and which of the hand-written prompts it answered as expected."""

_HEAD = """# The bundled model, measured

The bundled model is a first-generation Qwen chat model with {parameters:.1f} M parameters ({layers} layers, hidden size
{hidden}, {heads} heads of 128, context {context:,}). `make demo-model` (`recipes/demo/`) trains it from scratch on text
that the recipe generates, then quantises it with GPTQ (groups of 128, symmetric). It is a toy: it shows that the
machinery works.

Training has three stages: pretraining on texts without turns, chat tuning on conversations (supervised), and preference
optimisation (DPO) on pairs of answers, which leaves the bf16 model. The last columns are the models after the earlier
stages. [recipes/demo](../recipes/demo/README.md) has the details.

The table shows correct answers on held-back items: names, values and operand pairs that never occur in training (one in
five, by hash), {items} items of each kind, decoded greedily. `make demo-model` measures it.

"""


def evaluate_all(models: Mapping[str, Path]) -> Measured:
    """Runs the held-back items and the hand-written prompts through each model."""
    measured = {}
    for name, directory in models.items():
        answer, tokenizer = llm_answer(str(directory))
        results = [result for result, _ in run_tests(answer, tokenizer, NUM_ITEMS)]
        measured[name] = (results, [reply.right for reply in run_prompts(answer)])
        print(f"{name}: " + ", ".join(f"{result.kind} {result.share:.0%}" for result in results), flush=True)
    return measured


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def render(models: Mapping[str, Path], measured: Measured) -> str:
    """The document."""
    config = load_config(next(iter(models.values())))
    text = _HEAD.format(
        parameters=config.num_parameters / 1e6,
        layers=config.num_layers,
        hidden=config.hidden_size,
        heads=config.num_heads,
        context=config.position.max_length,
        items=NUM_ITEMS,
    )
    text += _row(["kind", "prompt tokens", *models, "target"]) + "|---" * (len(models) + 3) + "|\n"
    for results in zip(*(results for results, _ in measured.values()), strict=True):
        floor = FLOORS.get(results[0].kind)
        shares = [f"{result.share:.1%}" for result in results]
        cells = [results[0].kind, f"{results[0].mean_prompt_tokens:.0f}", *shares, f"{floor:.0%}" if floor else ""]
        text += _row(cells)
    text += "\nPrompts written by hand before training (`recipes/demo/prompts.jsonl`) that have an expected answer:\n\n"
    text += _row(["", *models]) + "|---" * (len(models) + 1) + "|\n"
    by_hand = []
    for _, rights in measured.values():
        scored = [right for right in rights if right is not None]
        by_hand.append(f"{sum(scored)} of {len(scored)}")
    text += _row(["as expected", *by_hand])
    sizes = (sum(file.stat().st_size for file in directory.glob("*.safetensors")) for directory in models.values())
    return text + _row(["weights, MB", *(f"{size / 1e6:.1f}" for size in sizes)])


def write_report(models: Mapping[str, Path], target: Path) -> None:
    """Evaluates the models and writes the document."""
    text = render(models, evaluate_all(models))
    target.write_text(text, encoding="utf-8")
