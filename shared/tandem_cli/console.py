"""What the command line prints with, and how it ends when something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape


class _Output(Console):
    """Prints for people and for pipes: a line that goes into a pipe is never broken, since scripts read it."""

    def print(self, *objects: Any, soft_wrap: bool | None = None, **how: Any) -> None:
        if soft_wrap is None and not self.is_terminal:
            soft_wrap = all(isinstance(each, str) for each in objects)
        super().print(*objects, soft_wrap=soft_wrap, **how)


# A pipe has no width of its own: wide enough for the tables, so that logs keep their columns.
out = _Output(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True)


def fail(message: str) -> NoReturn:
    """Print one clear line and end with code 2."""
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(2)


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that the user can mend into one clear line; everything else keeps its trace."""
    try:
        yield
    except kinds as error:
        fail(str(error))
