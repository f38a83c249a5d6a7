"""The socket that a server listens on."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from qwartet.errors import SettingError


def bind(host: str, port: int, write_timeout_s: float) -> socket.socket:
    """A listening socket; SettingError where there can be none. Port 0: any that is free."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise SettingError(f"{host}:{port} cannot be opened ({reason}); choose another --host or --port") from error
    # The system ends a connection whose client takes nothing, also where the server has written all and let go of it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * write_timeout_s))
    # asyncio sees to this only where a socket names its protocol, which accepted ones do not. Without it a token waits
    # until the client has acknowledged what came before, and clients put that off for 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def bind_unix(path: Path) -> socket.socket:
    """A listening Unix socket, in place of one that nobody listens on; SettingError where there can be none."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            _remove_if_dead(path)
        listener.bind(str(path))
        path.chmod(0o600)  # only the same user, unless somebody changes it
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise SettingError(f"{path} cannot be opened ({error.strerror}); choose another --uds") from error
    return listener


def _remove_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
