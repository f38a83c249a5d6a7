"""Tool use: whether the model calls the right tool with the right arguments, and leaves tools alone where none helps.

Data as published (exam_plugin_v20231206_react_positive.jsonl and _negative.jsonl: "prompt" and "response"); parsing and
metrics as in eval/evaluate_plugin.py of the Qwen repository. Prompts are ReAct texts, answered greedily with the
published repetition penalty.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qwartet.errors import DataError, SettingError
from qwartet.evaluate.data.files import find_file, json_rows, sha256_of_all
from qwartet.evaluate.figures import share
from qwartet.evaluate.question import Answer, Chat, Figure, Grade, Question, Record
from qwartet.evaluate.rouge import rouge_l
from qwartet.evaluate.statistics import mean_interval, wilson_interval
from qwartet.tokenizer.chatml import Message
from qwartet.tokenizer.tokenizer import Tokenizer

VERSIONS = ("v20231206", "v1")
REPETITION_PENALTY = 1.1  # of the published generation_config.json, which the script leaves as it is
CALL = "\nAction: "
ROUGE = "argument_rouge_l"


class ToolUse:
    """The positive questions, which need a tool, and the negative ones, which do not."""

    name = "tools"

    def __init__(self, directory: Path, tokenizer: Tokenizer | None) -> None:
        """Arguments are compared by the tokens of `tokenizer`, None before a model is loaded."""
        if find_spec("json5") is None:
            raise SettingError("tools reads arguments with json5; install it: pip install 'qwartet[evaluate]'")
        self._tokenizer = tokenizer
        self._paths = {
            group: find_file(directory, *(f"exam_plugin_{version}_react_{group}.jsonl" for version in VERSIONS))
            for group in ("positive", "negative")
        }

    @cached_property
    def settings(self) -> dict[str, Any]:
        return {"repetition_penalty": REPETITION_PENALTY, "sha256": sha256_of_all(self._paths.values())}

    def questions(self) -> Sequence[Question]:
        found: list[Question] = []
        for group, path in self._paths.items():
            for number, (line, row) in enumerate(json_rows(path, {"prompt": str, "response": str})):
                if group == "positive" and "Action:" not in row["response"]:
                    raise DataError(path, "the response calls no tool", line=line, hint="use the published file")
                asked = Chat((Message("user", row["prompt"]),), repetition_penalty=REPETITION_PENALTY)
                found.append(Question(f"tools/{group}/{number}", group, asked, row["response"]))
        return found

    def grade(self, question: Question, answer: Answer) -> Grade:
        called = CALL in answer.text
        action, arguments = parse_call(answer.text)
        if question.group == "negative":
            return Grade(action if called else None, float(not called), {"called": called})
        right_action, right_arguments = parse_call(question.reference)
        is_right = called and action.lower() == right_action.lower()
        rouge = rouge_l(self._words(arguments), self._words(right_arguments))
        return Grade(action if called else None, float(is_right), {"called": called, ROUGE: rouge})

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        positive = [record for record in records if record.group == "positive"]
        negative = [record for record in records if record.group == "negative"]
        figures = []
        if positive:
            rouges = [record.details.get(ROUGE, 0.0) for record in positive]
            low, high = mean_interval(rouges)
            mean = sum(rouges) / len(rouges)
            figures.append(share("tool selection", positive))
            figures.append(Figure("argument ROUGE-L", 100 * mean, len(rouges), 100 * low, 100 * high))
        if negative:
            count = sum(record.details.get("called", False) for record in negative)
            low, high = wilson_interval(count, len(negative))
            figures.append(Figure("false positives", 100 * count / len(negative), len(negative), 100 * low, 100 * high))
        return figures

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}

    def _words(self, text: str) -> list[str]:
        """The text's tokens as the published script splits them: those of blanks alone are none."""
        assert self._tokenizer is not None, "answers come once a model is loaded"
        tokens = (
            self._tokenizer.decode_bytes(token_id).decode(errors="replace") for token_id in self._tokenizer.encode(text)
        )
        return " ".join(tokens).split()


def parse_call(response: str) -> tuple[str, str]:
    """The tool's name and its arguments as JSON with sorted keys; "" where those are not valid.

    As published, a mark that is missing stands before the last character, and the first of each mark counts.
    """
    import json5

    response += "\n"
    action_at, input_at = response.find("Action:"), response.find("Action Input:")
    action = response[action_at + len("Action:") : input_at].strip()
    arguments = response[input_at + len("Action Input:") : response.find("Observation:")].strip()
    try:
        return action, json.dumps(json5.loads(arguments), ensure_ascii=False, sort_keys=True)
    except (ValueError, TypeError, RecursionError):
        return action, ""
