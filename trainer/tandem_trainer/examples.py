"""Training examples of the user tower: what a user had done before each event, gathered on the fly.

A `Batch` holds exactly what `tandem_core.features.user_tower_inputs` gives for the same user at that moment (a test
holds them together), but as item rows: the item tower is trained along, so the vectors do not exist yet.
A `Sequences` batch holds the same for all events of a stretch of a user's life at once: one pass over the stretch
predicts each of its events, which is what makes training on long histories affordable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, encode_context


@dataclass(frozen=True, slots=True)
class Batch:
    """B examples, histories newest first and padded to the longest among them (at least 1).

    history_rows int64 [B, H] (0 where masked). history_mask float32 [B, H]. history_types int64 [B, H]. history_ages
    int64 [B, H], milliseconds before the target.
    user_attributes int64 [B, A]. context int64 [B, 2]. target_rows int64 [B]. weights float32 [B].
    """

    history_rows: NDArray[np.int64]
    history_mask: NDArray[np.float32]
    history_types: NDArray[np.int64]
    history_ages: NDArray[np.int64]
    user_attributes: NDArray[np.int64]
    context: NDArray[np.int64]
    target_rows: NDArray[np.int64]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.target_rows)


@dataclass(frozen=True, slots=True)
class Sequences:
    """B stretches of users' lives, newest first and padded to the longest: place i holds an event and what came next.

    history_rows, history_types, history_ages int64 [B, H], history_mask float32 [B, H], user_attributes int64 [B, A]:
    as in `Batch`; the mask is also 0 at the place before a user's first event. context int64 [B, H, 2], of the moment
    of the next event. target_rows int64 [B, H], the next event, -1 where there is none. weights float32 [B, H], 0
    where there is none. users int64 [B].
    """

    history_rows: NDArray[np.int64]
    history_mask: NDArray[np.float32]
    history_types: NDArray[np.int64]
    history_ages: NDArray[np.int64]
    user_attributes: NDArray[np.int64]
    context: NDArray[np.int64]
    target_rows: NDArray[np.int64]
    weights: NDArray[np.float32]
    users: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Examples:
    """T examples over P positive events of U users, in the order of users and, for each, of time.

    rows, types: int32 [P]. timestamps: int64 [P]. weights: float32 [P], above 0. starts: int64 [P], place of the first
    event of the same user.
    users: int32 [P]. targets: int64 [T], places of the events to predict; their histories are the places before.
    attributes: int64 [U, A].
    """

    schema: FeatureSchema
    n_items: int
    rows: NDArray[np.int32]
    types: NDArray[np.int32]
    timestamps: NDArray[np.int64]
    weights: NDArray[np.float32]
    starts: NDArray[np.int64]
    users: NDArray[np.int32]
    targets: NDArray[np.int64]
    attributes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)

    def target_counts(self) -> NDArray[np.int64]:
        """Return int64 [N], how often each catalogue item is a target."""
        return np.bincount(self.rows[self.targets], minlength=self.n_items)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Return the examples at `indices` (positions among the T)."""
        places = self.targets[indices]
        lengths = np.minimum(places - self.starts[places], self.schema.history_length)
        back = np.arange(1, max(1, lengths.max(initial=0)) + 1)
        mask = back <= lengths[:, None]  # [B, H]
        history = np.where(mask, places[:, None] - back, 0)
        ages = self.timestamps[places[:, None]] - self.timestamps[history]
        return Batch(
            history_rows=np.where(mask, self.rows[history], 0).astype(np.int64),
            history_mask=mask.astype(np.float32),
            history_types=np.where(mask, self.types[history], 0).astype(np.int64),
            history_ages=np.where(mask, ages, 0),
            user_attributes=self.attributes[self.users[places]],
            context=encode_context(self.timestamps[places]),
            target_rows=self.rows[places].astype(np.int64),
            weights=self.weights[places],
        )

    def stretches(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Cut every user's events into stretches of at most `history_length`, elsewhere each time.

        Returns int64 [S, 2], the places of a stretch's oldest event and, exclusive, of its newest. All events must be
        targets.
        """
        if len(self.targets) != len(self.rows):
            raise ValueError(f"{len(self.targets)} of {len(self.rows)} events are targets; stretches need all of them")
        length = self.schema.history_length
        place = np.arange(len(self.rows))
        counts = np.bincount(self.users)
        # A user's oldest stretch has 1..length events, so that every event is near a stretch's beginning at times.
        oldest = np.where(counts > length, rng.integers(1, length + 1, len(counts)), length)[self.users]
        passed = place - self.starts
        cuts = np.flatnonzero((passed == 0) | ((passed >= oldest) & ((passed - oldest) % length == 0)))
        return np.stack([cuts, np.append(cuts[1:], len(place))], axis=1)

    def sequences(self, stretches: NDArray[np.int64]) -> Sequences:
        """Return the events of the stretches int64 [B, 2], each with what its user had done before."""
        oldest, end = stretches[:, :1], stretches[:, 1:]
        targets = end - 1 - np.arange((end - oldest).max())  # [B, H]
        inside = targets >= oldest
        targets = np.where(inside, targets, oldest)
        known = inside & (targets > self.starts[targets])
        history = np.where(known, targets - 1, 0)
        now = self.timestamps[targets[:, :1]]
        return Sequences(
            history_rows=np.where(known, self.rows[history], 0).astype(np.int64),
            history_mask=known.astype(np.float32),
            history_types=np.where(known, self.types[history], 0).astype(np.int64),
            history_ages=np.where(known, now - self.timestamps[history], 0),
            user_attributes=self.attributes[self.users[oldest[:, 0]]],
            context=encode_context(self.timestamps[targets]),
            target_rows=np.where(inside, self.rows[targets], -1).astype(np.int64),
            weights=np.where(inside, self.weights[targets], 0).astype(np.float32),
            users=self.users[oldest[:, 0]].astype(np.int64),
        )

    def seen_pairs(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all that users had chosen before their targets, however long ago.

        Two int64 [S]: positions in `indices`, and catalogue rows.
        """
        places = self.targets[indices]
        counts = places - self.starts[places]
        of = np.repeat(np.arange(len(indices)), counts)
        ends = np.repeat(np.cumsum(counts) - counts, counts)
        return of, self.rows[self.starts[places][of] + np.arange(len(of)) - ends].astype(np.int64)


def make_examples(
    events: pd.DataFrame,
    catalog: Catalog,
    schema: FeatureSchema,
    users: pd.DataFrame,
    is_target: NDArray[np.bool_] | None = None,
) -> Examples:
    """Return an example per positive event, each user's first one too (with an empty history).

    events: user_id, item_id, timestamp (ms), event_type, in a stable sort by timestamp; value where it matters. Events
    of unknown items are left out; events of weight 0 or less are neither targets nor history. users: user_id and
    attributes; users and values it lacks are unknown. is_target: bool [len(events)], which events to predict (all:
    None): for validation give train and validation events, and mark the latter.
    """
    rows = _codes(events["item_id"], catalog.item_ids)
    types = _codes(events["event_type"], [t.name for t in schema.event_types]) + 1
    weights = schema.event_weights(types, event_values(events))
    positive = (rows >= 0) & (weights > 0)
    names, user_of = np.unique(events["user_id"].to_numpy(dtype=str)[positive], return_inverse=True)
    order = np.argsort(user_of, kind="stable")  # by user, and by time as the events are
    timestamps = events["timestamp"].to_numpy(dtype=np.int64)[positive][order]
    same_user = user_of[order][1:] == user_of[order][:-1]
    if (same_user & (np.diff(timestamps) < 0)).any():
        raise ValueError("events are not sorted by timestamp")
    counts = np.bincount(user_of, minlength=len(names))
    wanted = np.ones(len(order), np.bool_) if is_target is None else is_target[positive][order]
    return Examples(
        schema=schema,
        n_items=len(catalog),
        rows=rows[positive][order],
        types=types[positive][order],
        timestamps=timestamps,
        weights=weights[positive][order],
        starts=np.repeat(np.cumsum(counts) - counts, counts),
        users=user_of[order].astype(np.int32),
        targets=np.flatnonzero(wanted),
        attributes=_attribute_codes(schema, users, names),
    )


def user_columns(batch: Batch | Sequences) -> tuple[NDArray[Any], ...]:
    """Return what a user tower reads beside the history's vectors, in the order of its arguments."""
    return batch.history_mask, batch.history_types, batch.history_ages, batch.user_attributes, batch.context


def event_values(events: pd.DataFrame) -> NDArray[np.float32]:
    """Return float32 [n], each event's value: NaN where it has none, and where there is no such column."""
    return events["value"].to_numpy(dtype=np.float32) if "value" in events else np.full(len(events), np.nan, np.float32)


def _attribute_codes(schema: FeatureSchema, users: pd.DataFrame, names: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return int64 [U, A] as `FeatureSchema.encode_attributes` gives for each user; 0 where unknown."""
    table = users.drop_duplicates("user_id", keep="last").set_index("user_id").reindex(names)
    columns = [
        _codes(table[name], vocabulary).astype(np.int64) + 1 if name in table else np.zeros(len(names), np.int64)
        for name, vocabulary in schema.user_attributes.items()
    ]
    return np.stack(columns, axis=1) if columns else np.empty((len(names), 0), np.int64)


def _codes(values: pd.Series[str], vocabulary: Sequence[str]) -> NDArray[np.int32]:
    """Return int32, the place of each value in the vocabulary, -1 where it is not there."""
    return np.asarray(pd.Index(vocabulary).get_indexer(pd.Index(values)), np.int32)
