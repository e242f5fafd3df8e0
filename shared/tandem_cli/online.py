"""Commands around serving: run the services, ask them."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated

import typer

from tandem_cli.console import fail, named_texts, out, user_errors


class Part(enum.StrEnum):
    """What to serve."""

    BOTH = "both"
    RETRIEVAL = "retrieval"
    RANKING = "ranking"
    WRITER = "writer"


def serve(
    part: Annotated[Part, typer.Argument(help="One process, or all under one supervisor.")] = Part.BOTH,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML with tables [retrieval], [ranking], [writer]; default: built-in settings."),
    ] = None,
    registry: Annotated[Path, typer.Option(help="Folder of bundles.")] = Path("bundles"),
    store: Annotated[str, typer.Option(help="User store; events and attributes.")] = "sqlite:///store.db",
    retrieval_port: Annotated[int, typer.Option(min=1, max=65535)] = 50051,
    ranking_port: Annotated[int, typer.Option(min=1, max=65535)] = 50052,
    writer_port: Annotated[int, typer.Option(min=1, max=65535)] = 50053,
    decisions: Annotated[
        Path | None, typer.Option(help="Folder for decision records, for replay and explanations; default: none.")
    ] = None,
) -> None:
    """Run the services until Ctrl-C or SIGTERM; both are drained before they end."""
    from tandem_cli.serve import children  # noqa: PLC0415
    from tandem_cli.supervisor import Supervisor  # noqa: PLC0415
    from tandem_core.settings import ConfigError  # noqa: PLC0415

    with user_errors(ConfigError):
        wanted = children(config, registry, store, retrieval_port, ranking_port, writer_port, decisions)
    Supervisor([child for child in wanted if part in (Part.BOTH, child.name)]).run()


def stub(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one, which is printed.")] = 50052,
    host: str = "127.0.0.1",
    script: Annotated[
        Path | None, typer.Option(help="TOML: delays, errors, degradations; default: seeded answers.")
    ] = None,
) -> None:
    """Serve stubs of all services, without models, until Ctrl-C or SIGTERM: for callers' tests."""
    from tandem_testing.__main__ import run  # noqa: PLC0415

    raise typer.Exit(run(host, port, script))


def recommend(
    user: Annotated[str, typer.Option(help="User id; one nobody knows is fine.")] = "",
    k: Annotated[int, typer.Option("--k", help="Length of the list, 1 to 500.")] = 20,
    attribute: Annotated[list[str] | None, typer.Option(help="name=value, of the user; may be repeated.")] = None,
    context: Annotated[list[str] | None, typer.Option(help="name=value, of the request, such as device=tv.")] = None,
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
    profile, facts = named_texts("--attribute", attribute), named_texts("--context", context)
    asking = Asking(user, k, profile, tuple(event or ()), placement, context=facts)
    with user_errors(NotAnswered):
        response = ask(target, asking, timeout)
    out.print(recommendation_table(response, f"user {user or '(nobody)'}"))


def explain(
    item: Annotated[str, typer.Argument(help="Item id: why is it in the list, or not?")],
    user: Annotated[str, typer.Option(help="User id; one nobody knows is fine.")] = "",
    k: Annotated[int, typer.Option("--k", help="Length of the list, 1 to 500.")] = 20,
    placement: str = "",
    target: Annotated[str, typer.Option(help="Address of the ranking service.")] = "127.0.0.1:50052",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds.")] = 5.0,
) -> None:
    """Ask the ranking service why an item is or is not recommended to a user, and print it."""
    from tandem.ranking.v1 import ranking_pb2  # noqa: PLC0415
    from tandem_cli.client import Asking, NotAnswered, ask_explanation  # noqa: PLC0415
    from tandem_cli.show import explanation_table  # noqa: PLC0415

    if not 1 <= k <= 500:
        fail(f"--k is {k}; a list has 1 to 500 items")
    request = ranking_pb2.ExplainItemRequest(request=Asking(user, k, placement=placement).request(), item_id=item)
    with user_errors(NotAnswered):
        response = ask_explanation(target, request, timeout)
    out.print(explanation_table(response, item))


def similar(
    item: Annotated[list[str], typer.Argument(help="Item ids, 1 to 50; the answer is near to their mean.")],
    k: Annotated[int, typer.Option("--k", help="Length of the list, 1 to 500.")] = 20,
    registry: Annotated[Path, typer.Option(help="Folder of bundles, for titles; without it items go by id.")] = Path(
        "bundles"
    ),
    target: Annotated[str, typer.Option(help="Address of the retrieval service.")] = "127.0.0.1:50051",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds.")] = 5.0,
) -> None:
    """Ask the retrieval service for items like the given ones and print them."""
    from tandem.retrieval.v1 import retrieval_pb2  # noqa: PLC0415
    from tandem_cli.client import NotAnswered, ask_similar  # noqa: PLC0415
    from tandem_cli.show import similar_table  # noqa: PLC0415
    from tandem_core.catalog import Catalog  # noqa: PLC0415
    from tandem_core.errors import NotFound  # noqa: PLC0415
    from tandem_core.registry import Registry  # noqa: PLC0415

    if not 1 <= k <= 500:
        fail(f"--k is {k}; a list has 1 to 500 items")
    with user_errors(NotAnswered, NotFound):
        response = ask_similar(target, retrieval_pb2.SimilarItemsRequest(item_ids=item, max_results=k), timeout)
        file = Registry(registry).path_of(response.bundle_id) / "catalog.npz"
    catalog = Catalog.load(file) if file.exists() else None
    titles = dict(zip(catalog.item_ids, catalog.titles, strict=True)) if catalog else {}
    out.print(similar_table(response, titles))


def embeddings(
    item: Annotated[list[str] | None, typer.Option(help="Item id; may be repeated, at most 500 times.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="User id; may be repeated, at most 64 times.")] = None,
    target: Annotated[str, typer.Option(help="Address of the retrieval service.")] = "127.0.0.1:50051",
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds.")] = 5.0,
) -> None:
    """Print vectors of items and users: kind, id, bundle_id and values as JSON, one a line; unknown items left out."""
    from tandem.common.v1 import context_pb2  # noqa: PLC0415
    from tandem.retrieval.v1 import retrieval_pb2  # noqa: PLC0415
    from tandem_cli.client import NotAnswered, ask_embeddings  # noqa: PLC0415

    users = [context_pb2.RequestContext(user_id=user_id) for user_id in user or ()]
    with user_errors(NotAnswered):
        response = ask_embeddings(target, retrieval_pb2.GetEmbeddingsRequest(item_ids=item, users=users), timeout)
    for kind, found in (("item", response.items), ("user", response.users)):
        for each in found:
            line = {"kind": kind, "id": each.id, "bundle_id": response.bundle_id, "values": list(each.values)}
            typer.echo(json.dumps(line))
