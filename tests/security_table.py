"""The tables of docs/security.md: which attack or fault is tested where, read off the names of the tests.

python -m tests.security_table        writes them anew
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.golden_data import REPOSITORY

DOCUMENT = REPOSITORY / "docs" / "security.md"
BEGIN, END = "<!-- made by python -m tests.security_table -->", "<!-- end -->"
_ID = re.compile(r"(?:^|_)(sec|rel|ck)_?(\d\d)(?=_|$)")

OUTCOMES = {
    "SEC-01": "Weights are safetensors. Pickles are not downloaded; only `qwartet convert` reads them, confined.",
    "SEC-02": "Code that comes with a checkpoint is not run or downloaded, whatever its config says.",
    "SEC-03": "",
    "SEC-04": "What a model writes as arguments of a call stays text.",
    "SEC-05": "A request brings no template and no settings of one: refused by name.",
    "SEC-06": "A billion completions are refused before anything is allocated; `n` and prompts count together.",
    "SEC-07": "Any value in any field is served or refused with status 400 and the field's name; never a 5xx.",
    "SEC-08": "Headers, bodies and paths have sizes and time limits, however they are sent; nothing is unpacked.",
    "SEC-09": "Texts and bodies that are meant to take long are answered in linear time; others are served meanwhile.",
    "SEC-10": "Hostile schemas and regexes are served or refused; they fetch nothing and leave nothing in memory.",
    "SEC-11": "Images, audio and files are refused; no connection is opened.",
    "SEC-12": "Keys are compared as hashes, all of them, in constant time; any other header is a 401.",
    "SEC-13": "Every route but health and the page's files wants the key, however the path is written.",
    "SEC-14": "A local server answers to its own names alone; pages of other origins may neither read nor ask.",
    "SEC-15": "Nothing in a request is a path; only the page's own files are given out.",
    "SEC-16": "A key finds only what it had computed itself; answers do not depend on who else asks.",
    "SEC-17": "Logs hold no prompt and no key, error bodies no path and no traceback, whatever fails.",
    "SEC-18": "What is sent becomes one escaped line of the log at most.",
    "SEC-19": "No text of a user becomes a marker of the conversation, in any field or spelling.",
    "SEC-20": "A call in the text of a user or a tool is no call.",
    "SEC-21": "What a model writes runs nothing in the page; every answer has a strict content security policy.",
    "SEC-22": "",
    "SEC-23": "",
    "SEC-24": "Downloads are tied to a commit and compared with the hub's hashes; `verify` finds one changed byte.",
    "REL-01": "After a storm of cancellations nothing is left, and the next request is served.",
    "REL-02": "A client may go at any moment: its place and its blocks are free, nothing is logged.",
    "REL-03": "Exactly those beyond the queue get 429 and when to come again.",
    "REL-04": "Waiting and answering have time limits, told as 503 and 504, or as an event of the stream.",
    "REL-05": "An error ends the requests that it belongs to, in words; a failed engine ends the process.",
    "REL-06": "",
    "REL-07": "A cache that is too small for all makes them slower, and changes no text.",
    "REL-08": "Signals let open answers end, then end them; the port is free, no child is left.",
    "REL-09": "What is wrong at the start is one line and an exit code.",
    "REL-10": "Health tells of loading, ready, failed and draining, also while a step runs.",
    "REL-11": "A load with faults leaves no block, task or descriptor behind.",
    "REL-12": "",
    "REL-13": "Who does not read loses the connection; the others go on.",
    "REL-14": "No piece of a stream ends inside of a character; lone surrogates are answered.",
    "REL-15": "A stream says what a whole answer says: text, usage, log-probabilities.",
    "REL-16": "A seed gives the same text whoever else is served.",
    "REL-17": "A prompt may fill the context but for one token.",
    "REL-18": "",
    "REL-19": "Without network, home or space, what is here is served and the rest is told.",
    "REL-20": "Downloads that break are resumed, and nothing wrong gets its name.",
    "REL-21": "",
    "REL-22": "",
    "REL-23": "The metrics count what the clients saw.",
    "REL-24": "Flags win over the environment, that over the file; unknown keys are refused with a suggestion.",
    "REL-25": "",
    "REL-26": "",
}

# Tests whose names were given before they had an id.
NAMED_OTHERWISE = {
    "SEC-01": (
        "tests/test_architecture.py::test_the_package_runs_no_code_that_comes_with_a_checkpoint",
        "tests/hub/test_pull.py::test_data_and_the_licence_are_fetched_and_code_pickles_and_folders_are_not",
        "tests/checkpoint/test_checkpoint_errors.py::test_a_directory_without_safetensors_is_refused",
        "tests/convert/test_pickled.py::test_a_pickle_that_would_run_code_is_refused_and_runs_none",
        "tests/convert/test_confinement.py::test_a_confined_process_has_no_network_and_starts_no_program",
    ),
    "SEC-02": (
        "tests/test_architecture.py::test_the_package_runs_no_code_that_comes_with_a_checkpoint",
        "tests/hub/test_pull.py::test_data_and_the_licence_are_fetched_and_code_pickles_and_folders_are_not",
    ),
    "SEC-10": (
        "tests/engine/test_hostile_structures.py::test_no_structure_ends_the_process_or_takes_long_or_much",
        "tests/engine/test_hostile_structures.py::test_a_schema_brings_nothing_from_the_network",
    ),
    "REL-12": (
        "tests/server/test_openapi.py::test_what_the_schema_allows_is_answered_as_it_says",
        "tests/server/test_openapi.py::test_what_the_schema_forbids_is_refused",
    ),
}
OUTCOMES["REL-12"] = "What `/openapi.json` allows is answered as it says, what it forbids is refused; never a 5xx."


def by_id() -> dict[str, list[tuple[str, str]]]:
    """File and name of every test that carries an id, or is listed here for one."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        file = path.relative_to(REPOSITORY).as_posix()
        for name in functions_of(path):
            for kind, number in _ID.findall(name):
                found.setdefault(f"{kind.upper()}-{number}", []).append((file, name))
    for one, tests in NAMED_OTHERWISE.items():
        for test in tests:
            file, _, name = test.partition("::")
            assert name in functions_of(REPOSITORY / file), f"there is no {test}"
            found.setdefault(one, []).append((file, name))
    return found


@cache
def functions_of(path: Path) -> list[str]:
    """The test functions of a file."""
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    return [function.name for function in functions if function.name.startswith("test_")]


def tables() -> str:
    """The part of the document that is made here."""
    return "\n".join((BEGIN, *_table("SEC"), "", *_table("REL"), "", *_checkpoints(), END))


def _table(kind: str) -> Iterator[str]:
    found = by_id()
    yield "| id | outcome | tests |"
    yield "|---|---|---|"
    for one, outcome in OUTCOMES.items():
        if one.startswith(kind):
            yield f"| {one} | {outcome or 'not yet'} | {_links(found.get(one, []))} |"


def _checkpoints() -> Iterator[str]:
    tests = [test for one, some in by_id().items() if one.startswith("CK") for test in some]
    yield f"Malformed checkpoints (CK-01 to CK-28 as far as they are here): {_links(tests)}."


def _links(tests: list[tuple[str, str]]) -> str:
    counts = Counter(file for file, _ in tests)
    return ", ".join(f"[{file.rpartition('/')[2]}](../{file}) ({count})" for file, count in counts.items())


def main() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(before + tables() + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
