"""Threads and checkpoints of the tests; the last lines of a run say which golden sets it used and what it left out."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# The networks of the tests are tiny: a second thread costs them more than it gives. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a test leaves in a cache is not found by the next run, and never in the user's own.
os.environ["QWARTET_CACHE"] = tempfile.mkdtemp(prefix="qwartet-test-cache-")
# Nor do the user's settings and language reach a test.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="qwartet-test-config-")
os.environ |= dict.fromkeys(("LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE", "QWARTET_LANG"), "")
# No test speaks TLS, and to read all certificates takes longer (40 ms for each client) than most of their requests.
os.environ["SSL_CERT_DIR"] = tempfile.mkdtemp(prefix="qwartet-test-no-certificates-")
os.environ.pop("SSL_CERT_FILE", None)

from tests import golden_data
from tests.quick import LONG
from tests.server.page.browser import summary_of_skipped

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C, which some send.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Directory of a sound checkpoint with these settings of write_tiny_checkpoint; not to be written to."""
    from tests.tiny_checkpoint import write_tiny_checkpoint  # brings torch

    made: dict[str, Path] = {}

    def get(**settings) -> Path:
        key = repr(sorted(settings.items()))
        if key not in made:
            made[key] = write_tiny_checkpoint(tmp_path_factory.mktemp("pristine") / "model", **settings)
        return made[key]

    return get


@pytest.fixture
def checkpoint(pristine: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A copy of such a checkpoint, to be broken."""
    return lambda **settings: Path(shutil.copytree(pristine(**settings), tmp_path / "model"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers, files that take long begin first."""
    if hasattr(config, "workerinput"):
        begins_first = tuple(name.partition("::")[0] for name in LONG)
        items.sort(key=lambda item: not item.nodeid.startswith(begins_first))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # what it writes comes after all else
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """What a worker of pytest-xdist has used is told to the process that it works for."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["golden"] = [sorted(golden_data.used), sorted(golden_data.absent)]
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and (line := summary_of_skipped(reporter.stats.get("skipped", []))):
        reporter.write_line(line, red=True, bold=True)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    used, absent = getattr(node, "workeroutput", {}).get("golden", ((), ()))
    golden_data.used.update(used)
    golden_data.absent.update(absent)


def pytest_terminal_summary(terminalreporter) -> None:
    if golden_data.used or golden_data.absent:
        terminalreporter.write_line(f"golden data from {golden_data.golden_root()}")
        terminalreporter.write_line(f"  used:   {', '.join(sorted(golden_data.used)) or 'none'}")
        terminalreporter.write_line(f"  absent: {', '.join(sorted(golden_data.absent)) or 'none'}")
