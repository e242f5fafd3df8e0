"""From scores to figures: full ranking in chunks, metrics per user, means with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem_core.metrics import Interval, Relevant, hits, mean_intervals, paired_difference
from tandem_core.metrics.accuracy import PerUser, hit_rate_at, ndcg_at, recall_at
from tandem_core.metrics.lists import exposure
from tandem_trainer.quality.context import CHUNK
from tandem_trainer.quality.log import HeldOut, Mask, Queries
from tandem_trainer.quality.rows.base import Scorer, Scores

LONGEST = 500
PER_USER = {
    "hr@10": (hit_rate_at, 10),
    "ndcg@10": (ndcg_at, 10),
    "recall@10": (recall_at, 10),
    "recall@20": (recall_at, 20),
    "ndcg@20": (ndcg_at, 20),
    "recall@100": (recall_at, 100),
    "recall@500": (recall_at, 500),
}
COVERAGE = "coverage@10"


@dataclass(frozen=True, slots=True)
class Lists:
    """What a row lists for U questions, once per version. ranked: int32 [U, K], -1 after the end; K is at most 500.

    per_user: metric -> float64 [U], NaN where the version leaves the user nothing to find. n_candidates: of the
    catalogue or the part of it that is ranked.
    """

    ranked: NDArray[np.int32]
    per_user: Mapping[str, PerUser]
    n_candidates: int


@dataclass(frozen=True, slots=True)
class Figures:
    """Means over the users of one slice; users: those who had something to find."""

    metrics: Mapping[str, float]
    ci95: Mapping[str, tuple[float, float]]
    users: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values, None for NaN."""
        return {
            "metrics": {name: _plain(value) for name, value in self.metrics.items()},
            "ci95": {name: [_plain(low), _plain(high)] for name, (low, high) in self.ci95.items()},
        }


def rank_rows(scores: Scores, k: int) -> NDArray[np.int32]:
    """Return the k best rows of each line, int32 [U, min(k, N)], ties to the smaller row; -1 for a score of -inf."""
    k = min(k, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    listed = np.take_along_axis(scores, order, axis=1) > -np.inf
    return np.where(listed, order, -1).astype(np.int32)


def make_lists(name: str, scorer: Scorer, asked: HeldOut, n_items: int, *, repeats: bool) -> Lists:
    """Rank for every question; without repeats what the user had is left out, and is no answer either.

    Raises ValueError where a row gives scores of another shape, NaN or +inf.
    """
    candidates = asked.candidates
    n_candidates = n_items if candidates is None else len(candidates)
    ranked = np.full((len(asked), min(LONGEST, n_candidates)), -1, np.int32)
    for start in range(0, len(asked), CHUNK):
        queries = asked.queries.part(start, start + CHUNK)
        scores = _checked(name, scorer(queries), queries, n_items)
        if not repeats:
            scores[queries.owners, queries.rows] = -np.inf
        if candidates is None:
            found = rank_rows(scores, LONGEST)
        else:
            places = rank_rows(scores[:, candidates], LONGEST)
            found = np.where(places >= 0, candidates[places], -1)
        ranked[start : start + CHUNK] = found
    relevant = asked.relevant(n_items, repeats=repeats)
    return Lists(ranked, _judge(ranked, relevant), n_candidates)


def figures(lists: Lists, chosen: Mask, names: tuple[str, ...], seed: int) -> Figures:
    """Return the means of the named metrics over the chosen users, bool [U], and coverage of their lists."""
    columns = {name: lists.per_user[name][chosen] for name in names}
    intervals = mean_intervals(columns, rng=np.random.default_rng(seed))
    judged = chosen & ~np.isnan(lists.per_user["hr@10"])
    shown = lists.ranked[judged, :10]
    size = int(shown.max(initial=-1)) + 1
    distinct = np.count_nonzero(exposure(shown, size)) if size else 0
    coverage = distinct / lists.n_candidates if judged.any() else float("nan")
    return Figures(
        {name: interval.mean for name, interval in intervals.items()} | {COVERAGE: coverage},
        {name: (interval.low, interval.high) for name, interval in intervals.items()},
        int(judged.sum()),
    )


def difference(ours: Lists, theirs: Lists, metric: str, chosen: Mask, seed: int) -> Interval:
    """Return the mean difference of a metric over the same users, with its interval."""
    return paired_difference(
        ours.per_user[metric][chosen], theirs.per_user[metric][chosen], rng=np.random.default_rng(seed)
    )


def _judge(ranked: NDArray[np.int32], relevant: Relevant) -> dict[str, PerUser]:
    hit = hits(ranked, relevant)
    return {name: metric(hit, relevant, k) for name, (metric, k) in PER_USER.items()}


def _checked(name: str, scores: Scores, queries: Queries, n_items: int) -> Scores:
    """Return a copy that may be written to."""
    if scores.shape != (len(queries), n_items):
        raise ValueError(
            f"row {name} scored {scores.shape}, not {(len(queries), n_items)}: one line per question, all items"
        )
    if np.isnan(scores).any() or np.isposinf(scores).any():
        raise ValueError(f"row {name} gave scores that are NaN or infinite: no order is right then")
    return np.array(scores, np.float32)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
