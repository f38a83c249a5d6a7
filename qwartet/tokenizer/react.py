"""ReAct, the text format in which first-generation Qwen calls tools; react_stream.py reads what the model writes.

The tools and the format are explained in front of the question (`react_question`). The model then writes

    Thought: I need the weather.          Thought: I now know the final answer.
    Action: get_weather                   Final Answer: It rains in Oslo.
    Action Input: {"city": "Oslo"}
    Observation:                          <- generation stops here; the tool's result goes in its place

The instruction is verbatim what the model was trained on; changing a word costs accuracy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from qwartet.errors import RequestError

TOOL_KEYS = ("name_for_model", "name_for_human", "description_for_model", "parameters")
STOP_STRING = "\nObservation:"  # at the beginning of a line: arguments may hold the word

NEXT_THOUGHT = "\nThought:"  # where the model goes on after a tool's result

_TOOL = (
    "{name_for_model}: Call this tool to interact with the {name_for_human} API. "
    "What is the {name_for_human} API useful for? {description_for_model} Parameters: {parameters}"
)
_INSTRUCTION = """Answer the following questions as best you can. You have access to the following APIs:

{tools_text}

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!"""


def react_instruction(tools: Sequence[Mapping[str, Any]]) -> str:
    """The text that explains the tools and the format; raises RequestError for a tool that lacks one of TOOL_KEYS."""
    if not tools:
        raise RequestError("there are no tools; pass at least one")
    tools_text = "\n\n".join(_tool_text(tool) for tool in tools)
    names = ", ".join(str(tool["name_for_model"]) for tool in tools)
    return _INSTRUCTION.format(tools_text=tools_text, names=names)


def react_question(tools: Sequence[Mapping[str, Any]], question: str) -> str:
    """A user message that asks a question with tools; outer newlines are stripped, as in the training data."""
    question = question.lstrip("\n").rstrip()
    return f"{react_instruction(tools)}\n\nQuestion: {question}"


def react_call(thought: str, name: str, arguments: str) -> str:
    """An assistant text that calls a tool, as the model writes it."""
    return f"Thought: {thought}\nAction: {name}\nAction Input: {arguments}"


def react_result(result: str) -> str:
    """What follows a call in the assistant's text: the tool's result."""
    return f"\nObservation: {result}"


def react_observation(result: str) -> str:
    """The same, and the start of the next thought."""
    return f"{react_result(result)}{NEXT_THOUGHT}"


def react_answer(answer: str, thought: str = "I now know the final answer.") -> str:
    """An assistant text that ends with the answer."""
    return f"Thought: {thought}\nFinal Answer: {answer}"


def _tool_text(tool: Mapping[str, Any]) -> str:
    missing = [key for key in TOOL_KEYS if key not in tool]
    if missing:
        raise RequestError(f"a tool lacks {', '.join(missing)}; it needs {', '.join(TOOL_KEYS)}")
    try:
        parameters = json.dumps(tool["parameters"], ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the parameters of tool {tool['name_for_model']} are not valid JSON: {error}") from error
    return _TOOL.format_map({**tool, "parameters": parameters})
