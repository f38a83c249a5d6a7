"""What a request is told whose step or preparation took more memory than there is."""

from __future__ import annotations

from qwartet.errors import OutOfMemoryError, is_out_of_memory


def in_our_words(error: Exception, what: str) -> Exception:
    """An OutOfMemoryError that says what was being done, where memory ran out; else the error itself."""
    if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
        return error
    ours = OutOfMemoryError(f"memory ran out while {what}; free some, or ask for less at once")
    ours.__cause__ = error.with_traceback(None)  # whose frames hold what took the memory
    return ours
