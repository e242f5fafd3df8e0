"""Everything that is measured of one set of lists, and whether it reaches the project's targets."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tandem_core.metrics import accuracy, lists
from tandem_core.metrics.accuracy import PerUser, Relevant, Rows
from tandem_core.metrics.bootstrap import RESAMPLES, Interval, mean_intervals
from tandem_core.metrics.cold_start import cold_start, share_listed
from tandem_core.metrics.slices import (
    ACTIVITY_EDGES,
    COLD_BELOW,
    SliceMean,
    activity_slices,
    mean_by_slice,
    pair_hits,
    pair_hits_by_item,
    popularity_slices,
)

KS = (5, 10, 20, 50, 100)
ACCURACY = {
    "recall": accuracy.recall_at,
    "hit_rate": accuracy.hit_rate_at,
    "precision": accuracy.precision_at,
    "ndcg": accuracy.ndcg_at,
    "mrr": accuracy.mrr_at,
    "map": accuracy.average_precision_at,
    "map_seed2_variant": accuracy.average_precision_seed2_variant_at,
    "ndcg_seed2_variant": accuracy.ndcg_seed2_variant_at,
}
# To be exceeded. ann_recall, of the worst index, is no property of lists: whoever knows it adds it to the values.
TARGETS = {"recall@500": 0.6, "hit_rate@50": 0.4, "ndcg@10": 0.35, "mrr": 0.25, "ann_recall@300": 0.98}


class Target(NamedTuple):
    """value and passed are None where the metric was not computed, or had no user to be computed on."""

    name: str
    target: float
    value: float | None
    passed: bool | None


@dataclass(frozen=True, slots=True)
class MetricsReport:
    """What was measured of one set of lists.

    values: name -> mean over users or whole-catalogue figure, as "recall@10", "coverage@10", "mrr" (of the
    whole list); NaN where there was nothing to measure. intervals: 95 % over users, for the values that are
    means over users. slices: "activity" or "popularity" -> metric -> slice -> mean and n. users: lists given;
    users_without_relevant: those among them that accuracy leaves out. not_computed: cut-offs asked for that
    are longer than the lists.
    """

    values: dict[str, float]
    intervals: dict[str, Interval]
    slices: dict[str, dict[str, dict[str, SliceMean]]]
    users: int
    users_without_relevant: int
    not_computed: tuple[int, ...] = field(default=())

    def to_json(self) -> str:
        """Return the report as JSON with null for NaN, which JSON does not have."""
        return json.dumps(_without_nan(asdict(self)), indent=2, allow_nan=False)


def evaluate_lists(
    ranked: Rows,
    relevant: Relevant,
    *,
    ks: Sequence[int] = KS,
    scores: NDArray[np.floating] | None = None,
    catalogue_size: int,
    item_vectors: NDArray[np.float32] | None = None,
    item_counts: NDArray[np.integer],
    user_counts: NDArray[np.integer],
    history: Relevant | None = None,
    rng: np.random.Generator,
    activity_edges: Sequence[int] = ACTIVITY_EDGES,
    cold_below: int = COLD_BELOW,
    resamples: int = RESAMPLES,
) -> MetricsReport:
    """Measure one set of lists: accuracy, what the lists are like, cold start, slices, intervals.

    ranked: int32 [U, K], best first, -1 after the end. relevant: of the same users. scores: float [U, K], for
    ties. item_vectors: float32 [N, D], for diversity; with history (rows that each user rated) also for
    centroid distance. item_counts: int [N] and user_counts: int [U], training events. rng: for the intervals
    alone. A k beyond K is left out and listed in not_computed: recall@100 of 50 places would be recall@50.
    Raises ValueError for inputs that do not fit together, a list with an item twice and a k below 1.
    """
    _check_sizes(ranked, relevant, catalogue_size, item_vectors, item_counts, user_counts, history)
    if any(k < 1 for k in ks):
        raise ValueError(f"ks {list(ks)} hold a cut-off below 1: ask for at least the first place")
    width = ranked.shape[1]
    asked = sorted(set(ks))
    hit = accuracy.hits(ranked, relevant)
    cold_users, cold_items = user_counts < cold_below, item_counts < cold_below
    by_activity = activity_slices(user_counts, activity_edges)
    by_popularity = popularity_slices(item_counts, cold_below=cold_below)
    taste = None
    if history is not None and item_vectors is not None:
        taste = lists.centroids(history, item_vectors)

    per_user: dict[str, PerUser] = {"mrr": accuracy.mrr_at(hit, relevant, max(1, width))}
    totals = {"cold_users_listed": share_listed(ranked, cold_users)}
    activity: dict[str, dict[str, SliceMean]] = {}
    popularity: dict[str, dict[str, SliceMean]] = {}
    for k in (k for k in asked if k <= width):
        shown = ranked[:, :k]
        judged = {f"{name}@{k}": metric(hit, relevant, k) for name, metric in ACCURACY.items()}
        per_user |= judged
        activity |= {name: mean_by_slice(values, by_activity) for name, values in judged.items()}
        found = pair_hits(ranked, hit, relevant, k)
        popularity[f"recall@{k}"] = pair_hits_by_item(found, relevant, by_popularity)

        exposure = lists.exposure(shown, catalogue_size)
        totals[f"coverage@{k}"] = lists.catalogue_coverage(exposure)
        totals[f"gini@{k}"] = lists.gini(exposure)
        per_user[f"novelty@{k}"] = lists.novelty(shown, item_counts)
        if item_vectors is not None:
            per_user[f"diversity@{k}"] = lists.intra_list_diversity(shown, item_vectors)
        if item_vectors is not None and taste is not None:
            per_user[f"centroid_distance@{k}"] = lists.centroid_distance(shown, item_vectors, taste)
        if scores is not None:
            per_user[f"score_ties@{k}"] = lists.score_ties(scores[:, :k], shown)

        cold = cold_start(shown, hit[:, :k], relevant, cold_users=cold_users, cold_items=cold_items)
        per_user[f"cold_user_hit_rate@{k}"] = np.where(cold_users, judged[f"hit_rate@{k}"], np.nan)
        totals[f"cold_items_listed@{k}"] = cold.items_listed
        totals[f"cold_item_hit_rate@{k}"] = cold.item_hit_rate

    intervals = mean_intervals(per_user, rng=rng, resamples=resamples)
    return MetricsReport(
        values={name: interval.mean for name, interval in intervals.items()} | totals,
        intervals=intervals,
        slices={"activity": activity, "popularity": popularity},
        users=len(ranked),
        users_without_relevant=int((relevant.sizes == 0).sum()),
        not_computed=tuple(k for k in asked if k > width),
    )


def targets(report: MetricsReport) -> list[Target]:
    """Compare the report with `TARGETS`, in their order; a value must exceed its target to pass."""
    found = []
    for name, target in TARGETS.items():
        value = report.values.get(name, math.nan)
        known = not math.isnan(value)
        found.append(Target(name, target, value if known else None, value > target if known else None))
    return found


def _check_sizes(
    ranked: Rows,
    relevant: Relevant,
    catalogue_size: int,
    item_vectors: NDArray[np.float32] | None,
    item_counts: NDArray[np.integer],
    user_counts: NDArray[np.integer],
    history: Relevant | None,
) -> None:
    sizes = {
        "relevant": (len(relevant), len(ranked)),
        "user_counts": (len(user_counts), len(ranked)),
        "history": (len(ranked) if history is None else len(history), len(ranked)),
        "item_counts": (len(item_counts), catalogue_size),
        "item_vectors": (catalogue_size if item_vectors is None else len(item_vectors), catalogue_size),
    }
    wrong = [f"{name} has {given}, not {due}" for name, (given, due) in sizes.items() if given != due]
    if wrong:
        raise ValueError(
            f"{len(ranked)} lists over {catalogue_size} items: {'; '.join(wrong)}; pass one per user or item"
        )
    if history is not None and item_vectors is None:
        raise ValueError("history alone measures nothing: pass item_vectors too, for centroid distance")
    if (row := int(relevant.rows.max(initial=-1))) >= catalogue_size:
        raise ValueError(f"relevant row {row} is outside the {catalogue_size} items: number by catalogue row")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
