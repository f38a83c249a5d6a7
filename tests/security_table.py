"""The tables of docs/security.md: which attack or fault is tested where, derived from the names of the tests.

python -m tests.security_table        regenerates them
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
    "SEC-02": "Code shipped with a checkpoint is never executed or downloaded, whatever its config says.",
    "SEC-03": "",
    "SEC-04": "The arguments of a call stay text as the model wrote them.",
    "SEC-05": "A request brings no chat template and, of its arguments, only `enable_thinking`; errors name the field.",
    "SEC-06": "A billion completions are rejected before anything is allocated; `n` times the prompts counts.",
    "SEC-07": "Any value in any field is served, or rejected with status 400 and the field's name; never a 5xx.",
    "SEC-08": "Headers, bodies and paths have size and time limits, however they are sent; nothing is decompressed.",
    "SEC-09": "Texts and bodies built to be slow are answered in linear time, and other requests are served meanwhile.",
    "SEC-10": "Hostile schemas and regexes are served or rejected; they fetch nothing and leave nothing in memory.",
    "SEC-11": "Images, audio and files are rejected; no connection is opened.",
    "SEC-12": "All keys are compared as hashes in constant time; any other header is a 401.",
    "SEC-13": "Every route except health and the page's files requires the key, however the path is written.",
    "SEC-14": "A local server answers only to its own names; foreign pages can neither read nor send requests.",
    "SEC-15": "Nothing in a request is used as a path; only the page's own files are served.",
    "SEC-16": "A key finds only what was computed for it; answers do not depend on other requests.",
    "SEC-17": "Logs contain no prompts or keys, and errors no paths or tracebacks, whatever fails.",
    "SEC-18": "Client input becomes at most one escaped log line.",
    "SEC-19": "User text never becomes a control token, in any field or spelling.",
    "SEC-20": "A call written in the text of a user or a tool is not a call.",
    "SEC-21": "Model output executes nothing in the page; every answer has a strict content security policy.",
    "SEC-22": "Model-written code runs in a sandbox alone, if allowed; it leaves nothing and forges no verdict.",
    "SEC-23": "Archives with escaping paths, links or bombs are refused, leaving nothing; a dataset's code never runs.",
    "SEC-24": "Downloads are tied to a commit and compared with the hub's hashes; `verify` finds one changed byte.",
    "REL-01": "After a burst of cancellations nothing is left behind, and the next request is served.",
    "REL-02": "A client may disconnect at any moment: its slot and its cache blocks are freed, and nothing is logged.",
    "REL-03": "Exactly the requests that exceed the queue get 429 and a retry time.",
    "REL-04": "Queueing and answering have time limits, reported as 503 and 504 or as an event of the stream.",
    "REL-05": "An error ends the affected requests with a message; a failed engine ends the process.",
    "REL-06": "",
    "REL-07": "A cache too small for all requests makes them slower but changes no text.",
    "REL-08": "Signals let running answers finish, then cancel them; the port is freed, and no child process remains.",
    "REL-09": "A failure at startup is one line and an exit code.",
    "REL-10": "Health reports loading, ready, failed and draining, even while a step runs.",
    "REL-11": "A load with faults leaves no block, task or descriptor behind.",
    "REL-12": "",
    "REL-13": "A client that stops reading is disconnected; others are unaffected.",
    "REL-14": "No chunk of a stream ends within a character; unpaired surrogates are answered.",
    "REL-15": "A stream equals the complete answer: text, usage, log-probabilities.",
    "REL-16": "A seed gives the same text regardless of other requests.",
    "REL-17": "A prompt may fill the context except for one token.",
    "REL-18": "",
    "REL-19": "Without network, home directory or disk space, local models are served and the rest is a clear error.",
    "REL-20": "Interrupted downloads are resumed, and no incomplete or wrong file gets its final name.",
    "REL-21": "",
    "REL-22": "",
    "REL-23": "The metrics count what the clients saw.",
    "REL-24": "Flags override the environment, which overrides the file; unknown keys are rejected with a suggestion.",
    "REL-25": "",
    "REL-26": "",
}

# Tests that carry no id in their names.
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
    "SEC-22": (
        "tests/sandbox/test_hostile_code.py::test_hostile_code_fails_and_leaves_nothing",
        "tests/sandbox/test_session.py::test_a_hostile_cell_harms_nothing_but_its_session",
        "tests/evaluate/test_humaneval.py::test_nothing_is_run_unless_that_is_allowed",
        "tests/evaluate/test_code_interpreter.py::test_nothing_is_run_unless_that_is_allowed",
    ),
    "REL-12": (
        "tests/server/test_openapi.py::test_what_the_schema_allows_is_answered_as_it_says",
        "tests/server/test_openapi.py::test_what_the_schema_forbids_is_refused",
    ),
}
OUTCOMES["REL-12"] = "What `/openapi.json` allows is answered as declared, what it forbids is rejected; never a 5xx."


def by_id() -> dict[str, list[tuple[str, str]]]:
    """File and name of every test that carries an id or is listed above for one."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted((REPOSITORY / "tests").rglob("test_*.py")):
        file = path.relative_to(REPOSITORY).as_posix()
        for name in functions_of(path):
            for kind, number in _ID.findall(name):
                found.setdefault(f"{kind.upper()}-{number}", []).append((file, name))
    for one, tests in NAMED_OTHERWISE.items():
        for test in tests:
            file, _, name = test.partition("::")
            assert name in functions_of(REPOSITORY / file), f"{test} does not exist"
            found.setdefault(one, []).append((file, name))
    return found


@cache
def functions_of(path: Path) -> list[str]:
    """The test functions of a file."""
    functions = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)]
    return [function.name for function in functions if function.name.startswith("test_")]


def tables() -> str:
    """The generated part of the document."""
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
    yield f"Malformed checkpoints (CK-01 to CK-28, as far as tested): {_links(tests)}."


def _links(tests: list[tuple[str, str]]) -> str:
    counts = Counter(file for file, _ in tests)
    return ", ".join(f"[{file.rpartition('/')[2]}](../{file}) ({count})" for file, count in counts.items())


def main() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    DOCUMENT.write_text(before + tables() + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
