"""What a hub answers: redirects followed, bodies of bounded size, unpacked where a proxy compressed them unasked.

No more of an error or of a redirect is read than its headers: either may be a body without an end.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from qwartet.errors import DownloadError

MAX_ANSWER_BYTES = 4 * 2**20  # of a listing; as Python objects it may take 25 times as much
MAX_REDIRECTS = 20
_PIECE_BYTES = 2**20
_ANY_HEADER = 32 + zlib.MAX_WBITS  # gzip's or zlib's
_ERROR_HEADERS = ("X-Error-Code", "X-Error-Message", "Retry-After")


class TryAgain(Exception):
    """An answer that may be right next time."""


class TooManyRedirects(Exception):
    """The hub sends from one place to another without an end."""


@contextmanager
def response_to(url: str, headers: Mapping[str, str], *expected: int) -> Iterator[Any]:
    """The response to a GET, its body unread; the client's exceptions for a refusal whose status is not expected."""
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
        raise TryAgain(f"the hub answers {status}, which brings no content")
    # The library reads all of an error's body, whatever its size; a copy without one has all that is of use here.
    kept = {name: response.headers[name][:200] for name in _ERROR_HEADERS if name in response.headers}
    hf_raise_for_status(type(response)(status, headers=kept, request=response.request))


def body_of(response: Any, what: str) -> Iterator[bytes]:
    """The bytes of a response, in pieces of bounded size; DownloadError for a compression that was not asked for and
    cannot be undone, TryAgain for one that is broken.
    """
    coding = content_coding(response)
    if not coding:
        pieces: Iterator[bytes] = response.iter_raw()
        return pieces
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise DownloadError(
            f"{what}: arrives compressed ({coding:.40}), which was not asked for; a proxy between here and the hub "
            "does that: go around it, or set another HF_ENDPOINT or --source"
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
                if decoder.eof:  # gzip files may stand one behind the other
                    decoder = zlib.decompressobj(_ANY_HEADER)
                yield decoder.decompress(packed, _PIECE_BYTES)
                packed = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error as error:
        raise TryAgain(f"what arrives cannot be unpacked ({error})") from error


def json_answer(url: str, headers: Mapping[str, str], variable: str) -> Any:
    """The JSON that a hub answers; DownloadError for what is none or is too long, naming the `variable` that says which
    hub is asked.
    """
    text = bytearray()
    with response_to(url, headers) as response:
        for piece in body_of(response, "the hub's answer"):
            text += piece
            if len(text) > MAX_ANSWER_BYTES:
                raise DownloadError(f"the hub's answer is longer than {MAX_ANSWER_BYTES} bytes; check {variable}")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DownloadError(f"the hub's answer is not valid JSON; check {variable}") from None
