"""Live items into the items table, from which the next bundle is trained."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from tandem_core.stores.live import LiveItem
from tandem_trainer.data.schema import ITEM_COLUMNS, TableSchema


def with_live_items(
    items: pd.DataFrame, schema: TableSchema, live: Iterable[LiveItem], deleted: Iterable[str]
) -> pd.DataFrame:
    """Return the table with each live item in place of its row, or behind all, and without those deleted.

    items: a clean table, see `Dataset`; empty with its columns is fine. Vector columns, which live items have not, stay
    as they were. An item keeps the values of no other column: what its owner did not send is unknown.
    """
    columns = [*ITEM_COLUMNS, *schema.item_numeric, *schema.item_categorical, *schema.item_vector]
    rows = {row["item_id"]: row for row in items[columns].to_dict("records")}
    for item_id in deleted:
        rows.pop(item_id, None)
    for item in live:
        before = rows.get(item.item_id, {})
        rows[item.item_id] = _row(item, schema) | {name: before.get(name) for name in schema.item_vector}
    table = pd.DataFrame.from_records(list(rows.values()), columns=columns)
    return table.astype({"created_at": "Int64", "price": "float64", **dict.fromkeys(schema.item_numeric, "float64")})


def _row(item: LiveItem, schema: TableSchema) -> dict[str, object]:
    created = item.numbers.get("created_at")
    return {
        "item_id": item.item_id,
        "title": item.title,
        "text": item.text,
        "categories": list(item.codes.get("categories", ())),
        "creator": next(iter(item.codes.get("creator", ())), None),
        "created_at": pd.NA if created is None else round(created * 1000),
        "price": item.numbers.get("price", np.nan),
        **{name: item.numbers.get(name, np.nan) for name in schema.item_numeric},
        **{name: next(iter(item.codes.get(name, ())), None) for name in schema.item_categorical},
    }
