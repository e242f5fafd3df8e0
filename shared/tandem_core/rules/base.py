"""What rules are given, and what every rule is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.catalog import Catalog
from tandem_core.features import History
from tandem_core.query import Regime, Seen

Array = NDArray[Any]
Scores = NDArray[np.float32]  # [n], one for each candidate, in the batch's order
Order = NDArray[np.intp]  # [n], positions in the batch, best first
Mask = NDArray[np.bool_]  # [n]


def _no_history() -> History:
    return History(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRequest:
    """What rules may know of one request; time and chance come in here, so that a replay gives the same list.

    slots: length of the list that will be shown, 1 or more. now_ms: milliseconds since 1970. seed: of every random
    choice. seen: treatment of items in `interacted` (int32 rows). facts: attributes of the user and of the request.
    """

    slots: int
    now_ms: int
    seed: int = 0
    regime: Regime = Regime.UNKNOWN
    seen: Seen = Seen.ALLOW
    interacted: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    history: History = field(default_factory=_no_history)
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ItemTables:
    """What one bundle knows of its items, N rows in the first axis of each table: made once, read by row.

    Names: events (int, training events), popularity (float in [0, 1]), created_at (float, seconds since 1970, NaN where
    unknown; absent where the catalogue has no such column), vectors and content (float, unit rows), code:<column> (int,
    first value of a text column, -1 for none), codes:<column> (int [N, C], all values).
    """

    catalog: Catalog
    tables: Mapping[str, Array]

    @classmethod
    def of(cls, bundle: Bundle) -> ItemTables:
        catalog = bundle.catalog
        tables: dict[str, Array] = {
            "events": catalog.event_counts,
            "popularity": bundle.popularity_level,
            "vectors": bundle.item_vectors,
            "content": bundle.content_vectors,
        }
        if "created_at" in catalog.numbers:
            tables["created_at"] = catalog.numbers["created_at"]
        for name, column in catalog.codes.items():
            tables |= {f"code:{name}": column.codes[:, 0], f"codes:{name}": column.codes}
        return cls(catalog, tables)


# Columns that the caller of the chain may bring along in the batch, and what holds where it does not.
# impressions: int [n], how often this user was shown the item lately. last_shown_age_s: float [n], seconds since the
# last time; read only where impressions > 0. item_impressions, item_clicks: int [n], of the item with all users.
BROUGHT = ("impressions", "last_shown_age_s", "item_impressions", "item_clicks")


@dataclass(frozen=True, slots=True)
class Given:
    """n candidates, the request they are for, and what the bundle knows of items."""

    batch: CandidateBatch
    request: RuleRequest
    items: ItemTables

    def __len__(self) -> int:
        return len(self.batch)

    def column(self, name: str, at: Order | Mask | None = None) -> Array:
        """Return a column of the batch or, gathered only now, of the catalogue; at: of these positions alone."""
        column = self.batch.columns.get(name)
        if column is not None:
            return column if at is None else column[at]
        if name in BROUGHT:
            return np.zeros(len(self) if at is None else len(np.arange(len(self))[at]), np.int64)
        rows = self.batch.rows if at is None else self.batch.rows[at]
        return self.items.tables[name].take(rows, axis=0)

    def has(self, name: str) -> bool:
        """Tell whether `column` knows the name."""
        return name in self.batch.columns or name in BROUGHT or name in self.items.tables

    @property
    def age_s(self) -> NDArray[np.float64]:
        """float64 [n], seconds since the item was made; NaN where unknown."""
        if not self.has("created_at"):
            return np.full(len(self), np.nan)
        return np.asarray(self.request.now_ms / 1000 - self.column("created_at"), np.float64)


class FilterRule(Protocol):
    """Says who stays. Pure, as all rules are: no I/O, no clock, no randomness of its own; parameters are fields."""

    def keep(self, given: Given) -> Mask:
        """Return bool [n]: the candidates that may be shown."""
        ...


class ScoreRule(Protocol):
    """Changes scores. They arrive finite; after Normalise they start in [0, 1]."""

    def __call__(self, scores: Scores, given: Given) -> Scores:
        """Return the new scores, float32 [n], in the batch's order; finite where those given are."""
        ...


class OrderRule(Protocol):
    """Changes the order, and where its paper says so the scores."""

    def __call__(self, order: Order, scores: Scores, given: Given) -> tuple[Order, Scores]:
        """Return the positions in their new order, none lost, and the scores in the batch's order."""
        ...


def scaled(scores: Scores, factor: Array | float) -> Scores:
    """Return score + (factor - 1) * |score|: the product, but a factor below 1 lowers negative scores too."""
    return (scores + (factor - 1) * np.abs(scores)).astype(np.float32, copy=False)


def is_among(rows: NDArray[np.int32], few: NDArray[np.int32]) -> Mask:
    """Return bool [n]: which rows are among a few others; a third of what np.isin takes for hundreds of them."""
    if not len(few):
        return np.zeros(len(rows), np.bool_)
    rising = np.sort(few)
    at = np.searchsorted(rising, rows)
    found: Mask = rising[np.minimum(at, len(rising) - 1)] == rows
    return found
