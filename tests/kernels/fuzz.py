"""Native kernels against their references at random shapes, on every instruction set of this processor.

    python -m tests.kernels.fuzz [--count 10000] [--seed 0]           (make fuzz-kernels)

A case is a pure function of its number: `--seed N --count 1` runs case N again. The first case that is off ends the
run, with all that it was made of.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from qwartet.kernels.backend import REFERENCE
from qwartet.kernels.cpu import library as native
from qwartet.kernels.cpu.backend import CpuBackend
from qwartet.kernels.cpu.gptq_ops import CpuGptqOps, product_
from qwartet.kernels.reference import elementwise as elementwise_reference
from tests.kernels.attention_case import CACHE_DTYPES, Case, is_same
from tests.kernels.attention_case import TOLERANCE as ATTENTION_TOLERANCE
from tests.kernels.random_weights import random_bf16, random_weight

COUNT = 10_000
SMALL = 1e-5  # of the output's norm: sums of fp32 in another order
BF16 = 4e-3  # one rounding
# Of |x| |W| / sqrt(K): where one value dwarfs its group, half a step of the group can exceed its share of the output.
# Rounding to 8 bits costs at most 3.2 / 127 / sqrt(12) = 0.73 % of it in the mean (crest 3.2); with one row of x and
# weights that are all of one sign the errors of all outputs are one random number: four times its mean.
LINEAR = {"exact": 2e-4, "int8": 3e-2}

Description = dict[str, Any]
Outcome = tuple[Description, float, float]  # what was tried, relative error, the most that it may be


def error(found: Tensor, expected: Tensor, size: float | None = None) -> float:
    """|found - expected| as a share of `size`, which is |expected| where none is given; 0 of 0 is 0."""
    size = float(expected.double().norm()) if size is None else size
    return float((found.double() - expected.double()).norm()) / (size or 1.0)


def quantized_linear(cpu: CpuBackend, rng: random.Random) -> Outcome:
    group_size = rng.choice((-1, 32, 64, 96, 128, 128, 128, 256))
    num_inputs = rng.randint(1, 80) * 8 if group_size == -1 else group_size * rng.randint(1, max(1, 640 // group_size))
    shape: Description = {
        "num_inputs": num_inputs,
        "num_outputs": 8 * rng.randint(1, 45),
        "bits": rng.choice((4, 8)),
        "group_size": group_size,
        "act_order": rng.random() < 0.3,
        "sym": rng.random() < 0.7,
        "bias": rng.random() < 0.5,
        "seed": rng.randrange(2**31),
    }
    num_rows = rng.choice((1, 1, 2, rng.randint(1, 40), rng.randint(500, 530)))
    activations, size = rng.choice(("exact", "int8")), 10.0 ** rng.randint(-3, 3)
    weight, x = random_weight(**shape), random_bf16(num_rows, num_inputs, seed=shape["seed"]) * size
    if rng.random() < 0.3:
        x[:, rng.randrange(num_inputs)] *= 100
    matrix = weight.dequantize().double()
    expected = x.double() @ matrix.t() + (0 if weight.bias is None else weight.bias.double())
    cpu = CpuBackend(cpu.library, activations)
    found = cpu.quantized_linear(x, cpu.prepare(weight), dtype=torch.float32)
    usual = float(x.double().norm() * matrix.norm()) / num_inputs**0.5
    description = {**shape, "rows": num_rows, "activations": activations, "size": size}
    return description, error(found, expected, usual), LINEAR[activations]


def dense_linear(cpu: CpuBackend, rng: random.Random) -> Outcome:
    K, N, M, seed = rng.randint(1, 400), rng.randint(1, 300), rng.randint(1, 40), rng.randrange(2**31)
    x, weight, bias = random_bf16(M, K, seed=seed), random_bf16(N, K, seed=seed + 1), random_bf16(N, seed=seed + 2)
    found = cpu.dense_linear(x, weight, bias, dtype=torch.float32)
    expected = x.double() @ weight.double().t() + bias.double()
    return {"M": M, "N": N, "K": K, "seed": seed}, error(found, expected), SMALL


def attention(cpu: CpuBackend, rng: random.Random) -> Outcome:
    num_kv_heads, head_dim = rng.randint(1, 4), 32 * rng.randint(1, 8)
    steps = [tuple(rng.choice((rng.randint(1, 40), rng.randint(1, 600))) for _ in range(rng.randint(1, 4)))]
    for _ in range(rng.randint(0, 3)):
        steps.append(tuple(length + rng.choice((1, 1, rng.randint(1, 100))) for length in steps[-1]))
    case = Case(
        num_heads=num_kv_heads * rng.choice((1, 1, 2, 4, rng.randint(3, 16))),
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rotary_dim=32 * rng.randint(1, head_dim // 32),
        lengths=steps[-1],
        dtype=rng.choice(tuple(CACHE_DTYPES.values())),
        has_norms=rng.random() < 0.4,
    )
    found, cache = case.attend(cpu, steps)
    expected, expected_cache = case.attend(REFERENCE, steps)
    # The norm of a head adds in another order, which can change a rounding.
    off = error(found, expected) if case.has_norms or is_same(cache, expected_cache) else float("inf")
    return {"case": case, "steps": steps}, off, ATTENTION_TOLERANCE


def head_argmax(cpu: CpuBackend, rng: random.Random) -> Outcome:
    V, C, R, seed = rng.randint(1, 3000), rng.randint(1, 400), rng.randint(1, 9), rng.randrange(2**31)
    weight, x = random_bf16(V, C, seed=seed), random_bf16(R, C, seed=seed + 1)
    num_valid = rng.randint(1, V)
    found = cpu.head_argmax(x, cpu.prepare_head(weight), weight, num_valid)
    expected = cpu.dense_linear(x, weight, dtype=torch.float32)[:, :num_valid].argmax(-1).tolist()
    return {"V": V, "C": C, "R": R, "num_valid": num_valid, "seed": seed}, float(found != expected), 0.0


def elementwise(cpu: CpuBackend, rng: random.Random) -> Outcome:
    rows, size, seed = rng.randint(1, 40), rng.randint(1, 700), rng.randrange(2**31)
    x, y = random_bf16(rows, size, seed=seed), random_bf16(rows, size, seed=seed + 1) * 10.0 ** rng.randint(-2, 2)
    weight = random_bf16(size, seed=seed + 2)
    product = error(cpu.silu_mul(x, y), elementwise_reference.silu_mul(x.double(), y.double()))
    ids = torch.randint(rows, (rng.randint(1, 50),), generator=torch.Generator().manual_seed(seed)).int()
    assert torch.equal(cpu.embed(ids, x), elementwise_reference.embed(ids, x))
    norm = error(cpu.rms_norm(x.float(), weight, 1e-6), elementwise_reference.rms_norm(x, weight.float(), 1e-6))
    return {"rows": rows, "size": size, "seed": seed}, max(product, norm), BF16


def float_product(cpu: CpuBackend, rng: random.Random) -> Outcome:
    """Strided factors, into the upper triangle or into a part of a larger matrix."""
    M, K, is_triangle = rng.randint(1, 300), rng.choice((rng.randint(1, 200), rng.randint(1, 1200))), rng.random() < 0.3
    N = M if is_triangle else rng.choice((rng.randint(1, 40), rng.randint(1, 600)))
    scale, decay, seed = rng.choice((1.0, -1.0, 0.3)), rng.choice((0.0, 1.0, 0.7)), rng.randrange(2**31)
    a, b, before = (random_bf16(*shape, seed=seed + i).float() for i, shape in enumerate(((M, K), (K, N), (M, N + 3))))
    a, b = (one.t().contiguous().t() if rng.random() < 0.5 else one for one in (a, b))
    found = before.clone()
    product_(cpu.library, found[:, :N], a, b, scale=scale, decay=decay, only_upper=is_triangle)
    expected = before.double()
    summed = decay * expected[:, :N] + scale * (a.double() @ b.double())
    expected[:, :N] = summed.triu() + expected[:, :N].tril(-1) if is_triangle else summed
    shape = {"M": M, "N": N, "K": K, "scale": scale, "decay": decay, "only_upper": is_triangle, "seed": seed}
    return {**shape, "strides": (a.stride(), b.stride())}, error(found, expected, float(K * M * N) ** 0.5), SMALL


def gptq_factor(cpu: CpuBackend, rng: random.Random) -> Outcome:
    """F with F^T F = H^-1: how far F^T F H is from the identity."""
    size, seed = rng.choice((rng.randint(1, 40), rng.randint(1, 500))), rng.randrange(2**31)
    x = random_bf16(2 * size + 8, size, seed=seed).float()
    hessian = x.t() @ x / len(x) + 0.1 * torch.eye(size)
    factor = hessian.clone()
    assert CpuGptqOps(cpu.library).inverse_factor_(factor)
    F = factor.triu().double()
    return {"size": size, "seed": seed}, error(F.t() @ F @ hessian.double(), torch.eye(size)), SMALL


OPERATIONS: dict[Callable[[CpuBackend, random.Random], Outcome], int] = {  # and how often each is drawn
    quantized_linear: 5,
    dense_linear: 2,
    attention: 2,
    head_argmax: 2,
    elementwise: 1,
    float_product: 2,
    gptq_factor: 1,
}


def run_case(number: int) -> str | None:
    """What was wrong with a case; None where it is right."""
    rng = random.Random(f"kernels {number}")
    isa = rng.choice(native.supported_isas())
    library = native.library_of(isa)
    operation = rng.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
    description, found, most = operation(CpuBackend(library), rng)
    if found <= most:  # NaN is not
        return None
    return f"case {number}: {operation.__name__} on {isa} is off by {found:.3g} of at most {most:.3g}\n{description}"


def main() -> int:
    """Command line: see the docstring of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    if native.native_library() is None:
        sys.exit(str(native.unavailable_reason()))
    for number in track(range(options.seed, options.seed + options.count), description="random shapes"):
        if wrong := run_case(number):
            print(wrong)
            return 1
    print(f"{options.count} random shapes agree with the references ({', '.join(native.supported_isas())})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
