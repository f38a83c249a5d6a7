"""L-Eval's closed-ended tasks: questions about long documents, data files as published (coursera.jsonl and others).

Prompts are those of Baselines/turbo16k-test.py and LEval_config.py of OpenLMLab/LEval, which ask chat models; documents
are cut to the model's context by tokens. A story of sci_fi is asked about twice: what holds in it, and in the world.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from qwartet.errors import DataError, SettingError
from qwartet.evaluate.answerer import Answerer
from qwartet.evaluate.data.files import find_file, json_rows, sha256_of_all
from qwartet.evaluate.extraction.exams import (
    chosen_letters,
    exam_score,
    plain_output,
    program_output,
    reference_letters,
    verdict,
    whole_number,
)
from qwartet.evaluate.figures import by_group, group_average, share
from qwartet.evaluate.question import Answer, Chat, Figure, Grade, Question, Record
from qwartet.tokenizer.chatml import Message, build_prompt
from qwartet.tokenizer.tokenizer import Tokenizer

TASKS = ("coursera", "gsm100", "quality", "tpo", "codeU", "sci_fi")
MAX_NEW_TOKENS = 512
SPARE_TOKENS = 8  # for tokens that differ where texts meet
METRICS = ("exam", "f1", "rouge")  # rows of another are left out, as published
FIELDS: dict[str, type | tuple[type, ...]] = {"input": str, "instructions": list, "outputs": list, "evaluation": str}

# The words of Baselines/LEval_config.py, mistakes included: a model sees them.
_ONE_LETTER = (
    "Now you are given a very long document. Please follow the instruction based on this document. For multi-choice "
    "questions, there is only a sinlge correct option. Please only provide the letter corresponding to the answer "
    "(like A or B) when answering. For other questions, please directly give the concise and accurate answer. "
)
_SYSTEM = {
    "gsm100": (
        "Given several question answer pairs, you need to follow a similar format to answer the last question. Make "
        "sure the response is end with The answer is _ . "
    ),
    "coursera": (
        "Now you are given a very long document. Please follow the instruction based on this document. For "
        "multi-choice questions, there could be a sinlge correct option or multiple correct options. Please only "
        "provide the letter corresponding to the answer (like A or AB) when answering. "
    ),
    "codeU": (
        "Now you are given a code base consisting of a large amount of functions and the corresponding comments. In "
        "the end, I will call some functions defined in the code base. Please carefully read these codes and comments "
        "and answer the question."
    ),
    "sci_fi": (
        'Now you are given a scientific fiction. I will ask you some questions and the answer should be "True" or '
        '"False". Notice that you should answer the question based on the evidence in the document instead of your '
        "background knowledge."
    ),
    "quality": _ONE_LETTER,
    "tpo": _ONE_LETTER,
}
_IN_DOCUMENT = "based on the world described in the document."
_IN_WORLD = "based on the real-world knowledge and facts up until your last training"


class LEval:
    """Those of the six tasks whose files are there."""

    name = "leval"

    def __init__(self, directory: Path, tokenizer: Tokenizer | None, max_model_len: int | None) -> None:
        """Documents are cut only where both `tokenizer` and `max_model_len` are known. DataError without any file."""
        self._paths = {}
        for task in TASKS:
            try:
                self._paths[task] = find_file(directory, f"{task}.jsonl")
            except DataError:
                continue
        if not self._paths:
            raise DataError(directory, f"none of {', '.join(TASKS)} (.jsonl) here", hint="use L-Eval's published files")
        self._tokenizer, self._max_model_len = tokenizer, max_model_len
        self._num_documents, self._num_cut = 0, 0

    @cached_property
    def settings(self) -> dict[str, Any]:
        cut_to = None if self._tokenizer is None else self._max_model_len
        return {"tasks": list(self._paths), "cut_to": cut_to, "sha256": sha256_of_all(self._paths.values())}

    def questions(self) -> Sequence[Question]:
        return self._questions

    def grade(self, question: Question, answer: Answer) -> Grade:
        text, reference = answer.text.strip(), question.reference
        task = question.group
        if task == "gsm100":
            found = whole_number(text)
        elif task == "codeU":
            found = program_output(text, reference)
        elif task == "sci_fi":
            found = verdict(text)
        else:
            found = chosen_letters(text, several=task == "coursera")
        return Grade(found, exam_score(found, reference))

    def summarise(self, records: Sequence[Record]) -> list[Figure]:
        groups = by_group(records)
        name = "average" if len(groups) == len(TASKS) else f"average of {len(groups)} tasks"
        return [group_average(name, records), *(share(task, groups[task]) for task in TASKS if task in groups)]

    def files(self, records: Sequence[Record]) -> dict[str, bytes]:
        return {}

    def forecast(self, answerer: Answerer) -> Iterator[str]:
        if missing := [f"{task}.jsonl" for task in TASKS if task not in self._paths]:
            yield f"leval: {', '.join(missing)} not found; the average is of {len(self._paths)} tasks"
        if self._tokenizer is None or self._max_model_len is None:
            hint = "to cut them, pass --tokenizer and --max-model-len of the served model"
            yield f"leval: documents are sent uncut; {hint}"
        elif self._questions and self._num_cut:
            documents = f"{self._num_cut} of {self._num_documents} documents"
            yield f"leval: {documents} are cut to the model's context of {self._max_model_len:,} tokens"

    @cached_property
    def _questions(self) -> list[Question]:
        return [question for task, path in self._paths.items() for question in self._of_task(task, path)]

    def _of_task(self, task: str, path: Path) -> Iterator[Question]:
        for number, (line, row) in enumerate(json_rows(path, FIELDS)):
            if row["evaluation"] not in METRICS:
                continue
            instructions, outputs = row["instructions"], row["outputs"]
            if not instructions or len(instructions) != len(outputs):
                reason = f"{len(instructions)} instructions and {len(outputs)} outputs"
                raise DataError(path, reason, line=line, hint="there must be an output for each instruction")
            if not all(isinstance(text, str) for text in (*instructions, *outputs)):
                raise DataError(path, "an instruction or output is not text", line=line, hint="fix the line")
            document = self._cut(task, row["input"], instructions)
            for index, (instruction, output) in enumerate(zip(instructions, outputs, strict=True)):
                references = _references(task, output)
                if references is None:
                    raise DataError(
                        path, f"the output {output!r:.60} contains no answer", line=line, hint="fix the line"
                    )
                messages = _messages(task, document, instruction)
                id = f"{task}/{number}/{index}"
                yield _question(id, task, messages, references[0], number)
                if task == "sci_fi":
                    yield _question(f"{id}/fact", task, [*messages, _in_world(instruction)], references[1], number)

    def _cut(self, task: str, document: str, instructions: Sequence[str]) -> str:
        """The document as far as prompt and answer fit the context; SettingError where not even the rest does."""
        self._num_documents += 1
        if self._tokenizer is None or self._max_model_len is None:
            return document
        longest = max(instructions, key=len)
        around = _messages(task, "", longest) + ([_in_world(longest)] if task == "sci_fi" else [])
        room = self._max_model_len - MAX_NEW_TOKENS - len(build_prompt(self._tokenizer, around)) - SPARE_TOKENS
        if room < 1:
            reason = f"question and answer of {task} do not fit the context of {self._max_model_len:,} tokens"
            raise SettingError(f"leval: {reason}; use a model with a longer context")
        ids = self._tokenizer.encode(document)
        if len(ids) <= room:
            return document
        self._num_cut += 1
        return self._tokenizer.decode(ids[-room:] if task == "codeU" else ids[:room], errors="ignore")


def _messages(task: str, document: str, instruction: str) -> list[Message]:
    if task in ("gsm100", "codeU"):
        asked = f"{document}\n\n{instruction}"
    else:
        asked = (
            f"Document is as follows. {document} Question: {instruction} \n"
            "Please directly give answer without any additional output or explanation\n Answer: "
        )
    return [Message("system", _SYSTEM[task]), Message("user", asked)]


def _in_world(instruction: str) -> Message:
    asked = instruction.replace(_IN_DOCUMENT, _IN_WORLD)
    return Message(
        "user", f"{asked}\nPlease directly give answer without any additional output or explanation \nAnswer:"
    )


def _question(id: str, task: str, messages: Sequence[Message], reference: str, number: int) -> Question:
    return Question(id, task, Chat(tuple(messages), max_tokens=MAX_NEW_TOKENS), reference, f"{task}/{number}")


def _references(task: str, output: str) -> list[str] | None:
    """The right answers to an instruction: one, or of sci_fi two; None where the output is not as published."""
    if task == "sci_fi":
        in_document, mark, in_world = output.lower().partition("[fact:")
        found = [in_document.strip(), in_world[:-1].strip()]
        return found if mark else None
    if task == "gsm100":
        return [whole_number(output)] if whole_number(output) else None
    if task == "codeU":
        return [plain_output(output)] if output.strip() else None
    return [reference_letters(output)] if output.strip() else None
