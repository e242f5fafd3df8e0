"""The ranker's columns about a candidate and one event of the history: what attention over the history looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import MS_PER_HOUR, History

if TYPE_CHECKING:
    from tandem_core.bundle import Bundle

KINDS = ("known", "taste", "content", "next", "gap")
"""known: 1 where there is such an event. taste, content: cosines with the event's item. next: what the item-to-item
model says of the candidate after the event's item alone. gap: logarithm of 1 + hours since the event."""
MOST = 100  # events that may have columns
_PREFIX = "event_"


def event_names(events: int) -> list[str]:
    """Return the columns of the `events` newest events, kind by kind, the newest first."""
    return [f"{_PREFIX}{kind}:{i}" for kind in KINDS for i in range(events)]


def events_of(names: Sequence[str]) -> list[list[int]]:
    """Return where among the names the columns of each kind are, as lists of equal length, newest event first."""
    place = {name: i for i, name in enumerate(names)}
    events = sum(name.startswith(f"{_PREFIX}known:") for name in names)
    return [[place[f"{_PREFIX}{kind}:{i}"] for i in range(events)] for kind in KINDS]


def event_columns(
    names: Sequence[str], rows: NDArray[np.int32], history: History, bundle: Bundle, now_ms: int
) -> dict[str, NDArray[np.float32]]:
    """Return the columns of this kind among `names`, float32 [n] each; those of events that never were are left out."""
    wanted = sum(name.startswith(f"{_PREFIX}known:") for name in names)
    newest = history.newest(wanted)
    if not len(newest) or not len(rows):
        return {}
    n, h = len(rows), len(newest)
    gap = np.log1p(np.maximum(now_ms - newest.timestamps, 0) / MS_PER_HOUR)
    next_items = bundle.ranker_tables.next_items
    blocks = {
        "known": np.ones((h, n), np.float32),
        "taste": bundle.item_vectors[newest.rows] @ bundle.item_vectors.take(rows, axis=0).T,
        "content": bundle.content_vectors[newest.rows] @ bundle.content_vectors.take(rows, axis=0).T,
        "next": np.zeros((h, n), np.float32) if next_items is None else next_items.block(newest.rows, rows),
        "gap": np.broadcast_to(gap[:, None], (h, n)),
    }
    return {f"{_PREFIX}{kind}:{i}": blocks[kind][i] for kind in KINDS for i in range(h)}
