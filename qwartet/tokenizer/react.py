"""ReAct, the text format in which first-generation Qwen calls tools.

The tools and the format are explained in front of the question (`react_question`). The model then writes

    Thought: I need the weather.          Thought: I now know the final answer.
    Action: get_weather                   Final Answer: It rains in Oslo.
    Action Input: {"city": "Oslo"}
    Observation:                          <- generation stops here; the tool's result goes in its place

The instruction is word for word what the model was trained on; a changed word costs accuracy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwartet.errors import RequestError

TOOL_KEYS = ("name_for_model", "name_for_human", "description_for_model", "parameters")
STOP_STRING = "Observation:"

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


@dataclass(frozen=True)
class ReactReply:
    """What the model wrote: a tool call (`name` is set, `text` is the thought) or an answer (`text` alone)."""

    text: str
    name: str | None = None
    arguments: str = ""

    @property
    def is_call(self) -> bool:
        """Whether the model calls a tool."""
        return self.name is not None


def react_instruction(tools: Sequence[Mapping[str, Any]]) -> str:
    """The text that explains the tools and the format; raises RequestError for a tool without one of TOOL_KEYS."""
    if not tools:
        raise RequestError("there are no tools; give at least one")
    tools_text = "\n\n".join(_tool_text(tool) for tool in tools)
    names = ", ".join(str(tool["name_for_model"]) for tool in tools)
    return _INSTRUCTION.format(tools_text=tools_text, names=names)


def react_question(tools: Sequence[Mapping[str, Any]], question: str) -> str:
    """A user message that asks a question with tools; outer newlines go, as they did in the training data."""
    question = question.lstrip("\n").rstrip()
    return f"{react_instruction(tools)}\n\nQuestion: {question}"


def react_call(thought: str, name: str, arguments: str) -> str:
    """An assistant text that calls a tool, as the model writes it."""
    return f"Thought: {thought}\nAction: {name}\nAction Input: {arguments}"


def react_observation(result: str) -> str:
    """What follows a call in the assistant's text: the tool's result, and the start of the next thought."""
    return f"\nObservation: {result}\nThought:"


def react_answer(answer: str, thought: str = "I now know the final answer.") -> str:
    """An assistant text that ends with the answer."""
    return f"Thought: {thought}\nFinal Answer: {answer}"


def parse_react(output: str) -> ReactReply:
    """The first tool call in a model's output, else its final answer, else the output as it is; linear in the text.

    Only what the model wrote belongs here: a prompt that holds these markers must not become a call.
    """
    text = "\n" + output  # so that a marker at the very start is at the start of a line too
    action = text.find("\nAction:")
    action_input = text.find("\nAction Input:")
    if 0 <= action < action_input:
        name = text[action + len("\nAction:") : action_input].strip()
        if name:
            arguments = text[action_input + len("\nAction Input:") :].partition("\nObservation:")[0]
            before, marker, thought = text[:action].partition("Thought:")
            return ReactReply((thought if marker else before).strip(), name, arguments.strip())
    _, marker, answer = text.rpartition("\nFinal Answer:")
    return ReactReply(answer.strip() if marker else output)


def _tool_text(tool: Mapping[str, Any]) -> str:
    missing = [key for key in TOOL_KEYS if key not in tool]
    if missing:
        raise RequestError(f"a tool lacks {', '.join(missing)}; it needs {', '.join(TOOL_KEYS)}")
    try:
        parameters = json.dumps(tool["parameters"], ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"the parameters of tool {tool['name_for_model']} are not JSON: {error}") from error
    return _TOOL.format_map({**tool, "parameters": parameters})
