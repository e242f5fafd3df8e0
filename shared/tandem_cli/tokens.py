"""tandem token: make the tokens that callers show."""

from __future__ import annotations

from typing import Annotated

import typer

from tandem_cli.console import err, fail
from tandem_core.tokens import Scope

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `new` a command of its own, though it is the only one."""


@app.command("new")
def new(
    name: Annotated[str, typer.Option(help="Of the caller: letters, digits, '.', '_', '-'.")],
    scope: Annotated[list[Scope], typer.Option(help="What the token is for; may be repeated.")],
) -> None:
    """Print a new token, once, and the lines of the tokens file that admit it; nothing is stored."""
    from pydantic import ValidationError  # noqa: PLC0415

    from tandem_core.tokens import new_token  # noqa: PLC0415

    try:
        token, entry = new_token(name, frozenset(scope))
    except ValidationError:
        fail(f"--name {name!r}: up to 64 letters, digits, '.', '_' and '-', a letter or digit first")
    err.print("The token, for the caller's token file; it is shown this once:")
    typer.echo(token)
    err.print("For the services' tokens_file:")
    typer.echo(entry)
