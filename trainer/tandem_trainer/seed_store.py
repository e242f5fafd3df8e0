"""Putting a data set's events and users into the store, since bundles hold no users."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from tandem_core.stores.base import Outcome, StoredEvent, UserStore
from tandem_trainer.data.schema import EVENT_COLUMNS, EVENT_TEXT


def store_events(store: UserStore, events: pd.DataFrame) -> int:
    """Store events in one transaction; return how many were new. Repeating it stores nothing twice.

    Users who asked to be forgotten stay so: theirs are left out.
    """
    forgotten = store.forgotten_among(events["user_id"].unique().tolist())
    events = events[~events["user_id"].isin(forgotten)]
    return store.add_events(_stored(events)).count(Outcome.STORED)


def store_users(store: UserStore, users: pd.DataFrame) -> int:
    """Store the attributes of users, but for those who asked to be forgotten; return how many users."""
    users = users[~users["user_id"].isin(store.forgotten_among(users["user_id"].tolist()))]
    names = [name for name in users.columns if name != "user_id"]
    rows = users[["user_id", *names]].itertuples(index=False, name=None)
    return store.put_users(
        (user_id, {name: value for name, value in zip(names, values, strict=True) if isinstance(value, str)})
        for user_id, *values in rows
    )


def _stored(events: pd.DataFrame) -> Iterator[StoredEvent]:
    """Yield events with an insert_id made of their content and, among equals, their number."""
    columns = ["user_id", "item_id", "timestamp", "event_type"]
    names = [name for name in events.columns if name not in (*EVENT_COLUMNS, EVENT_TEXT)]
    numbers = events.groupby(columns, sort=False).cumcount()
    values = events["value"].to_numpy(dtype=np.float64)
    facts = events[names].itertuples(index=False, name=None)
    rows = zip(*(events[name].tolist() for name in columns), numbers.tolist(), values.tolist(), facts, strict=True)
    for user_id, item_id, timestamp, event_type, number, value, texts in rows:
        text = f"{user_id}\0{item_id}\0{timestamp}\0{event_type}\0{number}"
        insert_id = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        context = {name: text for name, text in zip(names, texts, strict=True) if isinstance(text, str)}
        known = None if np.isnan(value) else value
        yield StoredEvent(insert_id, user_id, item_id, timestamp, event_type, known, context=context)
