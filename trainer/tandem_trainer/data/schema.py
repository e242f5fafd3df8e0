"""Which columns the tables have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from tandem_trainer.data.errors import DataError

EVENT_COLUMNS = ("user_id", "item_id", "timestamp", "event_type", "value")
EVENT_TEXT = "text"  # what the user wrote, in tables whose schema has `event_text`
ANONYMOUS = "is_anonymous"  # the user attribute that is "1" where a user id stands for one event of nobody known
ITEM_COLUMNS = ("item_id", "title", "text", "categories", "creator", "created_at", "price")


@dataclass(frozen=True, slots=True)
class TableSchema:
    """Which columns a data set has beyond the fixed ones.

    Raises DataError for a segment over an attribute that is not declared, or a name declared twice.
    """

    item_numeric: tuple[str, ...] = ()
    item_categorical: tuple[str, ...] = ()
    item_vector: tuple[str, ...] = ()
    user_attributes: tuple[str, ...] = ()
    segments: tuple[tuple[str, ...], ...] = ()  # for segment popularity, most specific first
    event_text: bool = False  # events have a column `text`: what the user wrote, such as a review
    event_context: tuple[str, ...] = ()  # columns of events: facts of the request they answered, such as the device

    def __post_init__(self) -> None:
        extra = (*ITEM_COLUMNS, *self.item_numeric, *self.item_categorical, *self.item_vector)
        events = (*EVENT_COLUMNS, EVENT_TEXT, *self.event_context)
        for names in (events, extra, ("user_id", *self.user_attributes)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise DataError(f"column {twice[0]!r} is declared twice; declare it once")
        for segment in self.segments:
            unknown = [name for name in segment if name not in self.user_attributes]
            if unknown or not segment:
                raise DataError(
                    f"segment {list(segment)}: {unknown} is no user attribute; known: {list(self.user_attributes)}"
                )


def require_columns(frame: pd.DataFrame, names: Sequence[str], source: str) -> None:
    """Raise DataError naming `source` and the first of `names` that `frame` lacks."""
    for name in names:
        if name not in frame.columns:
            raise DataError(f"{source}: column {name!r} is missing; it has {[str(c) for c in frame.columns]}")
