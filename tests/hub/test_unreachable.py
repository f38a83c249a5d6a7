"""A hub that cannot be used now: the line names the host and who chose it, what is kept, and the other ways."""

from __future__ import annotations

import socket

import pytest

from qwartet.errors import DownloadError, ModelNotFoundError
from qwartet.hub import download_errors
from qwartet.hub.answers import TryAgain
from qwartet.hub.download_errors import explain
from qwartet.hub.fetch import GivenUp
from qwartet.hub.hubs import HUBS
from qwartet.hub.repository import Repository
from tests.hub.fake_hub import NAME, SHARDS, FakeHub
from tests.hub.test_pull import BOTH, HF, MODELSCOPE, fetched, refusal


class TransportError(Exception):
    """As the HTTP client calls it."""


class ConnectError(TransportError):
    """As the HTTP client calls it."""


class ReadTimeout(TransportError):
    """As the HTTP client calls it."""


class ProxyError(TransportError):
    """As the HTTP client calls it."""


UNREACHABLE = [
    ConnectError("[Errno -2] Name or service not known"),
    ConnectError("[Errno 111] Connection refused"),
    ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
    ReadTimeout("The read operation timed out"),
    ProxyError("407 Proxy Authentication Required"),
]


def dead_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def default_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for variable in ("MODELSCOPE_ENDPOINT", "MODELSCOPE_DOMAIN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(download_errors, "getproxies", dict)


def line(error: Exception, repository: Repository = HF, **known: bool) -> str:
    """What a user is shown."""
    return str(explain(repository, "main", error, HUBS[repository.hub].wording(), **known))


@pytest.mark.usefixtures("default_endpoints")
@pytest.mark.parametrize("error", UNREACHABLE, ids=str)
def test_the_line_names_the_host_the_reason_and_the_other_ways(error: Exception) -> None:
    reason = f"({type(error).__name__}: {error})"
    mirror = "set HF_ENDPOINT to a mirror (for example https://hf-mirror.com)"
    assert line(error) == (
        f"{NAME}: no such directory, and could not reach huggingface.co {reason}; try again later, {mirror}, or use "
        "--source modelscope (the name modelscope:OWNER/NAME)"
    )
    assert line(error, MODELSCOPE) == (
        f"modelscope:{NAME}: could not reach modelscope.cn {reason}; try again later, or use --source hf (the name "
        "hf:OWNER/NAME)"
    )


@pytest.mark.usefixtures("default_endpoints")
def test_partial_downloads_are_mentioned_where_there_are_any() -> None:
    kept = "partial downloads are kept: run the command again, set HF_ENDPOINT to a mirror"
    assert kept in line(UNREACHABLE[0], has_partial=True) and "partial" not in line(UNREACHABLE[0])


@pytest.mark.usefixtures("default_endpoints")
def test_a_file_that_was_given_up_is_named_with_the_number_of_attempts() -> None:
    text = line(GivenUp("model.safetensors", ReadTimeout("late"), 6))
    assert f"{NAME}: model.safetensors: could not reach huggingface.co (ReadTimeout: late, 6 attempts); " in text
    text = line(GivenUp(NAME, TryAgain("the hub closed the connection early"), 6))
    assert f"{NAME}: download from huggingface.co failed (the hub closed the connection early, 6 attempts); " in text


@pytest.mark.usefixtures("default_endpoints")
def test_the_proxy_that_is_in_between_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_errors, "getproxies", lambda: {"https": "http://me:secret@proxy.example:3128"})
    text = line(UNREACHABLE[1])
    assert "could not reach huggingface.co through the proxy proxy.example:3128 (" in text and "secret" not in text


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [("https://me:secret@mirror.example", "mirror.example"), ("http://mirror.example:8080", "mirror.example:8080"),
     ("hf-mirror.com", "hf-mirror.com"), ("http://[::1", "http://[::1")],
)  # fmt: skip
def test_a_mirror_is_named_with_the_variable_that_chose_it(
    default_endpoints: None, monkeypatch: pytest.MonkeyPatch, endpoint: str, host: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    text = line(UNREACHABLE[0])
    assert f"could not reach {host} (set by HF_ENDPOINT)" in text and "secret" not in text
    assert "; try again later, fix or unset HF_ENDPOINT, or use --source modelscope" in text
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "scope.example")
    text = line(UNREACHABLE[0], MODELSCOPE)
    assert "could not reach scope.example (set by MODELSCOPE_DOMAIN)" in text
    assert "fix or unset MODELSCOPE_DOMAIN, or use --source hf" in text


@BOTH
def test_a_dead_mirror_ends_a_pull_at_once(
    hub: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = dead_endpoint()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", dead)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", dead)
    variable = "HF_ENDPOINT" if repository is HF else "MODELSCOPE_ENDPOINT"
    text = refusal(ModelNotFoundError, repository)
    assert f"could not reach {dead.removeprefix('http://')} (set by {variable}) (ConnectError" in text


@BOTH
@pytest.mark.filterwarnings("ignore::qwartet.errors.DownloadWarning")
def test_what_a_first_pull_kept_is_mentioned_when_the_next_one_cannot_reach_the_hub(
    hub: FakeHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults["listing"] = ["503"] * 6
    assert "; try again later, " in refusal(DownloadError, repository), "nothing is here yet"
    hub.faults[SHARDS[0]] = ["cut", *["503"] * 6]
    assert "; partial downloads are kept: run the command again, " in refusal(DownloadError, repository)
    dead = dead_endpoint()
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", dead)
        patch.setenv("MODELSCOPE_ENDPOINT", dead)
        assert "; partial downloads are kept: run the command again, " in refusal(ModelNotFoundError, repository)
    fetched(repository)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", dead)
        patch.setenv("MODELSCOPE_ENDPOINT", dead)
        assert "partial" not in refusal(ModelNotFoundError, repository), "the model is complete"


def test_a_listing_that_fails_names_the_model_once(hub: FakeHub) -> None:
    hub.faults["listing"] = ["500"] * 6
    with pytest.warns(Warning):
        text = refusal(DownloadError)
    assert text.startswith(f"{NAME}: download from {hub.host} (set by HF_ENDPOINT) failed (status 500 ")
