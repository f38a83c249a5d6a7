"""The rows of a profile as the card's table: cells of text, and a Markdown document around them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qwartet.bench.profile.row import Row
from qwartet.planning.published_figures import PublishedRun

Language = Literal["en", "zh"]
PRECISIONS = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "Int8", "int4": "Int4"}
_NUM_NAMES = 5  # columns of text before those of numbers
NONE = "-"


@dataclass(frozen=True)
class Words:
    """The texts of a table in one language."""

    headings: tuple[str, ...]
    status: dict[str, str]
    needed: str
    device: str  # of a CPU
    gpus: str  # a last "s" is left out for one
    title: str
    protocol: str
    notes: tuple[str, ...]
    note_published: str
    roofline: str
    again: str


WORDS: dict[Language, Words] = {
    "en": Words(
        headings=(
            "Model", "Quantization", "Setting", "Device", "KV cache", "Context Length", "Generation Length",
            "Speed (Tokens/s)", "Published (A100-80G)", "TTFT (s)", "TPOT (ms)", "Decode (Tokens/s)",
            "Of bandwidth limit", "Peak Memory", "Forecast by plan",
        ),
        status={
            "out of memory": "OOM", "does not fit": "does not fit", "too long": "too long", "failed": "failed",
            "waiting": "not measured",
        },
        needed="{size} needed",
        device="CPU, {number} threads",
        gpus="{number} GPUs",
        title="Speed and memory",
        protocol=(
            "Measured on {machine} with Qwartet {version}. As in the published script: a prompt of as many times 我 as "
            "the context is long, one request, exactly the generation length generated (greedy)."
        ),
        notes=(
            "Speed: generated tokens over the whole time, prefill included, as on the published card. TTFT: time to "
            "the first token. TPOT: time of each further token. Decode: tokens per second after the first token.",
            "Of bandwidth limit: decoding speed as a share of what the memory allows, given the bytes that each token "
            "reads and the read speed measured just before the row.",
            "Peak Memory: resident memory of the row's own process. Forecast by plan: the upper bound that "
            "`qwartet plan` gives; rows of the embedding that no token needs are never read into memory.",
        ),
        note_published=(
            "Published: the model card of Qwen-72B-Chat-Int4 and the README of the Qwen repository, 2,048 generated "
            "tokens; their memory is that of the GPUs."
        ),
        roofline="Arithmetic rate of each row against what this machine allows",
        again="To measure it again:",
    ),
    "zh": Words(
        headings=(
            "模型", "量化", "设置", "设备", "KV 缓存", "上下文长度", "生成长度", "速度（token/s）",
            "官方数据（A100-80G）", "首 token 延迟（s）", "每 token 耗时（ms）", "解码（token/s）", "占带宽上限",
            "峰值内存", "plan 预测",
        ),
        status={
            "out of memory": "OOM", "does not fit": "内存不足，未运行", "too long": "超出模型上下文", "failed": "失败",
            "waiting": "未测量",
        },
        needed="需要 {size}",
        device="CPU，{number} 线程",
        gpus="{number} 张 GPU",
        title="推理速度与内存占用",
        protocol=(
            "在 {machine} 上用 Qwartet {version} 测得。与官方脚本相同：提示词为重复的“我”，长度等于上下文长度；"
            "单个请求；恰好生成指定长度（贪心解码）。"
        ),
        notes=(
            "速度：生成的 token 数除以总时间（含预填充），与官方模型卡相同。首 token 延迟：到第一个 token 的时间。"
            "每 token 耗时：此后每个 token 的时间。解码：第一个 token 之后每秒的 token 数。",
            "占带宽上限：解码速度占内存带宽所允许速度的比例，"
            "按每个 token 读取的字节数与该行测量前测得的读取速度计算。",
            "峰值内存：该行独立进程的常驻内存峰值。plan 预测：`qwartet plan` 给出的上限；"
            "没有用到的嵌入行不会读入内存。",
        ),
        note_published=(
            "官方数据：Qwen-72B-Chat-Int4 的模型卡与 Qwen 仓库的 README，生成 2,048 个 token；其内存为 GPU 显存。"
        ),
        roofline="各行的运算速度与本机上限",
        again="重新测量：",
    ),
}  # fmt: skip


def cells(row: Row, language: Language = "en") -> list[str]:
    """The texts of a row, in the order of the headings."""
    words = WORDS[language]
    return [
        row.model,
        PRECISIONS.get(row.precision, row.precision),
        row.attention,
        device(row, words),
        row.kv_cache_dtype,
        str(row.context),
        str(row.generate),
        words.status.get(row.status) or _number(row.tokens_per_s, 2),
        "; ".join(published(run, words) for run in row.published) or NONE,
        _number(None if row.measured is None else row.measured.first_token_s, 3),
        _number(None if row.token_s is None else 1000 * row.token_s, 1),
        _number(row.decode_tokens_per_s, 2),
        NONE if row.bandwidth_share is None else f"{row.bandwidth_share:.0%}",
        _memory(row, words),
        _gib(row.forecast_bytes),
    ]


def _memory(row: Row, words: Words) -> str:
    """The peak; of a row without one, what it needs, or why it ended."""
    if row.measured is not None:
        return _gib(row.measured.peak_bytes)
    if row.status == "does not fit" and row.forecast is not None:
        return words.needed.format(size=_gib(row.forecast.total_bytes))
    return {"out of memory": words.status["out of memory"], "failed": row.reason}.get(row.status) or NONE


def device(row: Row, words: Words) -> str:
    """What computed a row."""
    return row.device.upper() if row.measured is None else _counted(words.device, row.measured.threads)


def _counted(text: str, number: int) -> str:
    return text.format(number=number).removesuffix("s" if number == 1 else "")


def published(run: PublishedRun, words: Words) -> str:
    """One published run: speed, and how it was reached."""
    memory = "" if run.memory_gib is None else f", {run.memory_gib:.2f} GiB"
    return f"{run.tokens_per_s:.2f} ({run.setting}, {_counted(words.gpus, run.num_gpus)}{memory})"


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _gib(size: int | None) -> str:
    return NONE if size is None else f"{size / 2**30:.2f} GiB"


def markdown_table(rows: Sequence[Row], language: Language = "en") -> str:
    """The table alone; columns in which no row has anything are left out."""
    headings, lines = WORDS[language].headings, [cells(row, language) for row in rows]
    kept = [index for index in range(len(headings)) if any(line[index] != NONE for line in lines)]
    aligned = ["---" if index < _NUM_NAMES else "---:" for index in kept]
    return "\n".join(
        _line(texts) for texts in ([headings[i] for i in kept], aligned, *([line[i] for i in kept] for line in lines))
    )


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|').replace(chr(10), ' ') for text in texts)} |"


def markdown(facts: dict[str, Any], rows: Sequence[Row], *, picture: str | None, language: Language = "en") -> str:
    """profile.md: how it was measured, the table, what its columns mean, and the picture where there is one."""
    words = WORDS[language]
    return "\n".join(_document(facts, rows, picture, language, words)) + "\n"


def _document(
    facts: dict[str, Any], rows: Sequence[Row], picture: str | None, language: Language, words: Words
) -> Iterator[str]:
    yield f"# {words.title}\n"
    yield words.protocol.format(machine=facts["processor"], version=facts["version"]) + "\n"
    yield markdown_table(rows, language) + "\n"
    notes = (*words.notes, words.note_published) if any(row.published for row in rows) else words.notes
    yield from (f"- {note}" for note in notes)
    yield f"\n{words.again}\n"
    yield from (f"    {command}" for command in commands(facts, rows))
    if picture is not None:
        yield f"\n![{words.roofline}]({picture})"


def commands(facts: dict[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """Command lines that measure such rows, one for each number of generated tokens."""
    options = [f"--{name} {facts[name]}" for name in ("threads", "activations") if facts[name] is not None]
    options += [f"--head {facts['head']}"] if facts["head"] != "auto" else []
    for generate in dict.fromkeys(row.generate for row in rows):
        mine = [row for row in rows if row.generate == generate]
        several: dict[str, list[Any]] = {
            "contexts": sorted({row.context for row in mine}),
            "kv-cache-dtype": list(dict.fromkeys(row.asked_kv_cache_dtype for row in mine)),
            "attention": list(dict.fromkeys(row.attention for row in mine)),
        }
        lists = [f"--{name} {','.join(map(str, values))}" for name, values in several.items()]
        models = [shlex.quote(name) for name in dict.fromkeys(row.model for row in mine)]
        yield " ".join(["qwartet profile", *models, *lists, f"--generate {generate}", *options])
