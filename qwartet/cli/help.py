"""`qwartet help COMMAND`: the same as `qwartet COMMAND --help`."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def help_on(
    context: typer.Context,
    verb: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", show_default=False, help="Such as chat.")
    ] = None,
) -> None:
    """Show the help of a command."""
    command: Any = context.find_root().command
    command.main([*(verb or ()), "--help"], prog_name="qwartet", standalone_mode=False)
