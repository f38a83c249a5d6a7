"""Confines the calling process: no network, no new programs, limited memory and time.

A seccomp filter blocks system calls by their number for good, in this process and its children. Linux on x86-64 and
64-bit ARM only; elsewhere nothing is confined, and that is an error.
"""

from __future__ import annotations

import ctypes
import platform
import resource
import socket
import struct

from qwartet.sandbox.system_calls import filter_program, machine_is_known

# Numbers of: socket, connect, bind, sendto, sendmsg, socketpair, execve, execveat, ptrace, kill, io_uring_setup,
# process_vm_readv, process_vm_writev.
_REFUSED = {
    "x86_64": (41, 42, 49, 44, 46, 53, 59, 322, 101, 62, 425, 310, 311),
    "aarch64": (198, 203, 200, 206, 211, 199, 221, 281, 117, 129, 425, 270, 271),
}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2


class NotConfinedError(Exception):
    """This system cannot confine a process."""


def confine(*, more_memory: int, seconds: int, file_bytes: int) -> None:
    """Allows `more_memory` bytes of address space more, `seconds` of CPU time, files of `file_bytes`.

    NotConfinedError if a socket can still be created afterwards.
    """
    with open("/proc/self/statm", encoding="ascii") as statistics:
        used = int(statistics.read().split()[0]) * resource.getpagesize()
    limits = {"AS": used + more_memory, "CPU": seconds, "FSIZE": file_bytes, "CORE": 0}
    for name, limit in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    _refuse_calls()
    try:
        socket.socket().close()
    except PermissionError:
        return
    raise NotConfinedError("network access cannot be removed")


def _refuse_calls() -> None:
    if not machine_is_known():
        raise NotConfinedError(f"no system call filter on {platform.system()} {platform.machine()}")
    code = filter_program(_REFUSED[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.c_char_p(program)
    no_new = libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    if no_new or libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), pointer):
        raise NotConfinedError(f"the system rejects the system call filter (error {ctypes.get_errno()})")
