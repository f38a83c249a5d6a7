#!/usr/bin/env bash
# Checks the GPU kernels of kernels_lab/gpu at the layer shapes of the 72B model, then times them. Under 5 minutes.
#
# Needs a GPU and a python with torch (CUDA) and triton, named by PYTHON (python3); nothing is installed.
# The full result goes to the folder OUT (build/gpu of the repository); a table and one JSON line to stdout.
# Exit code: 0 done, 1 a kernel is wrong, 2 there is no GPU, or no torch or triton.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
python="${PYTHON:-python3}"
out="${OUT:-$root/build/gpu}"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
unset TRITON_INTERPRET

if ! "$python" -c 'import torch, triton' 2>/dev/null; then
    echo "bench/gpu/run.sh: $python has no torch or no triton; name one that has both with PYTHON=..." >&2
    exit 2
fi
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "bench/gpu/run.sh: no GPU that torch can use; kernels_lab/gpu/README.md says what can be checked without one" >&2
    exit 2
fi

mkdir -p "$out"
"$python" -m kernels_lab.gpu.check | tee "$out/check.txt"
# What the assembler made of the kernels helps to explain the times; it does not stop them.
"$python" -m kernels_lab.gpu.check --compile >"$out/machine_code.txt" || echo "no listing of the machine code" >&2
"$python" -m kernels_lab.gpu.bench --out "$out" | tee "$out/bench.txt"
