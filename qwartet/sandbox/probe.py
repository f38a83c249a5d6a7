"""Tries each wall from the inside: run as a sandboxed script, it prints what it found as JSON.

Nothing of Qwartet imports it. A call of `main` is put after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

BOUNDS: dict[str, int] = {}
OUTSIDE: dict[str, Any] = {}


def fails(action: Callable[[], object]) -> bool:
    """Whether an action is refused."""
    try:
        action()
    except (OSError, MemoryError):
        return True
    return False


def network() -> bool:
    """No interface but a dead loopback."""
    try:
        interfaces = {name for _index, name in socket.if_nameindex()}
        with socket.socket() as one:
            return interfaces <= {"lo"} and fails(lambda: one.connect(("127.0.0.1", OUTSIDE["port"])))
    except PermissionError:
        return True


def socket_is_refused() -> bool:
    return fails(lambda: socket.socket().close())


def filesystem() -> bool:
    """Nothing of a user's is seen, and nothing can be written but in /tmp, which is empty."""
    hidden = ("/etc/passwd", "/proc", "/sys", OUTSIDE["file"])
    seen = [path for path in hidden if os.path.exists(path)]
    places = ("/", "/usr", "/dev", "/etc", os.path.dirname(os.__file__))
    writable = [path for path in places if not fails(partial(os.open, f"{path}/x", os.O_CREAT | os.O_WRONLY))]
    return not seen and not writable and not os.listdir("/tmp")


def processes() -> bool:
    """Other processes are not there."""
    return os.getpid() < 10 and fails(lambda: os.kill(OUTSIDE["pid"], 0))


def user() -> bool:
    return os.getuid() == OUTSIDE["uid"] and fails(lambda: os.setuid(0)) and fails(lambda: os.chroot("/tmp"))


def memory() -> bool:
    return fails(lambda: bytearray(BOUNDS["memory_bytes"]))


def process_count() -> bool:
    children: list[int] = []
    source, target = os.pipe()
    try:
        while len(children) < 2 * BOUNDS["processes"]:
            if not (child := os.fork()):
                os.close(target)
                os.read(source, 1)  # until the first process closes its end
                os._exit(0)
            children.append(child)
        return False
    except OSError:
        return True
    finally:
        os.close(target)
        for child in children:
            os.waitpid(child, 0)


def files() -> bool:
    """The size of a file, of all files, and how many are open."""
    piece, full = bytes(BOUNDS["file_bytes"]), False
    with open("/tmp/large", "wb", buffering=0) as file:
        file.write(piece)
        if not fails(partial(file.write, b"x")):
            return False
    for number in range(BOUNDS["disk_bytes"] // BOUNDS["file_bytes"]):
        with open(f"/tmp/{number}", "wb", buffering=0) as file:
            full = full or fails(partial(file.write, piece)) or os.stat(file.fileno()).st_size < len(piece)
    handles: list[int] = []
    with contextlib.suppress(OSError):
        while len(handles) < BOUNDS["open_files"]:
            handles.append(os.open("/dev/null", os.O_RDONLY))
    for handle in handles:
        os.close(handle)
    return full and len(handles) < BOUNDS["open_files"]


def descriptors() -> bool:
    """Nothing is inherited but standard input, output and error."""
    return all(fails(partial(os.fstat, number)) for number in range(3, BOUNDS["open_files"]))


def cpu_time() -> bool:
    return resource.getrlimit(resource.RLIMIT_CPU)[0] == BOUNDS["cpu_seconds"]


def main(bounds: dict[str, int], outside: dict[str, Any]) -> None:
    BOUNDS.update(bounds)
    OUTSIDE.update(outside)
    tries: dict[str, Callable[[], bool]] = {
        "descriptors": descriptors,
        "network": network,
        "file system": filesystem,
        "processes": processes,
        "memory": memory,
        "time": cpu_time,
        "user": user,
        "process count": process_count,
        "files": files,
        "system calls": socket_is_refused,
    }
    print(json.dumps({name: attempt() for name, attempt in tries.items()}))
