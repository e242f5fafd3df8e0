"""Popular items: with everybody, with users like this one, in the categories the user likes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_core.catalog import CodeColumn
from tandem_core.features import History, User
from tandem_core.filters import Eligibility
from tandem_core.sources.base import Found
from tandem_core.sources.popularity_tables import PopularityTables, RankedTable


@dataclass(frozen=True, slots=True)
class Popularity:
    """Popular with everybody. Score: share of all events, in [0, 1]. Knows every user."""

    tables: PopularityTables
    _by_row: NDArray[np.float32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        everybody = self.tables.everybody
        object.__setattr__(self, "_by_row", everybody.by_row(len(everybody.rows)))

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        found = first_eligible(self.tables.everybody, eligible, limit)
        return Found(found.rows, found.scores, self._by_row.__getitem__)


@dataclass(frozen=True, slots=True)
class SegmentPopularity:
    """Popular in the user's segment, filled up from wider segments and then from everybody.

    Score: in (0, 1], falling by place, since shares of different segments do not compare. Knows users with a known
    attribute of a segment.
    """

    tables: PopularityTables

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        narrow_to_wide = [table for key in user.segment_keys if (table := self.tables.segment(key)) is not None]
        if not narrow_to_wide:
            return Found()
        return _by_place(_chain([*narrow_to_wide, self.tables.everybody], eligible, limit))


@dataclass(frozen=True, slots=True)
class CategoryPopularity:
    """Popular in the user's `top` favourite categories, taken in turns: best of the first, best of the second, ...

    Score: in (0, 1], falling by place. Knows users with a history. Ties between categories go to the one whose event
    is newer, then to the vocabulary's order, so that the answer is the same in every process.
    """

    tables: PopularityTables
    categories: CodeColumn
    top: int = 2

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        favourites = favourite_categories(user.history, self.categories, self.top)
        tables = [t for name in favourites if (t := self.tables.category(name)) is not None]
        if not tables:
            return Found()
        lists = [first_eligible(table, eligible, limit).rows for table in tables]
        return _by_place(_in_turns(lists)[:limit])


def favourite_categories(history: History, categories: CodeColumn, top: int) -> list[str]:
    """Return the `top` categories by event weight."""
    codes = categories.codes[history.rows]  # [h, C]
    present = codes >= 0
    weights = np.broadcast_to(history.weights[:, None], codes.shape)[present]
    totals = np.bincount(codes[present], weights, minlength=len(categories.vocabulary))
    newest = np.full(len(totals), len(history))
    places = np.broadcast_to(np.arange(len(history))[:, None], codes.shape)[present]
    np.minimum.at(newest, codes[present], places)
    best = np.lexsort((np.arange(len(totals)), newest, -totals))[:top]
    return [categories.vocabulary[code] for code in best if totals[code] > 0]


def first_eligible(table: RankedTable, eligible: Eligibility, limit: int) -> Found:
    """Return the first `limit` eligible items of a table, looking at no more of it than needed."""
    taken, start, size = [], 0, limit + min(eligible.excluded_count, 2 * limit)
    missing = limit
    while missing > 0 and start < len(table.rows):
        kept = np.flatnonzero(eligible.keep(table.rows[start : start + size]))[:missing] + start
        taken.append(kept)
        missing -= len(kept)
        start, size = start + size, size * 4
    places = np.concatenate(taken) if taken else np.empty(0, np.intp)
    return Found(table.rows[places], table.scores[places])


def _chain(tables: Iterable[RankedTable], eligible: Eligibility, limit: int) -> np.ndarray:
    """Return up to `limit` rows, int32: all of the first table, then new ones of the next, and so on."""
    rows = np.empty(0, np.int32)
    for table in tables:
        if len(rows) >= limit:
            break
        more = first_eligible(table, eligible, limit).rows
        rows = np.concatenate([rows, more[~np.isin(more, rows)]])[:limit]
    return rows


def _in_turns(lists: list[np.ndarray]) -> np.ndarray:
    """Return the rows of all lists, the first of each, then the second of each, ..., none twice; int32."""
    places = np.concatenate([np.arange(len(rows)) for rows in lists])
    turns = np.concatenate(lists)[np.argsort(places, kind="stable")]
    _, first = np.unique(turns, return_index=True)
    return turns[np.sort(first)]


def _by_place(rows: np.ndarray) -> Found:
    return Found(rows.astype(np.int32), (1 - np.arange(len(rows)) / max(len(rows), 1)).astype(np.float32))
