"""Makes the bundled model from scratch: vocabulary, training in three stages, Int8 and Int4 by GPTQ, evaluation.

    make demo-model                    everything; if interrupted, it resumes where it stopped
    python -m recipes.demo.make --steps 700 --out build/demo-small      a smaller one

Everything stays under --out; --install copies the Int4 model into the package and writes docs/demo_model.md.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

from qwartet import DEMO
from qwartet.quant_format.config import GptqConfig
from qwartet.quantize.pipeline import QuantizeEvent, quantize_checkpoint
from qwartet.tokenizer.tiktoken_tokenizer import TiktokenTokenizer
from recipes.demo import vocabulary
from recipes.demo.corpus import mixture
from recipes.demo.dataset import encode
from recipes.demo.report import write_report
from recipes.demo.train import CHAT, PRETRAINING, TrainSettings, train_all

STEPS = 9000
NUM_CALIBRATION = 512  # conversations
MAX_CALIBRATION_TOKENS = 512


def calibration_ids(tokenizer: TiktokenTokenizer, seed: int = 1) -> list[list[int]]:
    """Token ids of training conversations as they are at the end of the curriculum."""
    rng = random.Random(f"calibration {seed}")
    examples: list[list[int]] = []
    while len(examples) < NUM_CALIBRATION:
        example = encode(tokenizer, mixture.draw(rng, "train", 1.0), MAX_CALIBRATION_TOKENS)
        if example is not None:
            examples.append(example.ids.tolist())
    return examples


def quantize(source: Path, target: Path, bits: int, calibration: list[list[int]]) -> None:
    """Quantises with the published settings: groups of 128, symmetric, no act-order."""

    def show(event: QuantizeEvent) -> None:
        print(f"Int{bits} layer {event.layer} {event.linear}: loss {event.loss:.4g}", flush=True)

    config = GptqConfig(bits=bits, group_size=128, desc_act=False, sym=True)
    quantize_checkpoint(source, target, config, calibration, on_event=show)


def install(source: Path) -> None:
    """Replaces the bundled model with this one."""
    staged = DEMO.with_name("demo.new")
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(source, staged)
    shutil.rmtree(DEMO, ignore_errors=True)
    staged.rename(DEMO)


def make(out: Path, steps: int, seed: int, to_install: bool) -> None:
    """All steps; those whose result exists are skipped."""
    out.mkdir(parents=True, exist_ok=True)
    vocabulary_file = out / "qwen.tiktoken"
    if not vocabulary_file.exists():
        vocabulary.build(seed=seed).save(vocabulary_file)
    trained = train_all(TrainSettings(vocabulary_file, out, steps, seed))
    calibration = calibration_ids(TiktokenTokenizer.load(vocabulary_file))
    for bits in (8, 4):
        target = out / f"int{bits}"
        shutil.rmtree(target, ignore_errors=True)
        quantize(trained, target, bits, calibration)
    stages = {"after chat": out / CHAT, "after pretraining": out / PRETRAINING}
    write_report(
        {"bf16": trained, "Int8": out / "int8", "Int4": out / "int4", **stages},
        Path("docs/demo_model.md") if to_install else out / "report.md",
    )
    if to_install:
        install(out / "int4")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--install", action="store_true", help="copy the Int4 model into the package")
    arguments = parser.parse_args()
    make(arguments.out, arguments.steps, arguments.seed, arguments.install)


if __name__ == "__main__":
    main()
