"""Events as columns, and the questions that are asked of them: what rows of the table may see, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tandem_core.metrics import Relevant
from tandem_trainer.data import Dataset

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """All E events of a data set, in a stable sort by time with the order of the file for ties.

    user_ids: object [U], sorted. users: int64 [E], places in user_ids. rows: int32 [E], places in the items table.
    times: int64 [E], milliseconds. An event's place is its identity.
    """

    dataset: Dataset
    user_ids: NDArray[Any]
    users: Ints
    rows: NDArray[np.int32]
    times: Ints

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_items(self) -> int:
        return len(self.dataset.items)

    @property
    def repeats(self) -> int:
        """Events on an item that their user had before."""
        return len(self) - len(np.unique(self.users * self.n_items + self.rows))


def make_log(dataset: Dataset) -> Log:
    """Number users and items of a data set; the events' index becomes their place."""
    events = dataset.events.reset_index(drop=True)
    users, names = pd.factorize(events["user_id"], sort=True)
    rows = pd.Index(dataset.items["item_id"]).get_indexer(pd.Index(events["item_id"]))
    return Log(
        replace(dataset, events=events),
        np.asarray(names, object),
        users.astype(np.int64),
        rows.astype(np.int32),
        events["timestamp"].to_numpy(dtype=np.int64),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """U questions: what will this user turn to next? Nothing here tells.

    user_ids: object [U]. now_ms: int64 [U], when it is asked. indptr: int64 [U + 1]. rows int32, times int64, types
    object (str), values float32, all [H]: the events known of user u are those from indptr[u] to indptr[u + 1],
    oldest first.
    """

    user_ids: NDArray[Any]
    now_ms: Ints
    indptr: Ints
    rows: NDArray[np.int32]
    times: Ints
    types: NDArray[Any]
    values: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def sizes(self) -> Ints:
        """Number of events known of each user, int64 [U]."""
        return np.diff(self.indptr)

    @property
    def owners(self) -> Ints:
        """The question of each known event, int64 [H]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.sizes)

    def history(self, place: int) -> NDArray[np.int32]:
        """Return the item rows of one question's history, newest first; int32 [h]."""
        return self.rows[self.indptr[place] : self.indptr[place + 1]][::-1]

    def part(self, start: int, stop: int) -> Queries:
        """Return the questions from `start` to before `stop`."""
        stop = min(stop, len(self))
        first, last = int(self.indptr[start]), int(self.indptr[stop])
        return Queries(
            self.user_ids[start:stop],
            self.now_ms[start:stop],
            self.indptr[start : stop + 1] - first,
            self.rows[first:last],
            self.times[first:last],
            self.types[first:last],
            self.values[first:last],
        )


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """Questions and their answers.

    places: int64 [P], the events that answer, in the log; owners int64 [P], their question; rows int32 [P], their
    item. slices: name -> bool [U], kinds of users; the first is the one that the table is about. candidates: int32
    rows to be ranked, None for the whole catalogue.
    """

    queries: Queries
    places: Ints
    owners: Ints
    rows: NDArray[np.int32]
    slices: Mapping[str, Mask]
    candidates: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        return len(self.queries)

    def relevant(self, n_items: int, *, repeats: bool) -> Relevant:
        """Return the items that are right for each question; without repeats only those the user never had."""
        owners, rows = self.owners, self.rows
        if not repeats:
            had = self.queries.owners * n_items + self.queries.rows
            new = ~np.isin(owners * n_items + rows, had)
            owners, rows = owners[new], rows[new]
        return Relevant.from_pairs(owners, rows, len(self))


def held_out(
    log: Log,
    known: Ints,
    wanted: Ints,
    *,
    now_ms: int | None,
    least_known: int = 0,
    candidates: NDArray[np.int32] | None = None,
) -> HeldOut:
    """Ask a question for each user of the events `wanted`, who has the history that `known` holds of that user.

    known, wanted: places, rising. now_ms: when all are asked; None: each at the time of the user's first wanted event.
    least_known: users with fewer known events are left out.
    """
    counts = np.bincount(log.users[known], minlength=len(log.user_ids))
    users = np.unique(log.users[wanted])
    users = users[counts[users] >= least_known]
    question = np.full(len(log.user_ids), -1, np.int64)
    question[users] = np.arange(len(users))
    known, indptr = _grouped(known, question[log.users[known]], len(users))
    wanted, ends = _grouped(wanted, question[log.users[wanted]], len(users))
    events = log.dataset.events
    moments = log.times[wanted[ends[:-1]]] if now_ms is None else np.full(len(users), now_ms, np.int64)
    queries = Queries(
        log.user_ids[users],
        moments,
        indptr,
        log.rows[known],
        log.times[known],
        events["event_type"].to_numpy(dtype=object)[known],
        events["value"].to_numpy(dtype=np.float32)[known],
    )
    owners = np.repeat(np.arange(len(users), dtype=np.int64), np.diff(ends))
    everybody = {"all users": np.ones(len(users), np.bool_)}
    return HeldOut(queries, wanted, owners, log.rows[wanted], everybody, candidates)


def _grouped(places: Ints, group: Ints, n: int) -> tuple[Ints, Ints]:
    """Return the places by group, in their order within each, those of group -1 left out, and indptr [n + 1]."""
    kept = group >= 0
    places, group = places[kept], group[kept]
    counts = np.bincount(group, minlength=n)
    return places[np.argsort(group, kind="stable")], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """The events that something is fitted on.

    dataset: the tables with these events alone. places: int64 [E], rising. users: int64 [E], 0 to n_users - 1. rows:
    int32 [E]. times: int64 [E], rising.
    """

    dataset: Dataset
    places: Ints
    users: Ints
    n_users: int
    rows: NDArray[np.int32]
    times: Ints

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_items(self) -> int:
        return len(self.dataset.items)

    @property
    def pairs(self) -> tuple[Ints, NDArray[np.int32]]:
        """Users and item rows without the repeats, each [p]."""
        keys = np.unique(self.users * self.n_items + self.rows)
        return keys // self.n_items, (keys % self.n_items).astype(np.int32)


def make_training(log: Log, places: Ints) -> Training:
    """Take the events at `places` (rising) out of the log, index unchanged."""
    users, names = pd.factorize(log.users[places])
    dataset = replace(log.dataset, events=log.dataset.events.iloc[places])
    return Training(dataset, places, users.astype(np.int64), len(names), log.rows[places], log.times[places])


def joined(*parts: Sequence[int] | Ints) -> Ints:
    """Return several lists of places as one, rising."""
    return np.sort(np.concatenate([np.asarray(part, np.int64) for part in parts]))
