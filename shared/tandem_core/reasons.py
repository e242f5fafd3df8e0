"""Why an item is in the list: kinds and parameters, so that callers word them for their users."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.features import User
from tandem_core.rules.slots import Placed
from tandem_core.sources.popularity import favourite_categories

MOST_REASONS = 4
ALIKE = 0.6  # cosine of item vectors from which one item is given as the reason for another
HISTORY_LOOKED_AT = 50


class ReasonKind(enum.IntEnum):
    """Numbers as in `tandem.ranking.v1.ReasonKind`."""

    BECAUSE_OF_ITEM = 1
    MATCHES_TASTE = 2
    SIMILAR_USERS = 3
    POPULAR = 4
    POPULAR_IN_SEGMENT = 5
    POPULAR_IN_CATEGORY = 6
    NEW_ITEM = 7
    BACKFILL = 8
    PINNED = 9
    PROMOTED = 10


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason; parameter: item id, category or segment, as the kind says, else ""."""

    kind: ReasonKind
    parameter: str = ""


_BARE = {kind: Reason(kind) for kind in ReasonKind}

_KIND_OF_SOURCE = {
    "two_tower": ReasonKind.MATCHES_TASTE,
    "als": ReasonKind.SIMILAR_USERS,
    "popularity": ReasonKind.POPULAR,
    "popularity_segment": ReasonKind.POPULAR_IN_SEGMENT,
    "popularity_category": ReasonKind.POPULAR_IN_CATEGORY,
    "trending": ReasonKind.POPULAR,
    "weighted_rating": ReasonKind.POPULAR,
    "item_to_item": ReasonKind.SIMILAR_USERS,
    "content_neighbours": ReasonKind.MATCHES_TASTE,
    "content_cold": ReasonKind.MATCHES_TASTE,
    "weighted_average": ReasonKind.MATCHES_TASTE,
    "interests": ReasonKind.MATCHES_TASTE,
    "kmeans": ReasonKind.MATCHES_TASTE,
    "mixture": ReasonKind.MATCHES_TASTE,
    "cold_items": ReasonKind.MATCHES_TASTE,
    "fresh": ReasonKind.NEW_ITEM,
    "live": ReasonKind.NEW_ITEM,
    "backfill": ReasonKind.BACKFILL,
}


_KIND_OF_PLACE = {
    Placed.PINNED: Reason(ReasonKind.PINNED),
    Placed.PROMOTED: Reason(ReasonKind.PROMOTED),
    Placed.COLD_START: Reason(ReasonKind.NEW_ITEM),
}


def reasons_for(
    slate: CandidateBatch, user: User, bundle: Bundle, placed: NDArray[np.int8] | None = None
) -> tuple[tuple[Reason, ...], ...]:
    """Return up to four reasons for each item of a final list, strongest first.

    The rule that put it there (placed: int8 [n], see `Placed`; None: no rule did), something like it in the history,
    the sources by the rank they gave.
    """
    kinds = {source: kind for source in slate.sources if (kind := _kind_of(source)) is not None}
    sources = list(kinds)
    ranks = np.stack([slate.columns[f"rank:{s}"] for s in sources], axis=1) if sources else np.zeros((len(slate), 0))
    strongest = np.argsort(np.where(ranks > 0, ranks, np.inf), axis=1, kind="stable").tolist()
    found = (ranks > 0).tolist()  # lists, since asking an array for one entry after another takes longer
    because = _because_of(slate, user, bundle)
    liked = (
        favourite_categories(user.history, bundle.catalog.codes["categories"], 2)
        if "popularity_category" in sources
        else []
    )
    cold = (bundle.catalog.event_counts[slate.rows] < bundle.schema.cold_item_events).tolist()
    reasons = []
    for i in range(len(slate)):  # the final list alone: at most 500 items, 20 as a rule
        by_rule = None if placed is None else _KIND_OF_PLACE.get(Placed(placed[i]))
        mine = [] if by_rule is None else [by_rule]
        if because[i]:
            mine.append(Reason(ReasonKind.BECAUSE_OF_ITEM, because[i]))
        for j in strongest[i]:
            if found[i][j]:
                mine.append(_reason(kinds[sources[j]], int(slate.rows[i]), user, bundle, liked))
        if cold[i]:
            mine.append(_BARE[ReasonKind.NEW_ITEM])
        reasons.append(tuple(dict.fromkeys(mine))[:MOST_REASONS])  # several sources may give the same reason
    return tuple(reasons)


def _kind_of(source: str) -> ReasonKind | None:
    """Return the kind of a source's reason, None where it is none; windows of any length are popularity."""
    return _KIND_OF_SOURCE.get(source, ReasonKind.POPULAR if source.startswith("popularity_") else None)


def _reason(kind: ReasonKind, row: int, user: User, bundle: Bundle, liked: list[str]) -> Reason:
    if kind is ReasonKind.POPULAR_IN_SEGMENT:
        return Reason(kind, user.segment_keys[0]) if user.segment_keys else Reason(ReasonKind.POPULAR)
    if kind is ReasonKind.POPULAR_IN_CATEGORY:
        own = bundle.catalog.codes["categories"].values(row)
        category = next((category for category in liked if category in own), None)
        return Reason(ReasonKind.POPULAR) if category is None else Reason(kind, category)
    return _BARE[kind]


def _because_of(slate: CandidateBatch, user: User, bundle: Bundle) -> list[str]:
    """Return for each item the id of the most similar item of the history, "" where none is similar enough."""
    if not len(user.history) or not len(slate):
        return [""] * len(slate)
    recent = user.history.rows[:HISTORY_LOOKED_AT]
    alike = bundle.item_vectors[slate.rows] @ bundle.item_vectors[recent].T
    alike[slate.rows[:, None] == recent] = -1  # an item is no reason for itself, where seen items are shown
    best = alike.argmax(axis=1)
    enough = alike[np.arange(len(slate)), best] >= ALIKE
    return [bundle.catalog.item_ids[recent[b]] if ok else "" for b, ok in zip(best, enough, strict=True)]
