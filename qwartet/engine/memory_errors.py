"""The error of a request whose step or preparation ran out of memory."""

from __future__ import annotations

from qwartet.errors import OutOfMemoryError, is_out_of_memory


def in_our_words(error: Exception, what: str) -> Exception:
    """An OutOfMemoryError that says what ran out of memory, if that is what happened; else the error itself."""
    if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
        return error
    ours = OutOfMemoryError(f"out of memory while {what}; free some memory, or send smaller requests")
    ours.__cause__ = error.with_traceback(None)  # whose frames hold what took the memory
    return ours
