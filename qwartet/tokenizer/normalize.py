"""Unicode NFC in linear time, which `unicodedata` alone does not guarantee.

CPython puts combining marks into canonical order by insertion sort: 80,000 alternating marks take 5 seconds,
a megabyte of them a quarter of an hour. A long run is therefore sorted before the call; the result is the same,
because reordering marks of different classes is a canonical equivalence (UAX #15).
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

LONG_RUN = 100  # marks; no script uses a tenth of that on one letter


def nfc(text: str) -> str:
    """`unicodedata.normalize("NFC", text)`, in time linear in the text."""
    if len(text) > LONG_RUN and not text.isascii():
        text = _long_run().sub(_in_canonical_order, text)
    return unicodedata.normalize("NFC", text)


@cache
def _long_run() -> re.Pattern[str]:
    """Pattern of a long run of characters that decompose into marks."""
    code_points = range(0x300, 0x20000)  # all marks are below the supplementary ideographs
    marks = "".join(c for c in map(chr, code_points) if unicodedata.combining(unicodedata.normalize("NFD", c)[0]))
    # The look-behind keeps the search linear: a run is only tried from its start.
    return re.compile(f"[{marks}](?<![{marks}]{{2}})[{marks}]{{{LONG_RUN - 1},}}+")


def _in_canonical_order(run: re.Match[str]) -> str:
    decomposed = "".join(unicodedata.normalize("NFD", character) for character in run.group())
    return "".join(sorted(decomposed, key=unicodedata.combining))
