"""The source of a template to its syntax tree, with jinja2 and the settings of transformers; nothing is run."""

from __future__ import annotations

from typing import Any

from qwartet.tokenizer.templates.failure import TemplateFailure

MAX_SOURCE_CHARS = 256 << 10  # the longest published ones have 20,000
MAX_TREE_DEPTH = 150

# Statements that read other templates, or change how text is escaped.
_REFUSED = ("Extends", "Block", "Include", "Import", "FromImport", "EvalContextModifier", "ScopedEvalContextModifier")


def parse(source: str) -> Any:
    """The tree, a jinja2.nodes.Template; TemplateFailure where the source is not a template, or is not one of a
    conversation.
    """
    from jinja2 import TemplateSyntaxError, nodes  # a tenth of a second, for templates that are not known
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what the model said, for training; the text is the same."""

        tags = {"generation"}  # noqa: RUF012  jinja2's own form

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    if len(source) > MAX_SOURCE_CHARS:
        raise TemplateFailure(f"has {len(source)} characters; at most {MAX_SOURCE_CHARS} are read")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    try:
        tree = environment.parse(source)
    except TemplateSyntaxError as error:
        raise TemplateFailure(f"line {error.lineno}: {error.message}") from None
    except (RecursionError, ValueError, OverflowError) as error:  # deep nesting, a number of a million digits
        raise TemplateFailure(f"cannot be parsed ({type(error).__name__})") from None
    _check(tree)
    return tree


def _check(tree: Any) -> None:
    level = [tree]
    for _ in range(MAX_TREE_DEPTH):
        refused = next((node for node in level if type(node).__name__ in _REFUSED), None)
        if refused is not None:
            raise TemplateFailure(f"line {refused.lineno}: {type(refused).__name__.lower()} is not available")
        level = [child for node in level for child in node.iter_child_nodes()]
        if not level:
            return
    raise TemplateFailure(f"is nested more than {MAX_TREE_DEPTH} deep")
