"""Items like given ones, by the vectors of the item tower."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.errors import NotFound
from tandem_core.filters import Condition, Eligibility
from tandem_core.index.base import VectorIndex, top_k
from tandem_core.sources.base import Found, nearest
from tandem_core.sources.live import LIVE, LiveItems
from tandem_core.sources.two_tower import TwoTower

SOURCE = "two_tower"
NO_DIRECTION = 1e-6  # a mean of unit vectors shorter than this is what rounding left of vectors that cancel out
_NAMED = 3  # unknown ids in an error's text, each cut to _ID_SHOWN characters: all of fifty would not fit a trailer
_ID_SHOWN = 64


@dataclass(frozen=True, slots=True)
class SimilarQuery:
    """What to look for, checked. max_results: at least 1. condition: None means all items."""

    item_ids: Sequence[str]
    max_results: int
    condition: Condition | None = None


def similar_items(bundle: Bundle, query: SimilarQuery) -> CandidateBatch:
    """Return up to max_results items near the mean of the given ones, best first, ties to the smaller row.

    Scores: cosine with the mean, in [-1, 1]; columns rank:two_tower and score:two_tower. The given items are never
    returned. Empty where nothing matches the condition, and where the given vectors cancel out.
    Raises InvalidRequest for columns that the bundle does not have, NotFound for items that it does not have.
    """
    if query.condition is not None:
        query.condition.check(bundle.catalog, "filter")
    rows = _rows(bundle, query.item_ids)
    direction = mean_direction(bundle.item_vectors[rows])
    found = Found()
    if direction is not None:
        eligible = Eligibility(bundle.catalog, rows, query.condition)
        found = nearest(_index(bundle), direction, eligible, query.max_results)
        found = _with_live(found, bundle, direction, eligible, query.max_results)
    # An index may settle ties as it likes (1 - distance makes some where its graph saw none): here rows do.
    batch = CandidateBatch(found.rows, found.scores).best_first()
    ranks = np.arange(1, len(batch) + 1, dtype=np.int32)
    return batch.with_columns({f"rank:{SOURCE}": ranks, f"score:{SOURCE}": batch.scores})


def mean_direction(vectors: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return the mean of float32 [n, D], n > 0, at unit length; None where the vectors cancel out."""
    mean = vectors.mean(axis=0)
    length = float(np.linalg.norm(mean))
    return None if length < NO_DIRECTION else mean / np.float32(length)


def _rows(bundle: Bundle, item_ids: Sequence[str]) -> NDArray[np.int32]:
    """Return each item's row once, rising, so that order and repetition do not change the sum; raises NotFound."""
    if unknown := [item_id for item_id in item_ids if item_id not in bundle.catalog.row_of]:
        named = ", ".join(repr(item_id[:_ID_SHOWN]) for item_id in unknown[:_NAMED])
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        raise NotFound(f"bundle {bundle.id} has no item {named}{more}: ask for items of its catalogue")
    return np.unique(bundle.catalog.rows(item_ids))


def _with_live(
    found: Found, bundle: Bundle, direction: NDArray[np.float32], eligible: Eligibility, limit: int
) -> Found:
    """Return the best of what the index found and of the live items, which no index holds."""
    live = bundle.sources.get(LIVE)
    more = live.nearest(direction, eligible, limit) if isinstance(live, LiveItems) else Found()
    more_rows = ~np.isin(more.rows, found.rows)  # where the index gave way to a look at all items, they are there
    rows = np.concatenate([found.rows, more.rows[more_rows]])
    return Found(*top_k(np.concatenate([found.scores, more.scores[more_rows]]), rows, limit))


def _index(bundle: Bundle) -> VectorIndex:
    source = bundle.sources.get(SOURCE)
    if not isinstance(source, TwoTower):
        raise ValueError(f"bundle {bundle.id} was loaded without the index of {SOURCE}: load it for retrieval")
    return source.index
