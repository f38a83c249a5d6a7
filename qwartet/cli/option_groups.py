"""Groups of options, declared once: the fields of a dataclass that verbs take as a parameter.

@dataclass(frozen=True)
class LoadOptions:
    head: Head = "auto"

@with_groups
def chat(*, prompt: str, load: LoadOptions) -> None: ...        # qwartet chat --prompt TEXT --head int8
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

_T = TypeVar("_T")


def with_groups(verb: Callable[..., _T]) -> Callable[..., _T]:
    """The verb in a form that Typer accepts: each dataclass parameter is replaced by options for its fields."""
    hints = get_type_hints(verb, include_extras=True)
    groups = {name: dict(_options(kind)) for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        own = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += groups[name].values() if name in groups else [own]

    def run(**values: Any) -> _T:
        for name, options in groups.items():
            values[name] = hints[name](**{field: values.pop(option.name) for field, option in options.items()})
        return verb(**values)

    run.__name__, run.__doc__ = verb.__name__, verb.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def _options(group: Any) -> Iterator[tuple[str, inspect.Parameter]]:
    """A parameter for each field of a group; its name drops the unit, and a string annotation is its help."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        hint = hints[field.name]
        if isinstance(hint.__metadata__[0], str):
            hint = Annotated[hint.__origin__, typer.Option(help=hint.__metadata__[0])]
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        name = re.sub(r"_(?:s|bytes)$", "", field.name)
        yield field.name, inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
