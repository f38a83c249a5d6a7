"""What L-Eval's closed-ended tasks read out of an answer, and when it is right.

The steps and regular expressions are the protocol: those of Evaluation/auto_eval.py and em.py of OpenLMLab/LEval.
"""

from __future__ import annotations

import re
import string

_LETTERS = "ABCD"
_OPTION = re.compile(r"\s*[A-Z](?=[\s.)])")
_ANSWER = re.compile(r"The answer is (\S+)")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_FILLING_WORDS = ("will be", "of the code", "is", "would be", "the value of", "the result of", "printed")
_ARRAY_SPELLINGS = ((",", ""), ("'", ""), ("\\", ""), (".0", ""), ("] [", "]["), ("[ [", "[["), ("] ]", "]]"))


def chosen_letters(answer: str, *, several: bool) -> str:
    """The letters of a multiple-choice answer: the first, or all in their order where several may be right.

    An answer without any counts as "A", as published; one without text as "None".
    """
    if not answer.strip():
        return "None"
    if answer in _LETTERS:
        return answer
    if not several and (first := re.search(f"[{_LETTERS}]", answer)):
        return first[0]
    rest = answer.lstrip(_LETTERS)
    head = answer[: len(answer) - len(rest)]
    if len(head) > 1:
        return "".join(sorted(set(head)))
    rest = rest.partition("Question")[0]
    listed = set(head + "".join(_OPTION.findall(rest))) & set(_LETTERS)
    if listed:
        return "".join(sorted(listed))
    run = re.search(f"[{_LETTERS}]+", rest)
    return run[0] if run else "A"


def reference_letters(output: str) -> str:
    """The letters of a reference's first word; "A" where it has none, as published."""
    first = output.split()[0] if output.split() else ""
    return "".join(char for char in first if char in _LETTERS) or "A"


def whole_number(answer: str) -> str:
    """The digits before the point of the number after "The answer is", else of the first paragraph's last number."""
    if match := _ANSWER.search(answer):
        word = match[1]
    else:
        words = answer.split("\n\n")[0].split(" ")
        word = next((word for word in reversed(words) if any(char.isdigit() for char in word)), "")
    return "".join(char for char in word.partition(".")[0] if char.isdigit())


def plain_output(text: str) -> str:
    """What a program prints, arrays without commas and quotes."""
    text = re.sub(r"\s+", " ", text)
    for spelled, plain in _ARRAY_SPELLINGS:
        text = text.replace(spelled, plain)
    return text


def program_output(answer: str, reference: str) -> str:
    """The words of an answer among which a program's output is looked for: as many as the output has, and three."""
    num_words = len(reference.split()) + 3
    answer = plain_output(answer)
    for words in _FILLING_WORDS:
        answer = answer.replace(words, "")
    if "the final output" in answer:
        return " ".join(re.split(r"\s+", answer.rpartition("the final output")[2])[:num_words])
    return " ".join(re.split(r"\s+", answer)[-num_words:])


def verdict(answer: str) -> str:
    """The first "true" or "false" of an answer; "<error>" without one."""
    for word in answer.lower().partition("[fact:")[0].split():
        if "true" in word:
            return "true"
        if "false" in word:
            return "false"
    return "<error>"


def exam_score(found: str, reference: str) -> float:
    """1 for a right answer, a quarter for some of the right letters and no wrong one, else 0."""
    letters, right = _normalised(found), _normalised(reference)
    if set(right) <= set(_LETTERS):
        return 1.0 if letters == right else 0.25 if set(letters) <= set(right) else 0.0
    try:
        return float(float(found) == float(reference))
    except ValueError:
        line = next((line for line in found.split("\n") if len(line) > 1), found)
        return float(reference.lower().replace(" ", "") in line.lower().replace(" ", ""))


def _normalised(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text.translate(_WITHOUT_PUNCTUATION)).split())
