"""All items or the nearest cluster: what looking at fewer items saves, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core.bundle import Bundle
from tandem_core.clusters import Clusters
from tandem_core.index.base import VectorIndex
from tandem_core.index.exact import ExactIndex
from tandem_core.index.ivf import IvfIndex
from tandem_core.sources.weighted_average import average_vector
from tandem_trainer.clusters import ClusterSettings, fit_gmm, fit_kmeans
from tandem_trainer.data import Dataset
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.prepare import item_rows
from tandem_trainer.split import Split
from tandem_trainer.studies.report import Cell, StudyReport, StudyTable
from tandem_trainer.studies.ridge_ratings import STRENGTHS, ItemRatings, fit_items, predict_user
from tandem_trainer.studies.unseen import rated_user

K = 10
CALLS = 2000
WARM_UP = 200
PROBES = (1, 4, 16)
GROUPS = (50, 100, 250)  # users, as in the paper
SPEED, ERROR = "Time of a search for ten items", "Squared error of ratings on held-out rows"


def study_tradeoff(
    bundle: Bundle, dataset: Dataset, split: Split, settings: ClusterSettings, seed: int, scale: int
) -> StudyReport:
    """Measure both. scale: vectors of a made-up larger catalogue, timed beside the real one; 0 for none.

    Raises ValueError for data without ratings.
    """
    if not dataset.events["value"].notna().all():
        raise ValueError(f"{dataset.name} has events without a value: the error of ratings needs ratings on all events")
    vectors = bundle.item_vectors
    offline = queries_of_test(bundle, dataset, split, most_users=None, seed=seed)
    users = [rated_user(bundle, query) for query in offline.queries]
    averages = [average_vector(user.history.rows, user.history.weights, vectors) for user in users]
    queries = np.array([each for each in averages if each is not None], np.float32)
    kmeans, gmm = fit_kmeans(vectors, settings, seed), fit_gmm(vectors, settings, seed)
    rows = speed_rows(vectors, kmeans, queries)
    if scale:
        many, asked = made_up(scale, vectors.shape[1], seed)
        # The square root balances centres against members.
        wide = settings.model_copy(update={"count": round(scale**0.5), "n_init": 1, "iterations": 20})
        rows += speed_rows(many, fit_kmeans(many, wide, seed), asked)
    halves = known_halves(bundle, split)
    strength, items = choose_strength(bundle, split)
    errors = error_rows(halves, items, strength, vectors, {"K-means": kmeans, "GMM": gmm}, seed)
    columns = ("arm", "items", "distances", "p50 us", "p95 us", "p99 us", f"recall@{K}")
    error_columns = ("rows judged", "users asked", "users", "rows", "mse", "mse constant", "ratio")
    return StudyReport(
        "tradeoff",
        {"data": dataset.name, "bundle": bundle.id, "calls": CALLS, "ridge strength": strength, "seed": seed},
        (StudyTable(SPEED, columns, tuple(rows)), StudyTable(ERROR, error_columns, tuple(errors))),
        (
            "Warm calls of one thread in process, users in turn; distances: mean vectors compared, centres included.",
            "Error: an 'all items' row and the 'in nearest cluster' row below it judge the same users; users without a "
            "held-out rating in their nearest cluster are in neither. 'constant' is the training mean: where its error "
            "falls with the model's, the cluster's rows are easier, and the model is not better.",
            f"Ridge strength chosen among {', '.join(map(str, STRENGTHS))} on validation users.",
        ),
    )


def speed_rows(
    vectors: NDArray[np.float32], clusters: Clusters, queries: NDArray[np.float32]
) -> list[tuple[Cell, ...]]:
    """Time exact search and inverted lists of some breadths; queries: float32 [Q, D]."""
    exact = ExactIndex(vectors)
    truth = [exact.search(query, K)[0] for query in queries]
    rows: list[tuple[Cell, ...]] = [_timed("all items", exact, queries, float(len(vectors)), 1.0)]
    for probes in (probes for probes in PROBES if probes <= len(clusters)):
        index = IvfIndex(vectors, clusters, probes)
        compared = np.mean([len(index.compared(query, K)) for query in queries]) + len(clusters)
        found = np.mean([np.isin(index.search(q, K)[0], t).mean() for q, t in zip(queries, truth, strict=True)])
        rows.append(_timed(f"{probes} of {len(clusters)} clusters", index, queries, float(compared), float(found)))
    return rows


def _timed(
    name: str, index: VectorIndex, queries: NDArray[np.float32], distances: float, recall: float
) -> tuple[Cell, ...]:
    micros = percentiles(lambda i: index.search(queries[i % len(queries)], K))
    return (name, len(index.vectors), distances, *micros, recall)


def percentiles(call: Callable[[int], object], calls: int = CALLS) -> tuple[float, float, float]:
    """Return p50, p95, p99 in microseconds of `call(i)`, warm."""
    for i in range(WARM_UP):
        call(i)
    taken = np.empty(calls)
    for i in range(calls):
        begun = time.perf_counter_ns()
        call(i)
        taken[i] = time.perf_counter_ns() - begun
    p50, p95, p99 = np.percentile(taken / 1000, [50, 95, 99])
    return float(p50), float(p95), float(p99)


def made_up(n: int, dims: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return unit vectors in groups of about a hundred, float32 [n, D], and 500 queries near some of them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 100), dims)).astype(np.float32)
    noise = rng.normal(size=(n, dims)).astype(np.float32)
    vectors = centres[rng.integers(0, len(centres), n)] + 0.7 * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = vectors[rng.integers(0, n, 500)] + rng.normal(0, 0.5 / dims**0.5, (500, dims)).astype(np.float32)
    return vectors, (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Half:
    """One user: rows and ratings that are known, and those held out."""

    known: NDArray[np.int64]
    ratings: NDArray[np.float64]
    held_out: NDArray[np.int64]
    truth: NDArray[np.float64]


def known_halves(bundle: Bundle, split: Split, part: str = "test") -> list[Half]:
    """Return the users of the test or validation part of a user-disjoint cut."""
    parts = split.parts()
    known, held_out = (
        {
            str(user): (item_rows(bundle.catalog, each), each["value"].to_numpy(np.float64))
            for user, each in parts[name].groupby("user_id")
        }
        for name in (f"{part}_history", part)
    )
    return [Half(*known[user], *held_out[user]) for user in sorted(held_out)]


def choose_strength(bundle: Bundle, split: Split) -> tuple[float, ItemRatings]:
    """Return the ridge strength with the least error on validation users, and what training users say of items."""
    train = split.train
    items = fit_items(item_rows(bundle.catalog, train), train["value"].to_numpy(np.float64), len(bundle.catalog))
    halves = known_halves(bundle, split, "validation")

    def error(strength: float) -> float:
        return float(np.concatenate([_errors(half, items, bundle.item_vectors, strength) for half in halves]).mean())

    return min(STRENGTHS, key=error), items


def error_rows(
    halves: Sequence[Half],
    items: ItemRatings,
    strength: float,
    vectors: NDArray[np.float32],
    clusterings: dict[str, Clusters],
    seed: int,
) -> list[tuple[Cell, ...]]:
    """Return, per clustering and number of users, the errors on all held-out rows and on those in the nearest one."""
    order = np.random.default_rng(seed).permutation(len(halves))
    rows: list[tuple[Cell, ...]] = []
    for name, clusters in clusterings.items():
        for asked in sorted({min(n, len(halves)) for n in GROUPS}):
            some = [halves[i] for i in order[:asked]]
            inside = [_in_nearest(half, vectors, clusters) for half in some]
            both = [(half, mask) for half, mask in zip(some, inside, strict=True) if mask.any()]
            model = [_errors(half, items, vectors, strength) for half, _ in both]
            constant = [(half.truth - items.mean) ** 2 for half, _ in both]
            masks = [mask for _, mask in both]
            for label, kept in (
                (f"all items, users of {name}", [np.ones_like(m) for m in masks]),
                (f"in nearest cluster, {name}", masks),
            ):
                ours, theirs = (_mean_of(errors, kept) for errors in (model, constant))
                count = sum(int(mask.sum()) for mask in kept)
                rows.append((label, asked, len(both), count, ours, theirs, ours / theirs))
    return rows


def _in_nearest(half: Half, vectors: NDArray[np.float32], clusters: Clusters) -> NDArray[np.bool_]:
    vector = average_vector(half.known, half.ratings, vectors)
    if vector is None:
        return np.zeros(len(half.held_out), np.bool_)
    inside: NDArray[np.bool_] = clusters.labels[half.held_out] == clusters.nearest(vector)[0]
    return inside


def _errors(half: Half, items: ItemRatings, vectors: NDArray[np.float32], strength: float) -> NDArray[np.float64]:
    predicted = predict_user(items, vectors, half.known, half.ratings, half.held_out, strength)
    squared: NDArray[np.float64] = (half.truth - predicted) ** 2
    return squared


def _mean_of(errors: Sequence[NDArray[np.float64]], masks: Sequence[NDArray[np.bool_]]) -> float:
    kept = [each[mask] for each, mask in zip(errors, masks, strict=True)]
    return float(np.concatenate(kept).mean()) if kept else float("nan")
