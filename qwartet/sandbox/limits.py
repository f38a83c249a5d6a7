"""How much a sandboxed program may use."""

from __future__ import annotations

from dataclasses import dataclass

MAX_MESSAGE_BYTES = 2**20  # a line between a sandboxed program and this process


@dataclass(frozen=True)
class Limits:
    """Bounds of one sandboxed program; where it says so, of each of its processes."""

    seconds: float = 15.0  # of a program from its start to its end, or of a cell of a session
    cpu_seconds: int = 3  # of each process
    memory_bytes: int = 2**29  # address space of each process
    processes: int = 8  # and threads, at a time, the sandbox's own first process included
    open_files: int = 64  # of each process
    file_bytes: int = 2**20  # a file
    disk_bytes: int = 2**24  # all files together
    files: int = 1024  # all files together; bubblewrap leaves this to the kernel
    output_bytes: int = 2**20  # of what a script or a cell prints, so much is kept

    def rlimits(self) -> dict[str, tuple[int, int]]:
        """Soft and hard resource limits by name."""
        same = {
            "AS": self.memory_bytes,
            "NPROC": self.processes,
            "NOFILE": self.open_files,
            "FSIZE": self.file_bytes,
            "CORE": 0,
        }
        # At the soft limit a process gets SIGXCPU, which says why it ended; at the hard one it is killed.
        bounds = {name: (value, value) for name, value in same.items()}
        return bounds | {"CPU": (self.cpu_seconds, self.cpu_seconds + 1)}
