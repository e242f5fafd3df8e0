"""Commands around events: write one, forget a user, export all for training."""
# ruff: noqa: PLC0415  (grpc and pyarrow take their time to import: only the commands that use them pay)

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from tandem_cli.console import fail, named_texts, out, user_errors
from tandem_cli.offline import StoreOption

TargetOption = Annotated[str, typer.Option(help="Address of the writer process.")]
TimeoutOption = Annotated[float, typer.Option(min=0.001, help="Seconds.")]
TARGET = "127.0.0.1:50053"


class Kind(enum.StrEnum):
    """Which events to export."""

    CHOSEN = "chosen"
    IMPRESSIONS = "impressions"
    ALL = "all"


def write_event(
    user: Annotated[str, typer.Option(help="User id.")],
    item: Annotated[str, typer.Option(help="Item id.")],
    type_: Annotated[str, typer.Option("--type", help="click, purchase, impression, ...")] = "click",
    value: Annotated[float | None, typer.Option(help="Rating, dwell share or quantity.")] = None,
    insert_id: Annotated[str, typer.Option(help="Events with an id that is known are not stored again.")] = "",
    context: Annotated[list[str] | None, typer.Option(help="name=value, such as device=tv; may be repeated.")] = None,
    target: TargetOption = TARGET,
    timeout: TimeoutOption = 5.0,
) -> None:
    """Store one event of a user, as of now; the user's next request knows it."""
    from tandem.events.v1 import events_pb2
    from tandem_cli.client import NotAnswered, attributes_of, write_events

    facts = attributes_of(named_texts("--context", context))
    event = events_pb2.Event(
        insert_id=insert_id, user_id=user, item_id=item, event_type=type_, value=value, context=facts
    )
    with user_errors(NotAnswered):
        (result,) = write_events(target, events_pb2.WriteEventsRequest(events=[event]), timeout).results
    if result.outcome == events_pb2.EVENT_OUTCOME_REFUSED:
        fail(f"{result.violation.field.partition('.')[2]}: {result.violation.description}")
    stored = result.outcome == events_pb2.EVENT_OUTCOME_STORED
    out.print("stored" if stored else "stored before under this insert_id")


def forget_user(
    user: Annotated[str, typer.Option(help="User id.")],
    target: TargetOption = TARGET,
    timeout: TimeoutOption = 60.0,
) -> None:
    """Delete everything stored of a user and keep the user out of training data; prints a receipt."""
    from tandem.events.v1 import events_pb2
    from tandem_cli.client import NotAnswered
    from tandem_cli.client import forget_user as ask

    with user_errors(NotAnswered):
        receipt = ask(target, events_pb2.ForgetUserRequest(user_id=user), timeout)
    out.print(
        f"receipt {receipt.receipt_id}, {receipt.forgotten.ToJsonString()}: {receipt.deleted_events} events, "
        f"{receipt.deleted_impressions} impressions, {receipt.deleted_decisions} decisions, "
        f"{'attributes' if receipt.deleted_attributes else 'no attributes'} deleted",
        highlight=False,
    )


def export_events(
    store: StoreOption,
    file: Annotated[Path, typer.Option("--out", help="DATA/events.parquet, or a part: DATA/events.parquet/2.parquet")],
    after: Annotated[int, typer.Option(min=0, help="Only events with a sequence number above this one.")] = 0,
    kind: Annotated[Kind, typer.Option(help="What users chose, what they were shown, or both.")] = Kind.CHOSEN,
    context: Annotated[
        list[str] | None, typer.Option(help="A fact of events that gets a column, such as device; may be repeated.")
    ] = None,
) -> None:
    """Write the stored events as a table that `tandem train --data` reads; forgotten users are left out."""
    from tandem_core.stores.base import StoreUnavailable
    from tandem_core.stores.open import open_store
    from tandem_trainer import export_events as exporting

    with user_errors(ValueError, StoreUnavailable, OSError):
        done = exporting.export_events(
            open_store(store), file, after=after, kind=exporting.Kind(kind.value), context=context or ()
        )
    where = f"in {file}" if done.events else "(no file written)"
    left_out = f", {done.left_out} of forgotten users left out" if done.left_out else ""
    out.print(f"{done.events} events {where}{left_out}; next time: --after {done.last_sequence}", highlight=False)
