"""Tables that are the same for everybody: popular in the last days, trending, rated best; by kind of event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tandem_core.sources.popularity_tables import OF_TYPE, TRENDING, WEIGHTED_RATING, WINDOW, RankedTable

DAY_MS = 86_400_000


class PopularitySettings(BaseModel):
    """What the catalogue-wide tables count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    windows_days: tuple[int, ...] = (7, 30)  # each is a source: popularity_7d, popularity_30d
    trending_half_life_days: float = Field(default=3.0, gt=0)
    rating_event_types: tuple[str, ...] = ("rating",)  # events of these types have a rating as value
    rating_form: Literal["bayesian", "published"] = "bayesian"


def window_tables(
    rows_item: NDArray[np.integer],
    weights: NDArray[np.floating],
    timestamps: NDArray[np.int64],
    n_items: int,
    settings: PopularitySettings,
) -> dict[str, RankedTable]:
    """Return the windows' tables and "trending"; rows_item, weights, timestamps (milliseconds): [E].

    Events of weight 0 or less and of unknown items (row below 0) are not counted. All clocks stand at the last event
    that is counted. Window of d days: events less than d * 24 hours older than it; score: share of the window's
    weight. Trending: each event's weight times .5 ** (age in days / half-life), summed by item, not compared with what
    is usual for the item; score: share of the sum over all items. Tables hold the items with a score above 0, by
    falling score, ties by row.
    """
    kept = (weights > 0) & (rows_item >= 0)
    rows, counted = rows_item[kept], weights[kept].astype(np.float64)
    ages = (timestamps[kept].max(initial=0) - timestamps[kept]) / DAY_MS
    tables = {}
    for days in settings.windows_days:
        inside = ages < days
        tables[f"{WINDOW}{days}"] = _shares(_sums(rows[inside], counted[inside], n_items))
    faded = counted * np.exp2(-ages / settings.trending_half_life_days)
    return tables | {TRENDING: _shares(_sums(rows, faded, n_items))}


def type_tables(
    rows_item: NDArray[np.integer], types: NDArray[np.integer], names: Sequence[str], n_items: int
) -> dict[str, RankedTable]:
    """Return a table per kind of event that occurs, such as "events:view"; none where fewer than two kinds do.

    rows_item: [E]; events of unknown items (row below 0) are not counted. types: [E], the place of the type in `names`
    counted from 1; 0 is unknown and not counted. Score: the item's share of the events of that type, whatever they
    weigh: how often an item is disliked says something too. Order and items as in `window_tables`.
    """
    kept = (types > 0) & (rows_item >= 0)
    rows, kinds = rows_item[kept], types[kept]
    found = np.unique(kinds).tolist()
    if len(found) < 2:  # one kind alone says what the table over everybody says
        return {}
    ones = np.ones(len(rows))
    return {
        f"{OF_TYPE}{names[kind - 1]}": _shares(_sums(rows[kinds == kind], ones[kinds == kind], n_items))
        for kind in found
    }


def rating_table(
    rows_item: NDArray[np.integer], values: NDArray[np.floating], n_items: int, settings: PopularitySettings
) -> dict[str, RankedTable]:
    """Return the table "weighted_rating" over the whole catalogue, or none where no event has a rating.

    rows_item, values: [E], of events whose value is a rating; events without one (NaN) and of unknown items (row below
    0) are not counted.
    """
    kept = np.isfinite(values) & (rows_item >= 0)
    if not kept.any():
        return {}
    members = np.bincount(rows_item[kept], minlength=n_items)
    sums = _sums(rows_item[kept], values[kept].astype(np.float64), n_items)
    means = np.divide(sums, members, out=np.full(n_items, np.nan), where=members > 0)
    score = weighted_rating if settings.rating_form == "bayesian" else published_weighted_rating
    return {WEIGHTED_RATING: _ranked(score(means, members))}


def weighted_rating(means: NDArray[np.floating], members: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return float64 [N]: m / (m + v) * R + v / (m + v) * C, a mean rating drawn towards the catalogue's.

    R: an item's mean rating, NaN where it has none; m: how many rated it; v: the lower quartile of m over the items
    that were rated; C: the mean of R over them. m and v are both numbers of users (the form of IMDb's top list).
    An item without ratings scores C.
    """
    v, centre = _constants(means, members)
    return _drawn_in(means, members.astype(np.float64), v, centre)


def published_weighted_rating(means: NDArray[np.floating], members: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the score as a published anime recommender computes it, for comparison: m on a scale from 0 to 10.

    m = 10 * (members - min) / (max - min), while v stays a number of users: as soon as v is much above 10 every item
    scores close to C. The order differs from `weighted_rating`'s too. Constants and NaN as there; where all items have
    equally many members, m is 0.
    """
    v, centre = _constants(means, members)
    above_least = (members - members.min()).astype(np.float64)
    return _drawn_in(means, 10 * above_least / max(float(above_least.max()), 1e-9), v, centre)


def _constants(means: NDArray[np.floating], members: NDArray[np.integer]) -> tuple[float, float]:
    rated = np.isfinite(means)
    if not rated.any():
        return 0.0, 0.0
    return float(np.quantile(members[rated], 0.25)), float(means[rated].mean())


def _drawn_in(means: NDArray[np.floating], m: NDArray[np.float64], v: float, centre: float) -> NDArray[np.float64]:
    share = np.divide(m, m + v, out=np.zeros(len(m)), where=m + v > 0)
    return np.where(np.isfinite(means), share * np.nan_to_num(means) + (1 - share) * centre, centre)


def _sums(rows: NDArray[np.integer], weights: NDArray[np.float64], n_items: int) -> NDArray[np.float64]:
    return np.bincount(rows, weights, minlength=n_items).astype(np.float64)


def _shares(totals: NDArray[np.float64]) -> RankedTable:
    table = _ranked(totals / max(float(totals.sum()), 1e-12))
    some = table.scores > 0
    return RankedTable(table.rows[some], table.scores[some])


def _ranked(scores: NDArray[np.float64]) -> RankedTable:
    rows = np.lexsort((np.arange(len(scores)), -scores))
    return RankedTable(rows.astype(np.int32), scores[rows].astype(np.float32))
