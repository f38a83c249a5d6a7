"""URLs as people write them."""

from __future__ import annotations

import pytest

from qwartet.client.address import parse_address
from qwartet.errors import SettingError


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("localhost", "http://localhost"),
        ("https://models.example/qwen/v1", "https://models.example/qwen"),
        ("HTTP://Models.Example:80", "http://models.example"),
        ("https://models.example:8443", "https://models.example:8443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_a_url_means_the_place_before_v1(url: str, meant: str) -> None:
    assert str(parse_address(url)) == meant


@pytest.mark.parametrize(
    "url",
    [
        "", "http://", "ftp://x", "file:///etc/passwd", "http://x:y", "http://x:99999", "http://x:0", "http://[::1",
        "http://x/?q=1", "http://x/#f", "http://a b", "http://x\r\ny: z", "http://x/\x1b", "http://bücher.example",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(SettingError, match=r"; write it as http://127\.0\.0\.1:8000"):
        parse_address(url)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingError, match="would be shown") as caught:
        parse_address("http://me:secret@x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "stays"), [("localhost:1", True), ("127.0.0.7:1", True), ("http://[::1]", True), ("10.0.0.1", False)]
)
def test_loopback_is_known(url: str, stays: bool) -> None:
    assert parse_address(url).is_loopback is stays
