from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.catalog import Catalog
from tandem_core.clusters import Clusters, Mixture
from tandem_core.features import EventType, FeatureSchema, User, resolve_user
from tandem_core.filters import Eligibility, InRange
from tandem_core.index.exact import ExactIndex
from tandem_core.query import Query, Regime, UserEvents
from tandem_core.sources.clusters import ALL_ITEMS, ClusterSource
from tandem_core.sources.weighted_average import WeightedAverage, average_vector

N, C, D = 40, 9, 6


def unit(n: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


VECTORS, CENTRES = unit(N, 0), unit(C, 1)
POPULARITY = np.random.default_rng(2).permutation(N).astype(np.float32)
MIXTURE = Mixture(np.log(np.full(C, 1 / C, np.float32)), np.full((C, D), 3, np.float32))
CATALOG = Catalog(
    [f"i{row}" for row in range(N)],
    [""] * N,
    {},
    {"price": np.where(np.arange(N) % 3 == 0, 1.0, np.nan)},
    np.ones(N, np.int32),
)
RATED = FeatureSchema(
    event_types=(EventType(name="rating", full_value=5.0),), user_attributes={}, segments=(), item_codes=(),
    item_numbers=(), history_length=10, vector_dim=D,
)  # fmt: skip
NONE = np.empty(0, np.int32)

UserOf = Callable[..., User]


def eligible_of(excluded: list[int], *, priced: bool = False) -> Eligibility:
    return Eligibility(CATALOG, np.array(excluded, np.int32), InRange("price") if priced else None)


KMEANS = Clusters.of(VECTORS, CENTRES)
SOURCES = {
    "similarity": ClusterSource(KMEANS, VECTORS),
    "popularity": ClusterSource(KMEANS, VECTORS, POPULARITY),
    "three probes": ClusterSource(KMEANS, VECTORS, probes=3),
    "all items": ClusterSource(KMEANS, VECTORS, probes=ALL_ITEMS),
    "mixture": ClusterSource(Clusters.of(VECTORS, CENTRES, MIXTURE), VECTORS),
    "blend": ClusterSource(Clusters.of(VECTORS, CENTRES, MIXTURE), VECTORS, POPULARITY, blend=True),
    # Everything in one cluster, the others empty; and as many clusters as items.
    "empty clusters": ClusterSource(Clusters(np.full(N, 4, np.int32), CENTRES), VECTORS),
    "singletons": ClusterSource(Clusters(np.arange(N, dtype=np.int32), VECTORS), VECTORS),
}


@pytest.mark.parametrize("name", SOURCES)
@given(
    history=st.lists(st.integers(0, N - 1), min_size=1, max_size=8),
    excluded=st.lists(st.integers(0, N - 1), max_size=N),
    priced=st.booleans(),
    limit=st.integers(1, N + 5),
)
def test_a_list_is_never_short_while_eligible_items_exist(
    name: str, history: list[int], excluded: list[int], priced: bool, limit: int, user_of_rows: UserOf
) -> None:
    eligible = eligible_of(excluded, priced=priced)
    found = SOURCES[name].find(user_of_rows(history), eligible, limit)
    may = eligible.matching_rows()
    assert len(found) == min(limit, len(may))
    assert len(set(found.rows.tolist())) == len(found)
    assert np.isin(found.rows, may).all()
    assert np.isfinite(found.scores).all()
    assert (np.diff(found.scores) < 0).all()


@pytest.mark.parametrize("name", SOURCES)
@given(history=st.lists(st.integers(0, N - 1), min_size=1, max_size=8), limit=st.integers(1, N))
def test_a_short_list_is_the_beginning_of_a_longer_one(
    name: str, history: list[int], limit: int, user_of_rows: UserOf
) -> None:
    user, eligible = user_of_rows(history), eligible_of(history)
    whole = SOURCES[name].find(user, eligible, N).rows
    assert SOURCES[name].find(user, eligible, limit).rows.tolist() == whole[:limit].tolist()


@pytest.mark.parametrize(("name", "rank_by"), [("similarity", None), ("popularity", POPULARITY)])
@given(history=st.lists(st.integers(0, N - 1), min_size=1, max_size=6))
def test_the_first_items_are_those_of_the_nearest_cluster_ranked_by_brute_force(
    name: str, rank_by: np.ndarray | None, history: list[int], user_of_rows: UserOf
) -> None:
    mean = VECTORS[history].mean(axis=0)
    mean /= np.linalg.norm(mean)
    nearest = int(np.argmin(np.linalg.norm(CENTRES - mean, axis=1)))
    inside = [row for row in range(N) if KMEANS.labels[row] == nearest and row not in history]
    score = VECTORS @ mean if rank_by is None else rank_by
    best = sorted(inside, key=lambda row: (-score[row], row))
    found = SOURCES[name].find(user_of_rows(history), eligible_of(history), N).rows[: len(inside)]
    assert found.tolist() == best


def test_all_items_is_the_list_of_the_weighted_average(user_of_rows: UserOf) -> None:
    user, eligible = user_of_rows([1, 2], [5, 1]), eligible_of([1, 2])
    everything = WeightedAverage(ExactIndex(VECTORS)).find(user, eligible, N)
    assert SOURCES["all items"].find(user, eligible, N).rows.tolist() == everything.rows.tolist()


def test_several_probes_are_ranked_as_one_cluster(user_of_rows: UserOf) -> None:
    vector = average_vector(np.array([5]), np.ones(1), VECTORS)
    assert vector is not None
    three, _ = KMEANS.members(KMEANS.nearest(vector)[:3])
    best = sorted(three.tolist(), key=lambda row: -float(VECTORS[row] @ vector))
    assert SOURCES["three probes"].find(user_of_rows([5]), eligible_of([]), N).rows[: len(best)].tolist() == best


def test_blending_lets_a_likely_second_component_in_before_the_first_is_used_up(user_of_rows: UserOf) -> None:
    vectors = np.eye(D, dtype=np.float32)[[0, 0, 1, 1]]
    flat = Mixture(np.log(np.array([0.5, 0.5], np.float32)), np.full((2, D), 0.1, np.float32))
    clusters = Clusters(np.array([0, 0, 1, 1], np.int32), np.eye(D, dtype=np.float32)[:2], flat)
    popular = np.array([0.9, 0.1, 0.8, 0.2], np.float32)
    catalog = Catalog([*"abcd"], [""] * 4, {}, {}, np.ones(4, np.int32))
    user = user_of_rows([0])
    one = ClusterSource(clusters, vectors, popular)
    assert one.find(user, Eligibility(catalog, NONE, None), 4).rows.tolist() == [0, 1, 2, 3]
    blended = replace(one, blend=True)
    assert blended.find(user, Eligibility(catalog, NONE, None), 4).rows.tolist() == [0, 2, 3, 1]


def test_a_user_without_history_gets_nothing(user_of_rows: UserOf) -> None:
    for source in (*SOURCES.values(), WeightedAverage(ExactIndex(VECTORS))):
        assert len(source.find(user_of_rows([]), eligible_of([]), 5)) == 0


def test_the_average_weighs_by_rating_and_has_unit_length() -> None:
    got = average_vector(np.array([0, 1]), np.array([5.0, 1.0]), VECTORS)
    want = (5 * VECTORS[0] + VECTORS[1]) / 6
    assert got is not None
    np.testing.assert_allclose(got, want / np.linalg.norm(want), atol=1e-6)


def test_a_history_of_ratings_is_averaged_as_sum_of_r_e_over_sum_of_r() -> None:
    """A user whom no training saw: i0 rated 5, i1 rated 2, i2 rated 1, and i3 rated 0."""
    ratings = np.array([5, 2, 1, 0], np.float32)
    events = UserEvents([f"i{i}" for i in range(4)], np.arange(4, dtype=np.int64), ["rating"] * 4, ratings)
    user = resolve_user(RATED, CATALOG, Query(request_id="r", now_ms=9, max_results=5, events=events))
    found = WeightedAverage(ExactIndex(VECTORS)).find(user, eligible_of([0, 1, 2, 3]), 5)
    mean = (5 * VECTORS[0] + 2 * VECTORS[1] + VECTORS[2]) / 8
    cosines = VECTORS @ (mean / np.linalg.norm(mean))
    best = [row for row in np.argsort(-cosines) if row > 3][:5]
    assert found.rows.tolist() == best
    np.testing.assert_allclose(found.scores, cosines[best], atol=1e-6)
    # By event type alone it is another list: the ratings matter here.
    plain = replace(user, history=replace(user.history, weights=np.ones(3, np.float32)))
    assert WeightedAverage(ExactIndex(VECTORS)).find(plain, eligible_of([0, 1, 2, 3]), 5).rows.tolist() != best


def test_ratings_of_0_alone_leave_a_user_without_a_history() -> None:
    events = UserEvents(["i1"], np.zeros(1, np.int64), ["rating"], np.zeros(1, np.float32))
    user = resolve_user(RATED, CATALOG, Query(request_id="r", now_ms=9, max_results=5, events=events))
    assert user.regime is Regime.UNKNOWN
    assert user.interacted.tolist() == [1]
    assert len(WeightedAverage(ExactIndex(VECTORS)).find(user, eligible_of([]), 5)) == 0


@pytest.mark.parametrize("weights", [[0.0, 0.0], [np.nan, 1.0], [-1.0, 1.0]])
def test_weights_that_say_nothing_leave_the_plain_mean(weights: list[float]) -> None:
    got = average_vector(np.array([0, 1]), np.array(weights), VECTORS)
    plain = average_vector(np.array([0, 1]), np.ones(2), VECTORS)
    assert got is not None
    assert plain is not None
    np.testing.assert_allclose(got, plain, atol=1e-6)


def test_opposite_items_have_no_average() -> None:
    both = np.stack([VECTORS[0], -VECTORS[0]])
    assert average_vector(np.array([0, 1]), np.ones(2), both) is None
    assert average_vector(np.empty(0, np.int64), np.empty(0), both) is None


def test_a_source_whose_parts_do_not_belong_together_is_refused() -> None:
    with pytest.raises(ValueError, match="fit them on these vectors"):
        ClusterSource(KMEANS, VECTORS[:-1])
    with pytest.raises(ValueError, match="one number per item"):
        ClusterSource(KMEANS, VECTORS, POPULARITY[:-1])
    with pytest.raises(ValueError, match="probes is 0"):
        ClusterSource(KMEANS, VECTORS, probes=0)
    with pytest.raises(ValueError, match="no posterior"):
        ClusterSource(KMEANS, VECTORS, blend=True)
