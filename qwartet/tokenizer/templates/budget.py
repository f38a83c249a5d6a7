"""What evaluating a template may cost: steps, characters and depth, all counted beforehand and none of them timed.

A step is one node of the template evaluated, or about a kilobyte read or written, and takes about a microsecond; so the
steps bound the time. Whatever an operation makes is charged before it is made, so the characters bound the memory. Both
grow with the request, since a conversation of a thousand messages costs a thousand times that of one. The counts do not
depend on the machine: a template that ends on one ends on all.
"""

from __future__ import annotations

from typing import Any

from qwartet.tokenizer.templates.failure import TemplateFailure

STEPS, STEPS_PER_NODE, MAX_STEPS = 500_000, 1_000, 5_000_000
CHARS, CHARS_PER_NODE, CHARS_PER_CHAR, MAX_CHARS = 2**24, 2**12, 64, 2**28
MAX_DEPTH = 80  # of macros, loops and blocks within each other, and of lists within lists
MAX_INT_BITS = 4096
MAX_RANGE = 100_000  # as in jinja2's sandbox

_PIECE_CHARS = 64  # what an object costs beside its characters
_ITEM_CHARS, _NUMBER_CHARS = 4, 8  # what a place in a list costs (8 bytes), and a number in it that is new (32)
_CHARS_PER_STEP = 1024


class Budget:
    """What is left to spend; TemplateFailure when something would cost more."""

    def __init__(self, given: Any) -> None:
        """`given`: the values from the request, which the limits grow with."""
        nodes, chars = _size(given)
        self.steps = min(MAX_STEPS, STEPS + STEPS_PER_NODE * nodes)
        self.chars = min(MAX_CHARS, CHARS + CHARS_PER_NODE * nodes + CHARS_PER_CHAR * chars)
        self.depth = 0

    def spend(self, steps: int = 1) -> None:
        """Takes so many steps."""
        self.steps -= steps
        if self.steps < 0:
            raise TemplateFailure("it takes too many steps; a template must not loop for so long")

    def read(self, chars: int) -> None:
        """Looks at so many characters."""
        self.spend(1 + chars // _CHARS_PER_STEP)

    def make(self, chars: int, pieces: int = 1) -> None:
        """Makes texts, or lists, of so many characters or items altogether."""
        self.chars -= chars + pieces * _PIECE_CHARS
        if self.chars < 0:
            raise TemplateFailure("it makes too much text; a template must not repeat texts so often")
        self.read(chars + pieces)

    def hold(self, items: int, *, are_new_numbers: bool = False) -> None:
        """Makes a list of so many items, which exist already unless they are the numbers of a range."""
        self.make(items * (_ITEM_CHARS + (_NUMBER_CHARS if are_new_numbers else 0)))

    def search(self, text: str, wanted: str, *, backwards: bool = False) -> None:
        """Looks for a text in another, at the worst that CPython's search can cost."""
        self.read(len(text) * max(1, len(wanted) if backwards else min(len(wanted), 128)))

    def enter(self) -> None:
        """Goes one level deeper; `leave` goes back."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TemplateFailure(f"it is nested more than {MAX_DEPTH} deep; does a macro call itself?")

    def leave(self) -> None:
        """Goes one level back."""
        self.depth -= 1

    def measure(self, value: Any) -> int:
        """The characters and items of a value, all that it contains counted as often as it does.

        Comparing, hashing, sorting and showing it then costs no more than that was charged, even for a list that
        contains another twice, that another twice, and so on.
        """
        if isinstance(value, str):
            self.read(len(value))
            return len(value) + 1
        self.spend()
        if not isinstance(value, list | tuple | dict):
            return 24
        self.enter()
        total = 1
        for item in value:
            total += self.measure(item)
            if isinstance(value, dict):
                total += self.measure(value[item])
        self.leave()
        return total


def _size(value: Any) -> tuple[int, int]:
    """Values and characters in a value from the request."""
    if isinstance(value, str):
        return 1, len(value)
    nodes, chars = 1, 0
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for part in parts:
        more_nodes, more_chars = _size(part)
        nodes, chars = nodes + more_nodes, chars + more_chars
    return nodes, chars
