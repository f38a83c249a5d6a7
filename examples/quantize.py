"""Quantise a float checkpoint to GPTQ Int4; `qwartet quantize SOURCE TARGET --calibration FILE` does the same.

Without arguments it quantises a tiny checkpoint with random weights, which takes seconds on any machine.
"""

import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from qwartet import LLM
from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.models.shapes import SHAPES
from qwartet.quant_format.config import GptqConfig
from qwartet.quantize.pipeline import quantize_checkpoint

with tempfile.TemporaryDirectory() as folder:
    if len(sys.argv) > 2:
        source, target = Path(sys.argv[1]), Path(sys.argv[2])
    else:
        source, target = Path(folder, "float"), Path(folder, "int4")
        shape = replace(
            SHAPES["1.8b"], hidden_size=256, num_layers=2, num_heads=2, intermediate_size=384, vocab_size=1024
        )
        write_synthesis(plan_synthesis(replace(shape, num_ranks=700), None), source)

    # For real use, tokenise text like what the model will see; about 200,000 tokens are recommended.
    calibration = [[random.Random(row).randrange(700) for _ in range(256)] for row in range(8)]
    events = quantize_checkpoint(
        source, target, GptqConfig(bits=4, group_size=128, desc_act=False, sym=True), calibration
    )
    print(f"{len(events)} linears quantised")
    before, after = (sum(file.stat().st_size for file in model.glob("*.safetensors")) for model in (source, target))
    print(f"{before / 2**20:.1f} MiB -> {after / 2**20:.1f} MiB")
    completion = LLM(target, device="cpu").generate([[1, 2, 3]])[0]
    print(f"the quantised model runs: {len(completion.token_ids)} tokens")
