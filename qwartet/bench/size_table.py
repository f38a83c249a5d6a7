"""The README's table of sizes and its chart, from the figures of `bench/sizes.py`.

The same figures give the same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from qwartet.bench.bar_chart import Bar, BarGroup, bar_chart
from qwartet.bench.sizes import SIDES, tokens_per_s
from qwartet.models.shapes import SHAPES

Language = Literal["en", "zh"]
READMES: dict[str, Language] = {"README.md": "en", "README.zh.md": "zh"}
_BEGIN, _END = "<!-- sizes: made by `qwartet bench render` -->", "<!-- end of sizes -->"


@dataclass(frozen=True)
class _Words:
    head: str
    measured: str
    by_layers: str


_WORDS: dict[Language, _Words] = {
    "en": _Words(
        head="| Int4 checkpoint | memory, 4K context | decode: Qwartet | llama.cpp | prompt: Qwartet | llama.cpp |",
        measured=(
            "Tokens/s on {threads} cores of an {machine} ({isa}), no GPU, {date}: one request, a prompt of 512 tokens, "
            "medians of {rounds} rounds in turns. Random weights of the published shapes; llama.cpp (commit {peer}) "
            "with Q4_0 and its default Q6_K head."
        ),
        by_layers="{sizes}: calculated from runs with {depths} of {layers} layers; it does not fit in this machine.",
    ),
    "zh": _Words(
        head="| Int4 模型 | 内存（4K 上下文） | 生成：Qwartet | llama.cpp | 提示词处理：Qwartet | llama.cpp |",
        measured=(
            "单位为 token/s；{machine} 的 {threads} 个核心（{isa}），无 GPU，{date}；单个请求，提示词 512 个 token，"
            "双方轮流运行 {rounds} 轮，取中位数。权重为已发布形状的随机值；"
            "llama.cpp（提交 {peer}）使用 Q4_0 及其默认的 Q6_K 输出层。"
        ),
        by_layers="{sizes} 放不进这台机器的内存，由 {layers} 层中 {depths} 层的实测结果推算得出。",
    ),
}


def size_table(raw: dict[str, Any], language: Language = "en") -> str:
    """A Markdown table with a row for each size, and the sentences that say how it was measured."""
    words, machine = _WORDS[language], raw["machine"]
    runs = [size["runs"] for size in raw["sizes"].values()]
    measured = words.measured.format(
        threads=machine["threads"],
        machine=machine["name"],
        isa=_instructions(machine),
        date=raw["date"],
        rounds=len(runs[0][0]["ours"]),
        peer=raw["versions"]["llama.cpp"].rpartition("(")[2].rstrip(")"),  # the commit
    )
    partial = [
        words.by_layers.format(
            sizes=_label(name),
            depths=(" and " if language == "en" else " 层与 ").join(str(run["layers"]) for run in size["runs"]),
            layers=SHAPES[name].num_layers,
        )
        for name, size in raw["sizes"].items()
        if len(size["runs"]) > 1
    ]
    note = (" " if language == "en" else "").join([measured, *partial])
    return "\n".join([words.head, "|---|" + "---:|" * 5, *_rows(raw), "", note])


def _rows(raw: dict[str, Any]) -> Iterator[str]:
    for name, size in reversed(raw["sizes"].items()):
        speeds = [_figure(tokens_per_s(raw, name, side, phase)) for phase in ("decode", "prefill") for side in SIDES]
        speeds[0], speeds[2] = f"**{speeds[0]}**", f"**{speeds[2]}**"
        yield f"| {_label(name)} | {size['memory_bytes'] / 2**30:.1f} GiB | {' | '.join(speeds)} |"


def size_chart(raw: dict[str, Any]) -> str:
    """An SVG picture: decode and prompt of each size, as multiples of llama.cpp's speed."""
    groups = []
    for name in reversed(raw["sizes"]):
        bars = []
        for phase, label in (("decode", "decode"), ("prefill", "prompt")):
            ours, peer = (tokens_per_s(raw, name, side, phase) for side in SIDES)
            bars.append(Bar(label, ours / peer, f"{ours / peer:.1f}x  ({_figure(ours)} vs {_figure(peer)} tok/s)"))
        groups.append(BarGroup(_label(name), tuple(bars)))
    return bar_chart("Int4 on a CPU: speed as a multiple of llama.cpp's", groups, reference=1.0)


def replace_table(document: str, table: str) -> str:
    """A README with the table between its two marks replaced; ValueError without the marks."""
    parts = re.split(f"{re.escape(_BEGIN)}\n.*?{re.escape(_END)}", document, flags=re.DOTALL)
    if len(parts) != 2:
        raise ValueError(f"the document must hold {_BEGIN} and {_END} once")
    return f"{_BEGIN}\n{table}\n{_END}".join(parts)


def _label(name: str) -> str:
    return name.upper()


def _figure(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 100 else f"{speed:.1f}" if speed >= 10 else f"{speed:.2f}"


def _instructions(machine: dict[str, Any]) -> str:
    flags = machine["instruction_sets"]
    return next(
        (
            words
            for flag, words in (("avx512_vnni", "AVX-512 VNNI"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
            if flag in flags
        ),
        "no vector instructions of ours",
    )
