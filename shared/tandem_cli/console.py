"""What the command line prints with, and how it ends when something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
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


def named_texts(option: str, values: Sequence[str] | None) -> dict[str, str]:
    """Return name -> text of an option that is written as name=value; fails naming the first that is not."""
    pairs = [text.partition("=") for text in values or ()]
    if bad := ["".join(pair) for pair in pairs if not (pair[0] and pair[1])]:
        fail(f"{option} {bad[0]!r}: write it as name=value")
    return {name: value for name, _, value in pairs}
