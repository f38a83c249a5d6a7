"""Threads and checkpoints of the tests; a run ends with a list of the golden sets used and absent."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# The networks of the tests are tiny: a second thread costs more than it gains. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests use a cache of their own, not the user's, and the next run does not find what they leave.
os.environ["QWARTET_CACHE"] = tempfile.mkdtemp(prefix="qwartet-test-cache-")
# Neither the user's settings nor the user's language reach the tests.
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="qwartet-test-config-")
os.environ |= dict.fromkeys(("LC_ALL", "LC_MESSAGES", "LANG", "LANGUAGE", "QWARTET_LANG"), "")
# No test uses TLS, and loading all certificates takes longer (40 ms per client) than most of their requests.
os.environ["SSL_CERT_DIR"] = tempfile.mkdtemp(prefix="qwartet-test-no-certificates-")
os.environ.pop("SSL_CERT_FILE", None)

from tests import golden_data
from tests.quick import LONG
from tests.server.page.browser import summary_of_skipped

# The time of an example only shows how busy the machine is.
hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")

# Tests started in the background by a shell ignore Ctrl-C, as do their children, and some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Directory of a valid checkpoint with these settings of write_tiny_checkpoint; read-only."""
    from tests.tiny_checkpoint import write_tiny_checkpoint  # imports torch

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
    """With several workers, slow files start first."""
    if hasattr(config, "workerinput"):
        begins_first = tuple(name.partition("::")[0] for name in LONG)
        items.sort(key=lambda item: not item.nodeid.startswith(begins_first))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # its output comes last
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """A worker of pytest-xdist reports the sets that it used to the controlling process."""
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
