"""Takes from the process that calls it what it needs no more: the network, new programs, memory and time without end.

A seccomp filter refuses system calls by their number for good, in this process and in all that it may start. Linux, on
x86-64 and 64-bit ARM; elsewhere nothing is confined, and that is an error.
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
    """This system offers no way to do it."""


def confine(*, more_memory: int, seconds: int, file_bytes: int) -> None:
    """Leaves `more_memory` bytes of address space beside what is used, `seconds` of a processor, files of `file_bytes`.

    NotConfinedError where a socket could still be had afterwards.
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
    raise NotConfinedError("the network could not be taken away")


def _refuse_calls() -> None:
    if not machine_is_known():
        raise NotConfinedError(f"{platform.system()} on {platform.machine()} has no filter of system calls")
    code = filter_program(_REFUSED[platform.machine()])
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.c_char_p(program)
    no_new = libc.prctl(_PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    if no_new or libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), pointer):
        raise NotConfinedError(f"the system takes no filter of system calls (error {ctypes.get_errno()})")
