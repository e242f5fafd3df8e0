"""Commands around serving: run the services, ask them."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from tandem_cli.console import fail, out, user_errors


class Part(enum.StrEnum):
    """What to serve."""

    BOTH = "both"
    RETRIEVAL = "retrieval"
    RANKING = "ranking"


def serve(
    part: Annotated[Part, typer.Argument(help="One service, or both under one supervisor.")] = Part.BOTH,
    config: Annotated[
        Path | None, typer.Option(help="TOML with tables [retrieval] and [ranking]; default: built-in settings.")
    ] = None,
    registry: Annotated[Path, typer.Option(help="Folder of bundles.")] = Path("bundles"),
    store: Annotated[str, typer.Option(help="User store; events and attributes.")] = "sqlite:///store.db",
    retrieval_port: Annotated[int, typer.Option(min=1, max=65535)] = 50051,
    ranking_port: Annotated[int, typer.Option(min=1, max=65535)] = 50052,
) -> None:
    """Run the services until Ctrl-C or SIGTERM; both are drained before they end."""
    from tandem_cli.serve import children  # noqa: PLC0415
    from tandem_cli.supervisor import Supervisor  # noqa: PLC0415
    from tandem_core.settings import ConfigError  # noqa: PLC0415

    with user_errors(ConfigError):
        wanted = children(config, registry, store, retrieval_port, ranking_port)
    Supervisor([child for child in wanted if part in (Part.BOTH, child.name)]).run()


def recommend(
    user: Annotated[str, typer.Option(help="User id; one nobody knows is fine.")] = "",
    k: Annotated[int, typer.Option("--k", help="Length of the list, 1 to 500.")] = 20,
    attribute: Annotated[list[str] | None, typer.Option(help="name=value, of the user; may be repeated.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="Item id the user just turned to; may be repeated.")] = None,
    placement: str = "",
    target: Annotated[str, typer.Option(help="Address of the ranking service.")] = "127.0.0.1:50052",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds.")] = 5.0,
) -> None:
    """Ask the ranking service for recommendations and print them."""
    from tandem_cli.client import Asking, NotAnswered, ask  # noqa: PLC0415
    from tandem_cli.show import recommendation_table  # noqa: PLC0415

    if not 1 <= k <= 500:
        fail(f"--k is {k}; a list has 1 to 500 items")
    pairs = [text.partition("=") for text in attribute or ()]
    if bad := [name for name, separator, _ in pairs if not (name and separator)]:
        fail(f"--attribute {bad[0]!r}: write it as name=value")
    asking = Asking(user, k, {name: value for name, _, value in pairs}, tuple(event or ()), placement)
    with user_errors(NotAnswered):
        response = ask(target, asking, timeout)
    out.print(recommendation_table(response, f"user {user or '(nobody)'}"))
