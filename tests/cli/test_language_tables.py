"""What the verbs print in Chinese: nothing is left in English, and columns stay in line on a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwartet.cli.chat.commands import Commands
from qwartet.cli.chat.conversant import LocalModel
from qwartet.cli.chat.conversation import Conversation
from qwartet.cli.chat.dialogue import Dialogue
from qwartet.cli.evaluate.report import comparison_lines, figure_lines
from qwartet.cli.language.catalogue import label, listed, translate, use_language
from qwartet.cli.language.columns import right_aligned, width_of
from qwartet.evaluate.compare import RunComparison
from qwartet.evaluate.question import Figure
from qwartet.evaluate.run import TaskResult
from qwartet.evaluate.statistics import PairedDifference
from tests.bench.profile_stand_in import stand_in
from tests.cli.command_line import CommandLine
from tests.language_gaps import english_in, values

NAMES = values() | {"bfloat16", "int8", "logits", "Qwen", "chat", "desc_act", "false"}


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWARTET_LANG", "zh")


def shown(qwartet: CommandLine, *arguments: object) -> list[str]:
    outcome = qwartet(*arguments)
    assert outcome.code == 0, outcome
    return outcome.out.splitlines()


def starts_at(line: str, place: int) -> bool:
    """Whether something begins at a place of the terminal, after a space."""
    before = next(line[:size] for size in range(len(line) + 1) if width_of(line[:size]) >= place)
    return width_of(before) == place and before.endswith(" ") and line[len(before)] != " "


def test_the_facts_of_doctor_begin_in_one_column(qwartet: CommandLine) -> None:
    *facts, last = (line for line in shown(qwartet, "doctor") if not line.startswith("问题："))
    assert all(starts_at(line, 15) for line in facts) and "问题" in last
    assert [line.split()[0] for line in facts] == (
        ["qwartet", "python", "依赖包", "处理器", "内存", "GPU", "算子（cpu）", "内置模型", "环境变量"]
    )


@pytest.mark.parametrize(("verb", "column"), [("inspect", 16), ("show", 13)])
def test_the_facts_about_a_model_are_chinese_in_one_column(
    qwartet: CommandLine, chat_model: Path, verb: str, column: int
) -> None:
    path, *lines = shown(qwartet, verb, chat_model)
    facts = [line for line in lines if line.startswith("  ")]
    assert path == str(chat_model) and len(facts) >= 6
    assert all(starts_at(line, column) for line in facts)
    assert [line for line in lines if english_in(line.replace(str(chat_model), "/"), NAMES)] == []


def test_the_list_of_models_has_straight_columns(qwartet: CommandLine) -> None:
    headings, *models = shown(qwartet, "list")
    places = [width_of(headings[: headings.index(word)]) for word in headings.split()[1:]]
    assert headings.split() == ["名称", "模型", "大小", "修改时间", "提交", "状态"]
    assert models and all(starts_at(line, place) for line in models for place in places)


@pytest.mark.parametrize("options", [(), ("--gpu-memory", "24GiB", "--gpu-bandwidth", "800", "--gpus", "3")])
def test_a_plan_is_chinese_with_straight_tables(qwartet: CommandLine, options: tuple[str, ...]) -> None:
    lines = shown(qwartet, "plan", "72b", "--bandwidth", "30", *options)
    assert [line for line in lines if english_in(line, NAMES)] == []
    (caches,) = (number for number, line in enumerate(lines) if line.startswith("  KV 缓存 ") and "合计" in line)
    assert len({width_of(line) for line in lines[caches : caches + 4]}) == 1
    runs = next(number for number, line in enumerate(lines) if "此处估算" in line)
    assert len({width_of(line) for line in lines[runs:]}) == 1 and len(lines[runs:]) > 3
    (total,) = (number for number, line in enumerate(lines) if line.startswith("  合计"))
    assert len({width_of(line) for line in lines[total - 10 : total + 2]}) == 1


def test_settings_say_where_they_come_from(qwartet: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("chat: {system: 你好}\n", encoding="utf-8")
    _, *rows = shown(qwartet, "config", "--config", file, "chat", "--top-k", "5")
    (system, top_k, seed) = (next(row for row in rows if f"{name} " in row) for name in ("--system", "--top-k", "seed"))
    assert system.endswith(f"{file}：第 1 行：chat.system")
    assert top_k.endswith("  命令行") and seed.endswith("  默认")
    assert width_of(system[: system.index(str(file))]) == width_of(seed[: seed.index("默认")])


def test_a_conversation_is_in_chinese_but_for_what_its_user_wrote(
    chat_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from qwartet.llm import LLM

    use_language("zh")
    try:
        system = "show this help"  # which is a text of the catalogue
        conversation = Conversation(system, [("show the conversation", "show")])
        commands = Commands(Dialogue(LocalModel(LLM(chat_model)), conversation))
        for line in (
            "/help",
            "/system",
            "/history",
            "/set",
            "/stats",
            f"/save {tmp_path}/a",
            f"/load {tmp_path}/a",
            "/undo",
            "/clear",
            "/retry",
            "/undo",
            "/save",
            "/sett",
            "/exit now",
        ):
            commands.run(line)
    finally:
        use_language("en")
    out, err = capsys.readouterr()
    assert f"系统提示词：{system}\n" in out and "> show the conversation\nshow\n" in out
    assert "temperature：" in out and "seed：每次回答都不同（默认）" in out
    assert f"已保存：{tmp_path}/a\n" in out and "已载入：1 轮，含系统提示词\n" in out
    assert "/undo              撤销上一轮" in out
    assert err.splitlines() == [
        "（已撤销一轮，还剩 0 轮。）", "（没有可以重试的问题。）", "（没有可以撤销的内容。）",
        "错误：/save 需要文件名；请写作 /save FILE",
        "错误：未知命令 /sett；是否想输入 /set？（要把这一行作为消息发送，请在行首加一个空格）",
        "错误：/exit 不接受参数；要把这一行作为消息发送，请在行首加一个空格",
    ]  # fmt: skip


def test_parts_of_a_line_are_put_together_in_the_language_in_use() -> None:
    parts = ["1 turn", "a system prompt", "temperature 0.5"]
    assert listed(parts) == "1 turn, a system prompt, temperature 0.5"
    assert (label("total"), right_aligned(label("total"), 7)) == ("total", "  total")
    use_language("zh")
    try:
        assert listed(parts) == "1 轮，含系统提示词，temperature 0.5"
        assert (label("total"), right_aligned(label("total"), 7)) == ("合计", "   合计")
        assert translate("  no problems found ") == "  没有发现问题 "
    finally:
        use_language("en")


def test_figures_and_comparisons_of_runs_are_chinese_in_straight_columns() -> None:
    names = ("accuracy", "perplexity at 1,024", "Humanities")
    figures = [Figure(name, 50.0, 40, 30.0, 70.0) for name in names]
    figures.append(Figure("bits per byte at 1,024", 1.25, 4096, unit="bits"))
    one = PairedDifference(1346, 0.5, 0.75, -0.1, 0.6, 120, 456, 0.031)
    use_language("zh")
    try:
        first, *lines = figure_lines(TaskResult("mmlu", {}, figures, 1346, 2, "a.jsonl"))
        *_, headings, row, left_out = comparison_lines(RunComparison("a", "b", {"mmlu": one}, {"x": "only in a"}))
    finally:
        use_language("en")
    assert first == "mmlu：1,346 道题，2 道没有回答；a.jsonl"
    assert [line.split()[0] for line in lines] == ["准确率", "困惑度，长度", "Humanities", "每字节比特数，长度"]
    assert len({width_of(line[: line.index(".")]) for line in lines}) == 1
    assert lines[0].endswith("50.00 %（30.0 至 70.0），共 40") and lines[-1].endswith("1.25 比特，共 4,096")
    for heading, value in (("题数", "1,346"), ("仅 A 对", "120"), ("仅 B 对", "456")):
        ends = (width_of(line[: line.index(text) + len(text)]) for line, text in ((headings, heading), (row, value)))
        assert len(set(ends)) == 1, heading
    assert "-10.0 至 +60.0" in row and left_out == "x：未比较，仅 a 中有"


def test_a_profile_is_chinese_in_straight_columns(
    qwartet: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch)
    (tmp_path / "int4").mkdir()
    outcome = qwartet("profile", tmp_path / "int4", "--contexts", "1,6144,999999", "--attention", "reference")
    assert outcome.code == 0, outcome
    headings, *rows = outcome.out.split("\n\n")[0].splitlines()
    assert headings.startswith("精度") and "占上限" in headings and "超出上下文" in rows[-1]
    assert len(rows) == 3 and len({width_of(line) for line in (headings, *rows)}) == 1
    assert [line for line in outcome.out.splitlines() if english_in(line, NAMES | {"reference", "TTFT"})] == []
