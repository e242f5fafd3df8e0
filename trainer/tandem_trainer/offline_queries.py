"""Queries of the past: what a request would have looked like just before events that we know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tandem_core.catalog import Catalog
from tandem_core.metrics import Relevant
from tandem_core.query import Query, UserEvents


@dataclass(frozen=True, slots=True, eq=False)
class OfflineQueries:
    """U queries and what those users did next.

    relevant: catalogue rows each user turned to, without those in the history (a list that leaves out seen items
    cannot have them) and without items the catalogue lacks. history: catalogue rows each user had before.
    history_sizes: int64 [U], events before the query. outcomes: the events behind `relevant`, those that it leaves out
    too.
    """

    queries: Sequence[Query]
    relevant: Relevant
    history: Relevant
    history_sizes: np.ndarray
    outcomes: Sequence[UserEvents]

    def __len__(self) -> int:
        return len(self.queries)


def make_queries(
    before: pd.DataFrame,
    after: pd.DataFrame,
    users: pd.DataFrame,
    attributes: Sequence[str],
    catalog: Catalog,
    *,
    context: Sequence[str] = (),
    max_results: int,
    most_users: int | None = None,
    moments: int = 1,
    seed: int = 0,
) -> OfflineQueries:
    """Return a query for each user of `after`, asked at the time of its first event there.

    before, after: events (user_id, item_id, timestamp in ms, event_type, value), each in a stable sort by timestamp.
    The history is what `before` holds of the user; it may hold later events only where the split is not by time.
    attributes: user columns to send. context: event columns to send, as the first event that is asked for has them: a
    request knows its own device. most_users: a seeded sample of that many. moments: so many queries per user (one
    per event where there are fewer), spread over its events of `after`, those before each being history by then.
    """
    names = np.unique(after["user_id"].to_numpy(dtype=str))
    if most_users is not None and len(names) > most_users:
        names = np.sort(np.random.default_rng(seed).choice(names, most_users, replace=False))
    truth, past = _by_user(after, names), _by_user(before, names)
    profiles = _profiles(users, attributes, names)
    contexts = _contexts(after, context, names)
    queries, relevant, history, outcomes = [], [], [], []
    for i, name in enumerate(names):
        for start in np.unique(np.arange(moments) * len(truth[i]) // moments):
            events, wanted = past[i].merged_with(_part(truth[i], 0, start)), _part(truth[i], start, len(truth[i]))
            history.append(catalog.rows(events.item_ids))
            relevant.append(np.setdiff1d(catalog.rows(wanted.item_ids), history[-1]))
            outcomes.append(wanted)
            queries.append(
                Query(
                    request_id=f"offline-{name}" if not start else f"offline-{name}-{start}",
                    user_id=str(name),
                    now_ms=int(wanted.timestamps[0]),
                    max_results=max_results,
                    events=events,
                    attributes=profiles[i],
                    context=contexts[i][start] if context else {},
                )
            )
    sizes = np.array([len(query.events) for query in queries], np.int64)
    return OfflineQueries(queries, _ragged(relevant), _ragged(history), sizes, outcomes)


def _part(events: UserEvents, start: int, stop: int) -> UserEvents:
    span = slice(start, stop)
    return UserEvents(events.item_ids[span], events.timestamps[span], events.event_types[span], events.values[span])


def _by_user(events: pd.DataFrame, names: np.ndarray) -> list[UserEvents]:
    """Return the events of each name, in their order."""
    owner = pd.Index(names).get_indexer(pd.Index(events["user_id"]))
    kept = np.flatnonzero(owner >= 0)
    kept = kept[np.argsort(owner[kept], kind="stable")]
    ends = np.cumsum(np.bincount(owner[kept], minlength=len(names)))
    items = events["item_id"].to_numpy(dtype=object)[kept]
    types = events["event_type"].to_numpy(dtype=object)[kept]
    times = events["timestamp"].to_numpy(dtype=np.int64)[kept]
    values = events["value"].to_numpy(dtype=np.float32)[kept]
    return [
        UserEvents(items[start:end].tolist(), times[start:end], types[start:end].tolist(), values[start:end])
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _contexts(events: pd.DataFrame, context: Sequence[str], names: np.ndarray) -> list[list[dict[str, str]]]:
    """Return what is known of the context of each name's events, in their order."""
    found: list[list[dict[str, str]]] = [[] for _ in names]
    owners = pd.Index(names).get_indexer(pd.Index(events["user_id"]))
    told = events.reindex(columns=list(context))  # a column that is not there is unknown, as in training
    for owner, values in zip(owners, told.itertuples(index=False, name=None), strict=True):
        if owner >= 0:
            found[owner].append(_texts(context, values))
    return found


def _profiles(users: pd.DataFrame, attributes: Sequence[str], names: np.ndarray) -> list[dict[str, str]]:
    table = users.set_index("user_id").reindex(names)[list(attributes)]
    return [_texts(attributes, row) for row in table.itertuples(index=False)]


def _texts(names: Sequence[str], values: Iterable[object]) -> dict[str, str]:
    return {name: value for name, value in zip(names, values, strict=True) if isinstance(value, str)}


def _ragged(rows: Sequence[np.ndarray]) -> Relevant:
    ends = np.cumsum([0, *(len(each) for each in rows)])
    flat = np.concatenate(rows) if rows else np.empty(0, np.int32)
    return Relevant(ends.astype(np.int64), flat.astype(np.int32))
