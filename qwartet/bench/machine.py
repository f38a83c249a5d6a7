"""What `qwartet doctor` finds out: facts about this machine and installation, and the problems among them."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from qwartet import DEMO, __version__
from qwartet.errors import QwartetError

PACKAGES = ("torch", "safetensors", "tiktoken", "numpy", "huggingface-hub", "regex", "typer", "triton")

# The vector instructions that kernels for quantised weights are written in, under the names that Linux gives them.
INSTRUCTION_SETS = (
    *("avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)

# Variables that change how Qwartet, torch or the hub's library behave. Secrets are reported only as set.
VARIABLES = (
    *("QWARTET_DEBUG", "QWARTET_CPU_ISA", "QWARTET_CACHE", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT"),
    *("HF_TOKEN", "NO_COLOR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "HTTPS_PROXY"),
    *("https_proxy", "LD_PRELOAD", "MODELSCOPE_CACHE", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN"),
)
SECRET_VARIABLES = ("HF_TOKEN", "HTTPS_PROXY", "https_proxy", "MODELSCOPE_API_TOKEN")


@dataclass
class Report:
    """Facts as plain values, ready for JSON; sizes are in bytes."""

    python: str
    platform: str
    versions: dict[str, str]
    processor: dict[str, Any]
    memory: dict[str, int]  # "total", and "available" where torch can be imported
    environment: dict[str, str]
    gpus: list[dict[str, Any]] = field(default_factory=list)
    kernels: dict[str, dict[str, str]] = field(default_factory=dict)
    bundled_model: str = "not tried"
    problems: list[str] = field(default_factory=list)


def examine() -> Report:
    """Collects all facts; one that cannot be determined becomes a problem, never an exception."""
    report = Report(
        python=f"{platform.python_version()} ({sys.executable})",
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions={"qwartet": __version__, **{name: _version(name) or "not installed" for name in PACKAGES}},
        processor=processor(),
        memory={"total": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")},
        environment={
            name: "(set)" if name in SECRET_VARIABLES else os.environ[name] for name in VARIABLES if name in os.environ
        },
    )
    report.problems += _requirement_problems()
    report.problems += _environment_problems()
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of torch that does not load
        report.problems.append(f"torch cannot be imported ({error}); reinstall it")
        return report
    from qwartet.kernels.device_memory import available_bytes

    report.processor["torch_threads"] = torch.get_num_threads()
    report.memory["available"] = available_bytes(torch.device("cpu"))
    report.gpus = _gpus()
    if not report.gpus and shutil.which("nvidia-smi"):
        report.problems.append(
            f"there is an NVIDIA driver, but torch {torch.__version__} sees no GPU; install its CUDA build"
        )
    report.kernels = _kernels(bool(report.gpus))
    report.problems += missing_kernels()
    report.bundled_model, problems = _try_bundled_model()
    report.problems += problems
    return report


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _requirement_problems() -> list[str]:
    """Required packages that are missing or too old, by the installed package's own metadata."""
    from packaging.requirements import Requirement

    try:
        texts = metadata.requires("qwartet") or []
    except metadata.PackageNotFoundError:
        texts = []  # run from the source tree without being installed
    problems = []
    for requirement in map(Requirement, texts):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"{requirement.name} is {found or 'not installed'}; run: pip install '{requirement}'")
    return problems


def _environment_problems() -> list[str]:
    problems = []
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint and not endpoint.startswith(("https://", "http://")):
        problems.append(f"HF_ENDPOINT is {endpoint!r}; it must begin with https://")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    usable = len(os.sched_getaffinity(0))
    if threads.isdigit() and int(threads) > usable:
        problems.append(f"OMP_NUM_THREADS is {threads} on {usable} usable cores, which is slow; unset it")
    return problems


def processor() -> dict[str, Any]:
    """Name, vector instructions and cores of this machine's processor."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return {
        "name": fields.get("model name") or platform.processor() or platform.machine(),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in flags],
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "torch_threads": None,
    }


def _gpus() -> list[dict[str, Any]]:
    import torch

    return [
        {
            "device": f"cuda:{index}",
            "name": (properties := torch.cuda.get_device_properties(index)).name,
            "memory": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
        }
        for index in range(torch.cuda.device_count())
    ]


def _kernels(has_gpu: bool) -> dict[str, dict[str, str]]:
    """Device -> operation -> the kernel that computes in bf16, which "auto" chooses for every published file."""
    import torch

    from qwartet.kernels.select import select_backend

    devices = ["cpu", "cuda"] if has_gpu else ["cpu"]
    return {device: dict(select_backend(torch.device(device), torch.bfloat16).names) for device in devices}


def missing_kernels() -> list[str]:
    """Why the native CPU kernels are not used, unless the user disabled them."""
    from qwartet.kernels.cpu.library import ISA_VARIABLE, NO_LIBRARY, unavailable_reason

    reason = unavailable_reason()
    if reason is None or os.environ.get(ISA_VARIABLE) == NO_LIBRARY:
        return []
    return [f"the native CPU kernels are missing, so models run many times slower: {reason}"]


def _try_bundled_model() -> tuple[str, list[str]]:
    """Whether the bundled model exists and answers, and what to do if not."""
    if not (DEMO / "config.json").is_file():
        return "missing", [f"the bundled model is missing: {DEMO}; reinstall Qwartet"]
    from qwartet.llm import LLM

    started = time.perf_counter()
    try:
        LLM(DEMO, device="cpu").chat("你好", max_tokens=1)
    except QwartetError as error:
        return "does not load", [str(error)]
    return f"loads and answers ({time.perf_counter() - started:.1f} s, {DEMO})", []
