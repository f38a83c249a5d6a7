"""The socket that the server listens on."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from qwartet.errors import SettingError


def bind(host: str, port: int, write_timeout_s: float) -> socket.socket:
    """A listening socket; SettingError if the address cannot be used. Port 0 means any free port."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise SettingError(f"cannot listen on {host}:{port} ({reason}); choose another --host or --port") from error
    # The kernel drops a connection whose client reads nothing, even after the server has closed it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * write_timeout_s))
    # asyncio sets this only for sockets that name their protocol, which accepted ones do not. Without it a token waits
    # until the client has acknowledged the previous one, and clients delay that by 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def bind_unix(path: Path) -> socket.socket:
    """A listening Unix socket, which replaces a dead one; SettingError if the path cannot be used."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            _remove_if_dead(path)
        listener.bind(str(path))
        path.chmod(0o600)  # the same user only
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise SettingError(f"cannot listen on {path} ({error.strerror}); choose another --uds") from error
    return listener


def _remove_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
