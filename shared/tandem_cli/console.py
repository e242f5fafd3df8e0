"""What the command line prints with, and how it ends when something is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console

out = Console()
err = Console(stderr=True)


def fail(message: str) -> NoReturn:
    """Print one clear line and end with code 2."""
    err.print(f"[bold red]error:[/] {message}", highlight=False, soft_wrap=True)
    raise typer.Exit(2)


@contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that the user can mend into one clear line; everything else keeps its trace."""
    try:
        yield
    except kinds as error:
        fail(str(error))
