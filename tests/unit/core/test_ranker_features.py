from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.features import User, resolve_user
from tandem_core.query import Query, UserEvents
from tandem_core.ranker_features import feature_names, ranker_features

DAY_MS = 86_400_000
MakeQuery = Callable[..., Query]
MakeEvents = Callable[..., UserEvents]


@pytest.fixture
def small(make_bundle: Callable[..., Bundle]) -> Bundle:
    built: Bundle = make_bundle()
    return built


@pytest.fixture
def user(small: Bundle, make_query: MakeQuery, events_of: MakeEvents) -> User:
    """Viewed i1 (weight .5), then bought i4 (weight 4)."""
    events = events_of("i1", "i4", types=["view", "buy"])
    return resolve_user(small.schema, small.catalog, make_query(events=events))


@pytest.fixture
def batch() -> CandidateBatch:
    """Rows 0, 5 and 11, in this order for retrieval; source a found the first and the last."""
    columns = {
        "rank:a": np.array([1, 0, 4], np.int32),
        "score:a": np.array([0.75, 0, 0.25], np.float32),
        "rank:b": np.array([0, 2, 0], np.int32),
        "score:b": np.array([0, -3, 0], np.float32),
    }
    return CandidateBatch(np.array([0, 5, 11], np.int32), np.array([0.9, 0.5, 0.1], np.float32), columns)


def columns_of(
    names: list[str], batch: CandidateBatch, user: User, bundle: Bundle, now_ms: int
) -> dict[str, list[float]]:
    matrix = ranker_features(names, batch, user, bundle, now_ms)
    assert matrix.shape == (len(batch), len(names))
    assert matrix.dtype == np.float32
    assert np.isfinite(matrix).all()
    return {name: matrix[:, i].tolist() for i, name in enumerate(names)}


def test_every_column_worked_out_by_hand(
    small: Bundle, user: User, batch: CandidateBatch, item_vectors: np.ndarray, now_ms: int
) -> None:
    names = feature_names(small.schema, ["a", "b", "never_asked"])
    got = columns_of(names, batch, user, small, now_ms)
    towards = item_vectors[[0, 5, 11]] @ item_vectors[[4, 1]].T  # newest first
    content = small.content_vectors[[0, 5, 11]] @ small.content_vectors[[4, 1]].T
    expected: dict[str, list[float] | np.ndarray] = {
        "reciprocal_rank:a": [1, 0, 0.5],  # 1 / sqrt(rank)
        "source_score:a": [0.75, 0, 0.25],
        "reciprocal_rank:b": [0, 1 / np.sqrt(2), 0],
        "source_score:b": [0, -3, 0],
        "reciprocal_rank:never_asked": [0, 0, 0],
        "source_score:never_asked": [0, 0, 0],
        "taste_mean": towards.mean(axis=1),
        "taste_max": towards.max(axis=1),
        "taste_newest": towards[:, 0],
        "content_mean": content.mean(axis=1),
        "content_max": content.max(axis=1),
        "log_events": np.log1p([100, 50, 0]),
        # Of 4.5 events' weight Drama and News have 4 (i4), Comedy .5 (i1): i0 is of both of the first two.
        "category_affinity": [(4 / 4.5 + 4 / 4.5) / 2, 0.5 / 4.5, 0],
        "creator_affinity": [0.5 / 4.5, 4 / 4.5, 0],
        "log_age_days": np.log1p([0, 5, 11]),
        "age_known": [1, 1, 1],
        "log_history": [np.log(3)] * 3,
        "regime_warm": [0, 0, 0],
        "regime_few_events": [1, 1, 1],
        "regime_profile_only": [0, 0, 0],
        "regime_unknown": [0, 0, 0],
        "number:price": [0, 0, 0],  # i0 costs 0, the others' prices are unknown
    }
    for name, column in expected.items():
        assert got.pop(name) == pytest.approx(list(column), abs=1e-5), name
    assert got.pop("retrieval_place") == pytest.approx([0, -np.log(2), -np.log(3)])
    assert got == {}


def test_a_name_the_features_do_not_know_is_a_column_of_0(
    small: Bundle, user: User, batch: CandidateBatch, now_ms: int
) -> None:
    assert columns_of(["of_tomorrow"], batch, user, small, now_ms) == {"of_tomorrow": [0, 0, 0]}


def test_an_unknown_age_is_told_from_an_age_of_0_and_the_future_is_today(
    small: Bundle, user: User, now_ms: int
) -> None:
    batch = CandidateBatch(np.array([3, 0, 1], np.int32), np.ones(3, np.float32))
    got = columns_of(["log_age_days", "age_known"], batch, user, small, now_ms - DAY_MS // 2)
    assert got["log_age_days"] == pytest.approx([0, 0, np.log1p(0.5)])
    assert got["age_known"] == [0, 1, 1]


def test_candidates_of_no_source_have_no_place(small: Bundle, user: User, now_ms: int) -> None:
    batch = CandidateBatch(np.array([3, 0], np.int32), np.ones(2, np.float32))
    assert columns_of(["retrieval_place"], batch, user, small, now_ms) == {"retrieval_place": [0, 0]}


def test_without_history_or_candidates_all_is_finite(
    small: Bundle, make_query: MakeQuery, batch: CandidateBatch, now_ms: int
) -> None:
    nobody = resolve_user(small.schema, small.catalog, make_query())
    names = feature_names(small.schema, ["a"])
    got = columns_of(names, batch, nobody, small, now_ms)
    assert got["taste_max"] == got["category_affinity"] == got["log_history"] == [0, 0, 0]
    assert got["regime_unknown"] == [1, 1, 1]
    columns_of(names, CandidateBatch.empty(), nobody, small, now_ms)


def test_only_the_ten_newest_events_are_compared(
    small: Bundle, make_query: MakeQuery, events_of: MakeEvents, item_vectors: np.ndarray, now_ms: int
) -> None:
    events = events_of("i7", *["i2"] * 10)
    user = resolve_user(small.schema, small.catalog, make_query(events=events))
    batch = CandidateBatch(np.array([7], np.int32), np.ones(1, np.float32))
    got = columns_of(["taste_max"], batch, user, small, now_ms)
    assert got["taste_max"] == pytest.approx([float(item_vectors[7] @ item_vectors[2])], abs=1e-5)


def test_the_bundles_ranker_takes_the_columns_its_manifest_names(bundle: Bundle, make_query: MakeQuery) -> None:
    assert bundle.scorer is not None
    n = 50
    user = resolve_user(bundle.schema, bundle.catalog, make_query())
    columns: dict[str, np.ndarray] = {
        "rank:popularity": np.arange(1, n + 1),
        "score:popularity": np.linspace(1, 0, n, dtype=np.float32),
    }
    batch = CandidateBatch(np.arange(n, dtype=np.int32), np.linspace(1, 0, n, dtype=np.float32), columns)
    features = ranker_features(bundle.scorer.feature_names, batch, user, bundle, 0)
    scores = bundle.scorer.score(features)
    assert scores.shape == (n,)
    assert np.isfinite(scores).all()
    one_by_one = np.concatenate([bundle.scorer.score(features[i : i + 1]) for i in range(n)])
    np.testing.assert_allclose(scores, one_by_one, atol=1e-4)
