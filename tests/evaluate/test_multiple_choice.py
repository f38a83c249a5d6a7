"""C-Eval and MMLU: the letter that an answer chooses, the published prompts, and the averages."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from qwartet.errors import DataError
from qwartet.evaluate.extraction.choices import LETTERS, chinese_choice, english_choice
from qwartet.evaluate.question import Answer, Chat, Choose
from qwartet.evaluate.run import RunSettings, run_task
from qwartet.evaluate.tasks import ceval, mmlu
from qwartet.evaluate.tasks.ceval import SUBMISSION_FILE, Ceval
from qwartet.evaluate.tasks.mmlu import Mmlu
from tests.evaluate.fake import FakeAnswerer
from tests.evaluate.published_data import published

QUESTION = "关于传输层的面向连接服务的特性是____。"
OPTIONS = {
    "A": "既不保证可靠，也不保证按序交付",
    "B": "不保证可靠，但保证按序交付",
    "C": "保证可靠，但不保证按序交付",
    "D": "既保证可靠，也保证按序交付",
}
COLOURS = {"A": "red", "B": "blue", "C": "green paint", "D": "paint"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B。", "B"),
        ("（C）", "C"),
        ("答案是D。", "D"),
        ("正确答案为：A", "A"),
        ("应该选B选项。", "B"),
        ("选择 C，因为它可靠。", "C"),
        ("A选项正确。", "A"),
        ("我认为D符合题意", "D"),
        ("A选项不正确，B选项正确。", "B"),  # a negation does not count
        ("答案不是A，而是B。", "A"),  # the published cascade has no rule for this and takes the first lone letter
        ("A和B都有道理，答案是C。", "C"),  # two letters before the choice
        ("关于传输层的面向连接服务的特性是既保证可靠，也保证按序交付", "D"),  # in the options' words
        ("不保证可靠，但保证按序交付。", "B"),
        ("分析：先看C，再看D", "C"),  # the first lone letter
        ("ABC 公司", "C"),  # no lone letter before a Latin one; "C" ends a run of letters
        ("", "A"),
    ],
)
def test_the_choice_in_a_chinese_answer(answer: str, letter: str) -> None:
    assert chinese_choice(answer, QUESTION, OPTIONS) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("C.", "C"),
        ("The answer is D.", "D"),
        ("I would choose B because it is calm.", "B"),
        ("The correct choice is: A", "A"),
        ("C is correct.", "C"),
        ("A is not correct, B is right.", "B"),
        ("The answer isn't A. It is B.", "A"),  # the first lone letter: the published cascade does not read on
        ("It must be blue.", "B"),
        ("GREEN PAINT, of course", "C"),  # the longest option is replaced first
        ("The colour of the sky: bluish", "B"),  # "blue" does not occur; "B" comes from the word's own first letters
        ("Among A and C, the answer is C.", "C"),
    ],
)
def test_the_choice_in_an_english_answer(answer: str, letter: str) -> None:
    assert english_choice(answer, COLOURS) == letter


def test_an_answer_without_a_letter_chooses_the_nearest_option() -> None:
    assert english_choice("greenish paints", {"A": "a red wall", "B": "green paint", "C": "sky", "D": "sea"}) == "B"
    assert (
        chinese_choice("按顺序而可靠地交付", "问？", {"A": "天空", "B": "大海", "C": "可靠地按序交付", "D": "红色"})
        == "C"
    )


def write_subjects(folder: Path, split: str, subjects, rows, header: list[str] | None) -> None:
    (folder / split).mkdir(parents=True, exist_ok=True)
    for subject in subjects:
        with (folder / split / f"{subject}_{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            if header:
                writer.writerow(header)
            writer.writerows(rows(subject))


@pytest.fixture
def ceval_data(tmp_path: Path) -> Path:
    """Two questions of each subject; in "law" there are four."""
    folder = tmp_path / "ceval"

    def rows(subject: str):
        return [
            (n, f"{subject} 第{n}题____。", "甲", "乙", "丙", "丁", "B") for n in range(4 if subject == "law" else 2)
        ]

    header = ["id", "question", *LETTERS, "answer"]
    write_subjects(folder, "val", ceval.SUBJECTS, rows, header)
    write_subjects(
        folder, "dev", ceval.SUBJECTS, lambda s: [(*row, "解析") for row in rows(s)], [*header, "explanation"]
    )
    write_subjects(folder, "test", ceval.SUBJECTS, lambda s: [row[:-1] for row in rows(s)], header[:-1])
    return folder


def test_there_are_52_and_57_subjects() -> None:
    assert (len(ceval.SUBJECTS), len(set(ceval.SUBJECTS))) == (52, 52)
    assert (len(mmlu.SUBJECTS), len(set(mmlu.SUBJECTS))) == (57, 57)
    mapping = json.loads((published("ceval") / "subject_mapping.json").read_text(encoding="utf-8"))
    assert {name: category for name, (_, _, category) in mapping.items()} == {
        subject: category
        for category, subjects in ceval.CATEGORIES.items()
        if category != "Hard"
        for subject in subjects
    }


def test_cevals_prompts_are_the_published_ones(ceval_data: Path) -> None:
    chat = Ceval(ceval_data, 0).questions()[0].request
    assert isinstance(chat, Chat)
    assert chat.messages[0].content == "computer_network 第0题____。\n\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n"
    base = Ceval(ceval_data, 1).questions()[1].request
    assert isinstance(base, Choose)
    assert base.choices == ("A", "B", "C", "D")
    assert base.prompt == (
        "问题：computer_network 第0题____。\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n答案：B\n\n"
        "问题：computer_network 第1题____。\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n答案："
    )


def test_ceval_averages_over_subjects(ceval_data: Path, tmp_path: Path) -> None:
    """Law has four questions, all wrong; it weighs as much as a subject with two."""
    answerer = FakeAnswerer(lambda question: "A" if question.group == "law" else "答案是B")
    figures = run_task(Ceval(ceval_data, 0), answerer, RunSettings(tmp_path / "out")).figures
    values = {figure.name: figure.value for figure in figures}
    assert values["accuracy"] == pytest.approx(100 * 51 / 52)
    assert values["Humanities"] == pytest.approx(100 * 10 / 11)
    assert (values["STEM"], values["Hard"]) == (100.0, 100.0)


def test_a_base_run_takes_the_most_probable_letter(ceval_data: Path, tmp_path: Path) -> None:
    probable_b = Answer(logprobs=(-3.0, -1.0, -2.0, -9.0), num_tokens=(1, 1, 1, 1))
    result = run_task(Ceval(ceval_data, 2), FakeAnswerer(lambda _: probable_b), RunSettings(tmp_path / "out"))
    assert result.figures[0].value == 100.0


def test_the_test_split_becomes_a_submission(ceval_data: Path, tmp_path: Path) -> None:
    answerer = FakeAnswerer(lambda question: LETTERS[int(question.id[-1])])
    run_task(Ceval(ceval_data, 0, "test"), answerer, RunSettings(tmp_path / "out"))
    submission = json.loads((tmp_path / "out" / SUBMISSION_FILE).read_text())
    example = json.loads((published("ceval") / "submission_example.json").read_text())
    assert set(submission) == set(ceval.SUBJECTS) >= set(example)
    assert submission["law"] == {"0": "A", "1": "B", "2": "C", "3": "D"}


def test_mmlus_prompts_are_the_published_ones() -> None:
    directory = published("mmlu")
    chat = Mmlu(directory, 0).questions()
    assert len(chat) == 14_042
    first = chat[0].request
    assert isinstance(first, Chat)
    assert first.messages[0].content.startswith(
        "The following is a multiple-choice question. Please choose the most suitable one among A, B, C and D as the "
        "answer to this question.\n\nFind the degree for the given field extension"
    )
    assert first.messages[0].content.endswith("\nA. 0\nB. 4\nC. 2\nD. 6\n")
    base = Mmlu(directory, 5).questions()[0].request
    assert isinstance(base, Choose)
    assert base.choices == (" A", " B", " C", " D")
    assert base.prompt.startswith(
        "The following are multiple choice questions (with answers) about abstract algebra.\n\nQ"
    )
    assert base.prompt.count("\nAnswer: ") == 5 and base.prompt.endswith("\nAnswer:")


def test_reference_answers_of_mmlu_score_100(tmp_path: Path) -> None:
    def reply(question):
        letter = question.reference["answer"]
        return f"The answer is {letter}." if len(question.id) % 2 else question.reference["options"][letter]

    result = run_task(Mmlu(published("mmlu"), 0), FakeAnswerer(reply), RunSettings(tmp_path, limit=2000))
    named = {figure.name: figure for figure in result.figures}
    assert named["accuracy"].value > 97  # an option may be part of another one's text, or a lone letter
    assert sum(named[name].count for name in mmlu.CATEGORIES) == named["accuracy"].count == 2000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("id,question,A,B,C,D\n0,q,a,b,c,d\n", "line 1: the column 'answer' is missing"),
        ("id,question,A,B,C,D,answer\n0,q,a,b,c,d,E\n", "line 2: the answer is 'E'"),
        ("id,question,A,B,C,D,answer\n0,q,a,b,c,d,\n", "line 2: the answer is ''"),
        ("id,question,A,B,C,D,answer\n0,q,a,b,c\n", "line 2: 5 columns instead of 7"),
        ("id,question,A,B,C,D,answer\n0, ,a,b,c,d,A\n", "line 2: the question is empty"),
        ('id,question,A,B,C,D,answer\n0,"q,a,b,c,d,A\n', "not valid CSV"),
    ],
)
def test_a_broken_row_is_named_with_file_and_line(ceval_data: Path, content: str, reason: str) -> None:
    (ceval_data / "val" / "law_val.csv").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=f"law_val.csv.*{reason}"):
        Ceval(ceval_data, 0).questions()


def test_missing_files_and_too_many_shots_are_told(ceval_data: Path) -> None:
    with pytest.raises(DataError, match="2 examples, but --shots is 5"):
        Ceval(ceval_data, 5).questions()
    (ceval_data / "val" / "law_val.csv").unlink()
    with pytest.raises(DataError, match=r"law_val.csv missing"):
        Ceval(ceval_data, 0)
    with pytest.raises(DataError, match="no folder val/"):
        Ceval(ceval_data / "dev", 0)
