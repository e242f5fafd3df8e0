"""The sources of a bundle over a catalogue that has live items behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tandem_core.features import History, User
from tandem_core.filters import Eligibility
from tandem_core.index.base import Rows, Scores, VectorIndex
from tandem_core.sources.base import Found, ScoreRows, Source
from tandem_core.sources.content_neighbours import ContentNeighbours
from tandem_core.sources.live import LIVE, LiveItems
from tandem_core.sources.two_tower import TwoTower


@dataclass(frozen=True, slots=True)
class Longer:
    """An index that searches the bundle's items, with the vectors of live ones behind them: they can be scored."""

    index: VectorIndex
    vectors: NDArray[np.float32]

    def search(self, query: NDArray[np.float32], k: int) -> tuple[Rows, Scores]:
        return self.index.search(query, min(k, len(self.index.vectors)))


@dataclass(frozen=True, slots=True)
class BundleOnly:
    """A source that knows the first n rows alone: it neither sees nor finds live items, and gives them its lowest."""

    source: Source
    n: int

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        if (user.history.rows >= self.n).any():
            user = replace(user, history=_without_live(user.history, self.n))
        found = self.source.find(user, eligible.within_bundle(), limit)
        if found.score_rows is None:
            return found
        return replace(found, score_rows=_lowest_for_live(found.score_rows, self.n))


def sources_with_live(
    sources: Mapping[str, Source],
    n: int,
    item_vectors: NDArray[np.float32],
    content_vectors: NDArray[np.float32],
    newest: Rows,
) -> dict[str, Source]:
    """Return a bundle's sources for a catalogue of which the first n rows are the bundle's.

    item_vectors, content_vectors: float32 [N, ...] of all items. newest: rows of the live ones, the latest first.
    """
    longer: dict[str, Source] = {}
    tower: TwoTower | None = None
    for name, source in sources.items():
        if isinstance(source, TwoTower):
            tower = TwoTower(source.tower.over(item_vectors), Longer(source.index, item_vectors))
            longer[name] = tower
        elif isinstance(source, ContentNeighbours):
            longer[name] = ContentNeighbours(Longer(source.index, content_vectors), source.half_life)
        else:
            longer[name] = BundleOnly(source, n)
    return longer | {LIVE: LiveItems(item_vectors, n, newest, tower)}


def _without_live(history: History, n: int) -> History:
    own = history.rows < n
    return History(history.rows[own], history.types[own], history.timestamps[own], history.weights[own])


def _lowest_for_live(score_rows: ScoreRows, n: int) -> ScoreRows:
    def score(rows: NDArray[np.int32]) -> NDArray[np.float32]:
        live = rows >= n
        if not live.any():
            return score_rows(rows)
        if live.all():
            return np.zeros(len(rows), np.float32)
        scores = score_rows(np.where(live, rows.min(), rows))  # a row of the bundle, so that the lowest stays the same
        scores[live] = scores.min()
        return scores

    return score
