"""Server-sent events, however their bytes are split."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwartet.client.event_stream import MAX_EVENT_BYTES, Event, events
from qwartet.errors import ServerError

STREAM = (
    b": ping\n\ndata: a\n\nevent: error\r\ndata: \xe4\xbd\xa0\r\ndata:\xe5\xa5\xbd\r\n\r\n"
    b"data: b\r\rid: 7\nretry: 1\nunknown\ndata:  c\n\n\n\ndata: not whole\n"
)
EXPECTED = [Event("a"), Event("你\n好", "error"), Event("b"), Event(" c")]


def test_a_stream_is_read_as_the_standard_says() -> None:
    assert list(events([STREAM])) == EXPECTED


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_the_pieces_that_bytes_come_in_do_not_matter(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in pairwise(places)]
    assert list(events(chunks)) == EXPECTED


def test_single_bytes_are_enough() -> None:
    assert list(events(bytes([byte]) for byte in STREAM)) == EXPECTED


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert list(events([b"\xef\xbb\xbfdata: a\n\n"])) == [Event("a")]


def test_an_event_is_given_out_before_the_next_one_comes() -> None:
    def chunks():
        yield b"data: a\n\n"
        raise AssertionError("more was read")

    assert next(events(chunks())) == Event("a")


@pytest.mark.parametrize("part", [b"x" * 1000, b"data: x" + b"x" * 1000 + b"\n", b"data:\n" * 100, b"data\r" * 100])
def test_an_event_without_end_is_refused_before_it_fills_the_memory(part: bytes) -> None:
    num_read = 0

    def chunks():
        nonlocal num_read
        while True:
            num_read += len(part)
            yield part

    with pytest.raises(ServerError, match="more than 1048576 bytes; "):
        list(events(chunks()))
    assert num_read < 1.1 * MAX_EVENT_BYTES
