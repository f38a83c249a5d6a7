"""Responses of a hub: redirects followed, bodies of bounded size, decompressed where a proxy compressed them.

Of an error or a redirect only the headers are read: the body may be endless.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from qwartet.errors import DownloadError

MAX_ANSWER_BYTES = 4 * 2**20  # of JSON; as Python objects it can take 25 times as much
MAX_REDIRECTS = 20
_PIECE_BYTES = 2**20
_ANY_HEADER = 32 + zlib.MAX_WBITS  # gzip's or zlib's
_ERROR_HEADERS = ("X-Error-Code", "X-Error-Message", "Retry-After")


class TryAgain(Exception):
    """A response that may be right next time."""


class TooManyRedirects(Exception):
    """The hub redirects without end."""


@contextmanager
def response_to(url: str, headers: Mapping[str, str], *expected: int) -> Iterator[Any]:
    """The response to a GET, its body unread; the HTTP client's exceptions for a status that is not expected."""
    from huggingface_hub import constants, get_session

    session = get_session()
    asked = {**headers, "Accept-Encoding": "identity"}
    request = session.build_request("GET", url, headers=asked, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    for _ in range(MAX_REDIRECTS + 1):
        with closing(session.send(request, stream=True, follow_redirects=False)) as response:
            if response.next_request is None:
                _check_status(response, expected)
                yield response
                return
            request = response.next_request
    raise TooManyRedirects(f"more than {MAX_REDIRECTS} redirects")


def _check_status(response: Any, expected: tuple[int, ...]) -> None:
    from huggingface_hub import hf_raise_for_status

    status = response.status_code
    if status in (200, 206, *expected):
        return
    if status < 400:
        raise TryAgain(f"status {status} without content")
    # The library reads all of an error's body, whatever its size; a copy without one has all that is needed here.
    kept = {name: response.headers[name][:200] for name in _ERROR_HEADERS if name in response.headers}
    hf_raise_for_status(type(response)(status, headers=kept, request=response.request))


def body_of(response: Any, what: str) -> Iterator[bytes]:
    """Bytes of a response, in pieces of bounded size; DownloadError for a compression that was not requested and
    cannot be decoded, TryAgain for a corrupt one.
    """
    coding = content_coding(response)
    if not coding:
        pieces: Iterator[bytes] = response.iter_raw()
        return pieces
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise DownloadError(
            f"{what}: compressed by a proxy ({coding:.40}), which was not requested; bypass the proxy, or use another "
            "HF_ENDPOINT or --source"
        )
    return _unpacked(response.iter_raw())


def content_coding(response: Any) -> str:
    """How a proxy compressed a response; empty where nothing did."""
    coding: str = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if coding == "identity" else coding


def _unpacked(pieces: Iterator[bytes]) -> Iterator[bytes]:
    decoder = zlib.decompressobj(_ANY_HEADER)
    try:
        for packed in pieces:
            while packed:
                if decoder.eof:  # gzip files can be concatenated
                    decoder = zlib.decompressobj(_ANY_HEADER)
                yield decoder.decompress(packed, _PIECE_BYTES)
                packed = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error as error:
        raise TryAgain(f"the compressed response is corrupt ({error})") from error


def json_answer(url: str, headers: Mapping[str, str], what: str, hint: str) -> Any:
    """The JSON of a response; DownloadError, beginning with `what`, for one that is not valid JSON or too long."""
    text = bytearray()
    with response_to(url, headers) as response:
        for piece in body_of(response, what):
            text += piece
            if len(text) > MAX_ANSWER_BYTES:
                raise DownloadError(f"{what} is longer than {MAX_ANSWER_BYTES} bytes; {hint}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DownloadError(f"{what} is not valid JSON; {hint}") from None
