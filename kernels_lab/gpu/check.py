"""Are the kernels of int4_gemv.py correct, and do they compile?

    python -m kernels_lab.gpu.check                       on a GPU: the layer shapes of the 72B model
    TRITON_INTERPRET=1 python -m kernels_lab.gpu.check    without one: small shapes, in Triton's interpreter
    python -m kernels_lab.gpu.check --compile             for Hopper, with or without a GPU: registers, instructions

Every result is compared with QuantizedWeight.dequantize_rows and a product in float64, by |y - ref| / |ref|. The
output, the memory after it and the workspace hold NaN before the launch; a second launch must give the same bits.
Exit code: 0 all correct, 1 something is wrong, 2 no GPU.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels_lab.gpu.int4_gemv import (
    GROUP,
    VARIANTS,
    PreparedWeight,
    Variant,
    Workspace,
    file_fma_kernel,
    tiles_dot_kernel,
    tiles_fma_kernel,
)
from qwartet.quant_format.weight import QuantizedWeight

# Sums of up to 24,576 products in fp32, in one kernel with an offset of 256 that is subtracted again: up to 1e-5 is
# usual.
BOUND_FP32 = 1e-4
# bf16 has 8 bits: rounding moves a value by up to 2^-8 = 3.9e-3, about 1.7e-3 in the norm. Triton's interpreter
# truncates instead of rounding: twice that.
BOUND_BF16 = 4e-3
BOUND_BF16_INTERPRETER = 8e-3
GUARD = 64  # values after the output that must not change
TILE_ROWS = 1024  # outputs of the reference computed at a time


@dataclasses.dataclass(frozen=True)
class Shape:
    """A linear y = W x."""

    name: str
    in_features: int
    out_features: int
    has_bias: bool


SHAPES_72B = (
    Shape("qkv", 8192, 24576, True),
    Shape("output", 8192, 8192, False),
    Shape("up|gate", 8192, 49152, False),
    Shape("down", 24576, 8192, False),
)
SMALL_SHAPES = (
    Shape("one tile, mostly padding", 128, 8, False),
    Shape("second panel of 8", 256, 72, True),
    Shape("odd multiple of 8", 384, 136, True),
    Shape("five groups", 640, 200, False),
    Shape("one panel, ten groups", 1280, 64, True),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison."""

    shape: Shape
    num_rows: int  # M
    num_splits: int
    inputs: str  # "normal"; "shifted": mean 4, hard for sums with offsets; "outlier": one input 1000 times the others

    def __str__(self) -> str:
        sizes = f"K {self.shape.in_features:5}  N {self.shape.out_features:5}  M {self.num_rows:2}"
        return f"{sizes}  splits {self.num_splits}  {self.inputs:7}"


def cases(variant: Variant, on_gpu: bool) -> Iterator[Case]:
    """What a variant is checked on: every shape, with even and uneven splits, and every M that it takes."""
    for index, shape in enumerate(SHAPES_72B if on_gpu else SMALL_SHAPES):
        for num_splits in (1, 5, 16) if on_gpu else (1, 3):
            for num_rows in sorted({1, min(3, variant.max_rows), variant.max_rows}):
                inputs = ("normal", "shifted", "outlier")[(index + num_splits + num_rows) % 3]
                yield Case(shape, num_rows, num_splits, inputs)


def random_weight(shape: Shape, generator: torch.Generator) -> QuantizedWeight:
    """Uniform codes, scales between 0.001 and 0.011, and a bias of the size of the outputs."""
    K, N, device = shape.in_features, shape.out_features, generator.device
    codes = torch.randint(0, 16, (K, N), dtype=torch.uint8, generator=generator, device=device)
    scales = torch.rand(K // GROUP, N, generator=generator, device=device) * 0.01 + 0.001
    zeros = torch.full((K // GROUP, N), 8, dtype=torch.uint8, device=device)
    weight = QuantizedWeight.from_codes(codes, scales, zeros, bits=4, group_size=GROUP, sym=True)
    bias = torch.randn(N, generator=generator, device=device).half() if shape.has_bias else None
    return dataclasses.replace(weight, bias=bias)


def random_inputs(case: Case, generator: torch.Generator) -> Tensor:
    """x bf16 [M, K]."""
    x = torch.randn(case.num_rows, case.shape.in_features, generator=generator, device=generator.device)
    if case.inputs == "shifted":
        x += 4
    if case.inputs == "outlier":
        x[:, 7] *= 1000
    return x.bfloat16()


def reference(x: Tensor, weight: QuantizedWeight) -> Tensor:
    """y float64 [M, N], a tile of outputs at a time."""
    stops = range(0, weight.out_features, TILE_ROWS)
    tiles = [weight.dequantize_rows(at, min(at + TILE_ROWS, weight.out_features)) for at in stops]
    y = torch.cat([x.double() @ tile.double().T for tile in tiles], dim=1)
    return y if weight.bias is None else y + weight.bias.double()


def compare(
    variant: Variant, prepared: PreparedWeight, x: Tensor, expected: Tensor, num_splits: int, dtype: torch.dtype
) -> tuple[float, str]:
    """Launches twice into poisoned memory. Returns the relative error and what is wrong, "" if nothing is."""
    M, N = expected.shape
    memory = torch.full((M * N + GUARD,), float("nan"), dtype=dtype, device=x.device)
    out = memory[: M * N].view(M, N)
    workspace = Workspace.allocate(M, N, num_splits, x.device)
    workspace.partials.fill_(float("nan"))
    variant.run(x, prepared, workspace, out)
    first = out.clone()
    error = float((first.double() - expected).norm() / expected.norm())
    if not bool(first.isfinite().all()):
        return error, f"{int((~first.isfinite()).sum())} outputs are not finite or were not written"
    if not bool(memory[M * N :].isnan().all()):
        return error, "it wrote past the end of the output"
    if bool(workspace.counters.any()):
        return error, "a counter of the workspace was not reset to 0"
    if not torch.equal(variant.run(x, prepared, workspace, out), first):
        return error, "a second launch gave different bits"
    rounding = BOUND_BF16 if x.is_cuda else BOUND_BF16_INTERPRETER
    bound = BOUND_FP32 if dtype == torch.float32 else rounding
    return error, "" if error <= bound else f"the error is above {bound:g}"


def check_variant(name: str, generator: torch.Generator, on_gpu: bool) -> bool:
    """Prints a line per case; True if all are right."""
    variant = VARIANTS[name]
    is_right = True
    shape, weight, prepared = None, None, None
    for case in cases(variant, on_gpu):
        if weight is None or prepared is None or case.shape is not shape:
            shape = case.shape
            weight = random_weight(shape, generator)
            prepared = variant.prepare(weight)
        x = random_inputs(case, generator)
        expected = reference(x, weight)
        for dtype in (torch.float32, torch.bfloat16):
            error, fault = compare(variant, prepared, x, expected, case.num_splits, dtype)
            verdict = f"WRONG: {fault}" if fault else "right"
            print(f"{name:9}  {case}  {str(dtype)[6:]:8}  error {error:.1e}  {verdict}")
            is_right = is_right and not fault
    return is_right


def compile_kernels(capability: int) -> None:
    """Compiles every kernel for a compute capability and prints registers and instructions. Needs no GPU."""
    options = {"HAS_BIAS": True, "OPERAND": tl.bfloat16, "NUM_STAGES": 3}
    weights = 64 * GROUP // 128  # of a tile, per thread
    for kernel in (file_fma_kernel, tiles_fma_kernel, tiles_dot_kernel):
        pointers = {"x": "*bf16", "words": "*i32", "scales": "*fp16", "bias": "*fp16", "out": "*bf16"}
        pointers |= {"partials": "*fp32", "counters": "*i32"}
        if kernel is tiles_fma_kernel:
            pointers["x"] = "*i32"
        signature, constants, attributes = {}, {}, {}
        for index, name in enumerate(kernel.arg_names):
            signature[name] = "constexpr" if name in options else pointers.get(name, "i32")
            if name in options:
                constants[(index,)] = options[name]
            if name in pointers:
                attributes[(index,)] = [["tt.divisibility", 16]]
        source = ASTSource(kernel, signature, constants, attributes)
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": 4})
        usage, instructions = read_machine_code(compiled.asm["cubin"])
        print(f"{kernel.fn.__name__}: {usage}; {len(instructions)} instructions in the loop over groups,")
        print(f"    {len(instructions) / weights:.2f} per weight: {summary(instructions)}")


def read_machine_code(cubin: bytes) -> tuple[str, list[str]]:
    """Resource usage as the assembler reports it, and the opcodes of the longest loop."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [str(tool), "--dump-resource-usage", "--dump-sass", str(path)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.search(r"REG:\d+ STACK:\d+ SHARED:\d+ LOCAL:\d+", text)
    code = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)([^;]*);", text)
    loop: list[str] = []
    for address, opcode, operands in code:
        target = re.search(r"0x([0-9a-f]+)", operands) if opcode == "BRA" else None
        if target and int(target[1], 16) < int(address, 16):
            inside = [name for at, name, _ in code if int(target[1], 16) <= int(at, 16) <= int(address, 16)]
            loop = max(loop, inside, key=len)
    return usage[0] if usage else "no resource usage", loop


def summary(opcodes: list[str]) -> str:
    """The ten commonest, with their counts."""
    return ", ".join(f"{count} {name}" for name, count in collections.Counter(opcodes).most_common(10))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=list(VARIANTS), help="only this one (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights and inputs")
    parser.add_argument(
        "--compile", type=int, nargs="?", const=90, metavar="CAPABILITY", help="only compile; 90: Hopper"
    )
    options = parser.parse_args()
    if options.compile:
        compile_kernels(options.compile)
        return 0
    interprets = os.environ.get("TRITON_INTERPRET") == "1"
    if not interprets and not torch.cuda.is_available():
        print("no GPU; set TRITON_INTERPRET=1 to check in Triton's interpreter", file=sys.stderr)
        return 2
    generator = torch.Generator("cpu" if interprets else "cuda").manual_seed(options.seed)
    print(f"seed {options.seed}, {'interpreter' if interprets else torch.cuda.get_device_name()}")
    names = [options.variant] if options.variant else list(VARIANTS)
    verdicts = [check_variant(name, generator, not interprets) for name in names]
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
