"""Puts a program behind the kernel's namespaces: a program of its own, `python -I -S launcher.py CONFIG`.

It imports nothing of Qwartet, and nothing of Qwartet imports it. Started by root it becomes `uid` first, having made
what only root can read visible to that user in a mount namespace of its own; from then on it may be unable to read
Python's library, and imports nothing. Then it starts bubblewrap, or, without it,
makes the namespaces itself: Linux from 5.12 on. What goes wrong is a line on standard error, and exit code 125.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
from collections.abc import Sequence
from typing import Any

FAILED = 125
_NEW_CGROUP, _NEW_UTS, _NEW_IPC, _NEW_USER = 0x02000000, 0x04000000, 0x08000000, 0x10000000
_NEW_PID, _NEW_NET, _NEW_MOUNTS = 0x20000000, 0x40000000, 0x00020000
_READ_ONLY, _NO_SUID, _NO_DEVICES, _REMOUNT, _BIND = 1, 2, 4, 32, 4096
_RECURSIVE, _PRIVATE, _DETACH = 16384, 1 << 18, 2
_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _NO_NEW_PRIVS = 1, 4, 22, 38
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_CAPABILITY_VERSION = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: Any) -> None:
    if getattr(_libc, name)(*args) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    _call("mount", source.encode(), os.fsencode(target), kind and kind.encode(), ctypes.c_ulong(flags),
          options and options.encode())  # fmt: skip


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, *map(ctypes.c_ulong, (value, 0, 0, 0)))


def main(config: dict[str, Any]) -> None:
    """Ends in the program, or in an OSError."""
    os.umask(0o022)
    if config["uid"] is not None:
        _become(config["uid"], config["stage"], config["stage_directory"])
    if "root" not in config:  # bubblewrap
        os.execve(config["command"][0], config["command"], {})
    _prctl(_PDEATHSIG, signal.SIGKILL)
    _unshare(config["inner_uid"])
    if child := os.fork():
        _end_like(child)
    _first_process(config)


def _become(uid: int, stage: Sequence[Sequence[str]], directory: str) -> None:
    _call("unshare", _NEW_MOUNTS)
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    handles = [os.open(source, os.O_PATH) for source, _target in stage]
    if stage:
        _mount("tmpfs", directory, "tmpfs", _NO_SUID | _NO_DEVICES, "mode=755,size=1m")
    for handle, (source, target) in zip(handles, stage, strict=True):
        _bind(handle, target, os.path.isdir(source))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    _prctl(_SET_DUMPABLE, 1)  # else its own /proc/self/uid_map would be root's


def _bind(handle: int, target: str, is_directory: bool) -> None:
    os.makedirs(target if is_directory else os.path.dirname(target), exist_ok=True)
    if not is_directory:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o444))
    _mount(f"/proc/self/fd/{handle}", target, None, _BIND | _RECURSIVE)
    os.close(handle)


def _unshare(inner_uid: int) -> None:
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", _NEW_USER | _NEW_MOUNTS | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS | _NEW_CGROUP)
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{inner_uid} {uid} 1"),
        ("gid_map", f"{inner_uid} {gid} 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(descriptor, content.encode())
        os.close(descriptor)


def _first_process(config: dict[str, Any]) -> None:
    """Process 1 of the new namespace: with it ends all that the program has started."""
    _prctl(_PDEATHSIG, signal.SIGKILL)
    _make_root(**config["root"])
    os.setsid()
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    _call("capset", header, bytes(24))
    _prctl(_NO_NEW_PRIVS, 1)
    if child := os.fork():
        _prctl(_SET_DUMPABLE, 0)
        _end_like(child)
    if code := bytes.fromhex(config["filter"]):
        buffer = ctypes.create_string_buffer(code, len(code))
        program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
        _call("prctl", _SET_SECCOMP, ctypes.c_ulong(2), ctypes.c_char_p(program))
    os.execve(config["command"][0], config["command"], config["environment"])


def _make_root(
    paths: Sequence[Sequence[str]], links: Sequence[Sequence[str]], devices: Sequence[str], over: str, tmp_options: str
) -> None:
    """A file system of these paths, read-only, and a writable /tmp."""
    _mount("none", "/", None, _RECURSIVE | _PRIVATE)
    handles = [(os.open(source, os.O_PATH), target, os.path.isdir(source)) for source, target in paths]
    nodes = [(os.open(path, os.O_PATH), path) for path in devices]
    _mount("tmpfs", over, "tmpfs", _NO_SUID | _NO_DEVICES, "mode=755,size=1m")
    for handle, path, is_directory in handles:
        _bind(handle, over + path, is_directory)
        attributes = struct.pack("4Q", _READ_ONLY | _NO_SUID | _NO_DEVICES, 0, 0, 0)
        _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(over + path), _AT_RECURSIVE, attributes, 32)
    for handle, path in nodes:
        _bind(handle, over + path, False)
    for target, name in links:
        os.symlink(target, over + name)
    os.mkdir(over + "/tmp")
    _mount("tmpfs", over + "/tmp", "tmpfs", _NO_SUID | _NO_DEVICES, tmp_options)
    os.chdir(over)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    _mount("none", "/", None, _REMOUNT | _BIND | _READ_ONLY | _NO_SUID | _NO_DEVICES)
    os.chdir("/tmp")


def _end_like(child: int) -> None:
    """Waits for a child and ends as it did, holding none of the descriptors that the child has."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except OSError as error:
        print(error.args[-1] if error.filename is None else error, file=sys.stderr, flush=True)
    os._exit(FAILED)
