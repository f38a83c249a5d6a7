"""Sockets of accepted connections."""

from __future__ import annotations

import socket

from qwartet.server.listener import bind


def test_what_is_written_to_a_client_is_sent_at_once() -> None:
    with bind("127.0.0.1", 0, 30) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
