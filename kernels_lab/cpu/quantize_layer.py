"""How long does quantising one decoder layer of the 1.8B shape take?

    python -m kernels_lab.cpu.quantize_layer              64 x 512 calibration tokens, Int4
    python -m kernels_lab.cpu.quantize_layer --torch      the same with the operations that a GPU uses, on the CPU

The layer has random weights of plausible size. Three figures: all of it with reading and writing, each linear with the
Hessian of its step, and the solver alone (factorisation, rounding, packing). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from qwartet.bench.synth import plan_synthesis, write_synthesis
from qwartet.kernels.gptq_ops import REFERENCE_OPS
from qwartet.models.shapes import SHAPES, gptq_config
from qwartet.quantize import block, pipeline

SHAPE = replace(SHAPES["1.8b"], num_layers=1, vocab_size=512, num_ranks=300)  # the vocabulary does not matter


def main() -> None:
    """Command line: see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=512, help="of an example")
    parser.add_argument("--torch", action="store_true", help="the operations that a GPU uses")
    arguments = parser.parse_args()
    if arguments.torch:
        pipeline.select_gptq_ops = lambda _device: REFERENCE_OPS
    solve, solving = block.solve, []

    def timed(*given: Any) -> Any:
        start = time.perf_counter()
        results = solve(*given)
        solving.append(time.perf_counter() - start)
        return results

    block.solve = timed
    config = gptq_config("int4")
    assert config is not None
    size, generator = (arguments.examples, arguments.tokens), torch.Generator().manual_seed(0)
    calibration = torch.randint(SHAPE.num_ranks, size, generator=generator).tolist()
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "float")
        write_synthesis(plan_synthesis(SHAPE, None), source)
        start = time.perf_counter()
        events = pipeline.quantize_checkpoint(source, Path(directory, "int4"), config, calibration)
        seconds = time.perf_counter() - start
    print(f"{arguments.examples} x {arguments.tokens} tokens, {torch.get_num_threads()} threads: {seconds:.1f} s")
    for event in events:
        print(f"  {event.linear:18} {event.seconds:6.1f} s   loss {event.loss:.4g}")
    print(f"  {'the solver alone':18} {sum(solving):6.1f} s")
    print(json.dumps({"seconds": seconds, "solver_seconds": sum(solving), "linears": [asdict(one) for one in events]}))


if __name__ == "__main__":
    main()
