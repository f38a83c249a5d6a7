"""A seccomp filter that refuses system calls by number: a program for the kernel, as bytes.

Linux on x86-64 and 64-bit ARM.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_CALLS = 0x40000000  # the same calls under other numbers begin here
_LOAD, _EQUAL, _AT_LEAST, _HAS_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; little endian

# What model-written code has no use for: sockets, other processes' memory, mounts and namespaces, memory that outlives
# its process, keys, and parts of the kernel with a history of holes.
_NUMBERS = {  # x86-64, 64-bit ARM
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
}
_CLONE = (56, 220)
_CLONE3 = 435  # its flags are in memory, where no filter sees them; without it the C library takes clone
_NEW_NAMESPACES = 0x7E020000  # any CLONE_NEW... flag of clone


def machine_is_known() -> bool:
    """Whether there are filters for this machine."""
    return platform.system() == "Linux" and platform.machine() in _ARCHITECTURES


def sandbox_filter() -> bytes:
    """The filter of a sandboxed program; empty on a machine without one."""
    if not machine_is_known():
        return b""
    column = list(_ARCHITECTURES).index(platform.machine())
    return filter_program(
        [numbers[column] for numbers in _NUMBERS.values()],
        namespaces_of=_CLONE[column],
        absent=(_CLONE3,),
    )


def filter_program(refused: Sequence[int], *, namespaces_of: int | None = None, absent: Sequence[int] = ()) -> bytes:
    """Refuses these calls with EPERM, `absent` ones with ENOSYS, and `namespaces_of` (clone) with namespace flags.

    A call of another architecture kills the process.
    """
    body: list[tuple[int, int, int, int]] = []
    for numbers, error in ((refused, errno.EPERM), (absent, errno.ENOSYS)):
        for number in numbers:
            body += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | error)]
    if namespaces_of is not None:
        body += [
            (_EQUAL, 0, 3, namespaces_of),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_HAS_BIT, 0, 1, _NEW_NAMESPACES),
            (_RETURN, 0, 0, _FAIL | errno.EPERM),
        ]
    filters = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[platform.machine()]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32_CALLS),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        *body,
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *one) for one in filters)
