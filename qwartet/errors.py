"""Every exception that users of Qwartet can meet.

    QwartetError
    ├── CheckpointError(path, tensor, reason, hint)    a file on disk is wrong
    │   └── VocabularyError(path, line, reason, hint)  a line of a .tiktoken file is wrong
    ├── DataError(path, line, reason, hint)            a file of data, such as a benchmark's, is wrong
    ├── ModelNotFoundError                             no such path or hub id
    ├── DownloadError                                  a download is not complete and intact
    ├── NotAChatModelError                             a base model was asked to chat
    ├── SettingError (also a ValueError)               an argument is out of range or unknown
    ├── RequestError (also a ValueError)               a prompt cannot be served as asked
    ├── NotFiniteError                                 the network gave NaN or infinity for one request
    ├── EngineFailedError                              an error in a step ended the engine
    ├── SandboxError                                   a sandbox for untrusted code does not start
    ├── ServerError                                    a server refuses, fails or breaks off
    │   └── PromptTooLongError                         the prompt does not fit its context
    └── OutOfMemoryError (also a MemoryError)          the model, the KV cache or a request does not fit

    CheckpointWarning (a UserWarning)                  a file on disk is odd, but is used
    ContextWarning                                     the context is shorter than the model's own
    DataWarning                                        a file of data is odd, but is used
    DownloadWarning                                    a download broke off and is resumed
    KernelWarning                                      a weight runs on a slower kernel than others

A message says what is wrong and, after "; ", what to do. Whatever it quotes, it is one line of bounded length, without
control characters, so that a traceback may show it too. The command line prints it and exits with code 2. Internal
invariants use `assert` instead: they are our bugs, not the user's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from qwartet.inert_text import error_text

_CPU_ALLOCATOR = re.compile(r"(not enough memory|can't allocate memory): you tried to allocate \d+ bytes")


def _safe(args: Sequence[object]) -> Iterator[object]:
    return (error_text(arg) if isinstance(arg, str) else arg for arg in args)


class QwartetError(Exception):
    """Base of all errors that Qwartet raises on purpose; `param` names the argument at fault, if there is one."""

    param: str | None = None

    def __init__(self, *args: object, param: str | None = None) -> None:
        super().__init__(*_safe(args))
        self.param = param or self.param


class CheckpointError(QwartetError):
    """A checkpoint, or one of its files, cannot be used as it is."""

    def __init__(
        self, path: str | os.PathLike[str], reason: str, *, tensor: str | None = None, hint: str | None = None
    ) -> None:
        self.path = os.fspath(path)
        self.tensor = tensor
        self.reason = reason
        self.hint = hint
        where = self.path if tensor is None else f"{self.path}: {tensor}"
        super().__init__(f"{where}: {reason}" + (f"; {hint}" if hint else ""))


class VocabularyError(CheckpointError):
    """A `.tiktoken` vocabulary file is broken; `line` counts from 1, None means the complete file."""

    def __init__(
        self, path: str | os.PathLike[str], reason: str, *, line: int | None = None, hint: str | None = None
    ) -> None:
        self.line = line
        super().__init__(path, reason if line is None else f"line {line}: {reason}", hint=hint)


class DataError(QwartetError):
    """A file of data, such as a benchmark's, is not as expected; `line` counts from 1, None means the whole file."""

    def __init__(
        self, path: str | os.PathLike[str], reason: str, *, line: int | None = None, hint: str | None = None
    ) -> None:
        self.path, self.line = os.fspath(path), line
        where = self.path if line is None else f"{self.path}, line {line}"
        super().__init__(f"{where}: {reason}" + (f"; {hint}" if hint else ""))


class ModelNotFoundError(QwartetError):
    """The name is neither a directory nor a model that can be downloaded."""


class DownloadError(QwartetError):
    """A model or a dataset on the hub could not be downloaded completely and intact, or not be stored."""


class NotAChatModelError(QwartetError):
    """The checkpoint is a base model (chat_format "raw"): it completes text and does not chat."""

    param = "model"


class SettingError(QwartetError, ValueError):
    """An argument, flag or configuration value is unknown or outside its bounds."""


class RequestError(QwartetError, ValueError):
    """A request cannot be served: empty or too long prompt, ids out of range, impossible sampling settings."""

    param = "prompt"


class ChatTemplateError(RequestError):
    """The checkpoint's chat template rejects a conversation, fails with it, or exceeds its limits."""

    param = "messages"


class StructureError(RequestError):
    """A required output structure is ill-formed, too large, or cannot be satisfied."""

    param = "structure"


class NotFiniteError(QwartetError):
    """The network's numbers for one request are NaN or infinite; that request has ended, others have not."""


class EngineFailedError(QwartetError):
    """An error in a step, not in one request, ended the engine; the cause is chained."""


class SandboxError(QwartetError):
    """A sandbox for untrusted code does not start, so nothing was run."""


class ServerError(QwartetError):
    """A server cannot be reached, refuses, fails, or breaks off its answer."""


class PromptTooLongError(ServerError):
    """A server rejects a prompt that does not fit the model's context."""


class OutOfMemoryError(QwartetError, MemoryError):
    """The model, its KV cache or one request does not fit in the available memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that an allocation failed, and nothing else: Python's, ours, or torch's.

    torch's class for GPUs is recognised by its name, since this module imports no torch. On the CPU its allocator
    raises a plain RuntimeError (c10/core/impl/alloc_cpu.cpp).
    """
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    return type(error).__name__ == "OutOfMemoryError" or _CPU_ALLOCATOR.search(str(error)) is not None


class QwartetWarning(UserWarning):
    """Base of all warnings that Qwartet gives on purpose."""

    def __init__(self, *args: object) -> None:
        super().__init__(*_safe(args))


class ContextWarning(QwartetWarning):
    """Memory is short, so the context is shorter than the model's own."""


class KernelWarning(QwartetWarning):
    """Something runs on a slower kernel than it could; the message says why."""


class CheckpointWarning(QwartetWarning):
    """A checkpoint is odd, but has one sensible interpretation; the message says which."""


class DataWarning(QwartetWarning):
    """A file of data is odd, or only a part of it is used; the message says which."""


class CacheWarning(QwartetWarning):
    """Weights could not be cached for the next start; the message says why."""


class DownloadWarning(QwartetWarning):
    """A download broke off, or delivered wrong bytes, and is retried."""


class MemoryWarning(QwartetWarning):
    """The weights do not fit the memory and are read from disk for every step; the message estimates the speed."""
