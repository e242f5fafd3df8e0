from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.features import User, resolve_user
from tandem_core.query import Query, UserEvents
from tandem_core.ranker_features import feature_names, ranker_features, unknown_features
from tandem_core.ranker_tables import RankerTables
from tandem_core.sources.popularity_tables import PopularityTables, RankedTable
from tandem_core.sparse_rows import SparseRows

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


def sparse(dense: np.ndarray) -> SparseRows:
    rows, columns = np.nonzero(dense)
    bounds = np.searchsorted(rows, np.arange(len(dense) + 1)).astype(np.int64)
    return SparseRows(bounds, columns.astype(np.int32), dense[rows, columns], dense.shape[1])


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
    """The user's newest event was a minute ago, the one before it two."""
    tables = ("global", "window:7")
    levels = np.stack([np.arange(12), np.ones(12)], axis=1).astype(np.float32)
    after = np.zeros((12, 12), np.float32)
    after[4, [5, 11]] = 0.5, 0.25  # what follows i4
    bundle = replace(small, ranker_tables=RankerTables(tables, levels, sparse(after)))
    names = feature_names(small.schema, ["a", "b", "never_asked"], tables, events=3)
    got = columns_of(names, batch, user, bundle, now_ms)
    towards = item_vectors[[0, 5, 11]] @ item_vectors[[4, 1]].T  # newest first
    content = small.content_vectors[[0, 5, 11]] @ small.content_vectors[[4, 1]].T
    expected: dict[str, list[float] | np.ndarray] = {
        "retrieval_place": [0, -np.log(2), -np.log(3)],
        "retrieval_z": [np.sqrt(1.5), 0, -np.sqrt(1.5)],
        "sources_found": [1, 1, 1],
        "reciprocal_rank:a": [1, 0, 0.5],  # 1 / sqrt(rank)
        "source_score:a": [0.75, 0, 0.25],
        "source_z:a": (np.array([0.75, 0, 0.25]) - 1 / 3) / np.std([0.75, 0, 0.25]),
        "reciprocal_rank:b": [0, 1 / np.sqrt(2), 0],
        "source_score:b": [0, -3, 0],
        "source_z:b": [np.sqrt(0.5), -np.sqrt(2), np.sqrt(0.5)],
        "reciprocal_rank:never_asked": [0, 0, 0],
        "source_score:never_asked": [0, 0, 0],
        "source_z:never_asked": [0, 0, 0],
        "taste_mean": towards.mean(axis=1),
        "taste_max": towards.max(axis=1),
        "taste_newest": towards[:, 0],
        "content_mean": content.mean(axis=1),
        "content_max": content.max(axis=1),
        "log_events": np.log1p([100, 50, 0]),
        "level:global": [0, 5, 11],
        "level:window:7": [1, 1, 1],
        "trend:window:7": [1, -4, -10],
        # Of 4.5 events' weight Drama and News have 4 (i4), Comedy .5 (i1): i0 is of both of the first two.
        "category_affinity": [(4 / 4.5 + 4 / 4.5) / 2, 0.5 / 4.5, 0],
        "category_recent": [(4 / 4.5 + 4 / 4.5) / 2, 0.5 / 4.5, 0],
        "creator_affinity": [0.5 / 4.5, 4 / 4.5, 0],
        "log_age_days": np.log1p([0, 5, 11]),
        "age_known": [1, 1, 1],
        "log_history": [np.log(3)] * 3,
        "log_idle_hours": [np.log1p(1 / 60)] * 3,
        "hour_sin": [np.sin(2 * np.pi * (now_ms % DAY_MS) / DAY_MS)] * 3,
        "hour_cos": [np.cos(2 * np.pi * (now_ms % DAY_MS) / DAY_MS)] * 3,
        "weekday_sin": [np.sin(2 * np.pi * (now_ms % (7 * DAY_MS)) / (7 * DAY_MS))] * 3,
        "weekday_cos": [np.cos(2 * np.pi * (now_ms % (7 * DAY_MS)) / (7 * DAY_MS))] * 3,
        "regime_warm": [0, 0, 0],
        "regime_few_events": [1, 1, 1],
        "regime_profile_only": [0, 0, 0],
        "regime_unknown": [0, 0, 0],
        "number:price": [0, 0, 0],  # i0 costs 0, the others' prices are unknown
        "price_ratio": [0, 0, 0],
        **{f"event_known:{i}": [float(i < 2)] * 3 for i in range(3)},
        **{f"event_taste:{i}": towards[:, i] if i < 2 else [0, 0, 0] for i in range(3)},
        **{f"event_content:{i}": content[:, i] if i < 2 else [0, 0, 0] for i in range(3)},
        **{f"event_next:{i}": [0, 0.5, 0.25] if i == 0 else [0, 0, 0] for i in range(3)},
        **{f"event_gap:{i}": [np.log1p((i + 1) / 60) if i < 2 else 0] * 3 for i in range(3)},
    }
    for name, column in expected.items():
        assert got.pop(name) == pytest.approx(list(column), abs=1e-5), name
    assert got == {}


def test_the_month_stands_on_a_circle_where_the_season_is_an_input(
    small: Bundle, user: User, batch: CandidateBatch, now_ms: int
) -> None:
    seasonal = small.schema.model_copy(update={"season": True})
    plain, names = (feature_names(schema, ["a"], ["global"]) for schema in (small.schema, seasonal))
    assert set(names) - set(plain) == {"month_sin", "month_cos"}
    assert unknown_features(names, small.schema, ["a"], ["global"]) == []  # a ranker keeps what it was taught
    november, december = (columns_of(names, batch, user, small, now_ms + days * DAY_MS) for days in (0, 30))
    assert november["month_sin"] == pytest.approx([-0.5] * 3)  # eleven twelfths around
    assert (december["month_sin"], december["month_cos"]) == (pytest.approx([0] * 3, abs=1e-6), [1] * 3)


def test_what_kind_of_event_an_item_had_is_a_column_each(
    small: Bundle, tables: PopularityTables, user: User, now_ms: int
) -> None:
    """Row 2 has three times an even share of twelve items' likes, row 5 nine times: 1 / 4 and 3 / 4 of all."""
    likes = RankedTable(np.array([5, 2], np.int32), np.array([0.75, 0.25], np.float32))
    kinds = {"events:like": likes, "events:dislike": RankedTable(np.array([0], np.int32), np.ones(1, np.float32))}
    read = RankerTables.of(PopularityTables({**tables.tables, **kinds}), None, 12)
    assert read.names == ("global", "events:like", "events:dislike")
    names = feature_names(small.schema, ["a"], read.names)
    assert [name for name in names if "events:" in name] == ["level:events:like", "level:events:dislike"]
    batch = CandidateBatch(np.array([0, 2, 5], np.int32), np.ones(3, np.float32))
    got = columns_of(names, batch, user, replace(small, ranker_tables=read), now_ms)
    assert got["level:events:like"] == pytest.approx([0, np.log(4), np.log(10)])
    assert got["level:events:dislike"] == pytest.approx([np.log(13), 0, 0])


def test_a_trained_bundle_has_such_columns_of_every_type_that_occurs(
    bundle: Bundle, make_query: MakeQuery, now_ms: int
) -> None:
    kinds = [name for name in bundle.ranker_tables.names if name.startswith("events:")]
    assert len(kinds) >= 2
    names = [f"level:{kind}" for kind in kinds]
    assert set(names) <= set(bundle.manifest.ranker_features)
    user = resolve_user(bundle.schema, bundle.catalog, make_query())
    batch = CandidateBatch(bundle.catalog.all_rows, np.ones(len(bundle.catalog), np.float32))
    columns = ranker_features(names, batch, user, bundle, now_ms)
    assert (columns.max(axis=0) > 0).all()
    assert not columns[bundle.catalog.event_counts == 0].any()


def test_a_price_stands_beside_what_the_user_usually_pays(small: Bundle, user: User, now_ms: int) -> None:
    """The user bought for 10 and for 40: 20 is usual."""
    batch = CandidateBatch(np.array([2, 4, 5], np.int32), np.ones(3, np.float32))
    got = columns_of(["price_ratio"], batch, user, small, now_ms)
    assert got["price_ratio"] == pytest.approx([0, np.log(2), 0], abs=1e-6)


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
    names = feature_names(small.schema, ["a"], ["global"], events=2)
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
    scored = bundle.scorer.score(features)
    assert scored.scores.shape == (n,)
    assert np.isfinite(scored.scores).all()
    one_by_one = np.concatenate([bundle.scorer.score(features[i : i + 1]).scores for i in range(n)])
    np.testing.assert_allclose(scored.scores, one_by_one, atol=1e-4)
    assert list(scored.heads) == [head.name for head in bundle.manifest.ranker_heads]
    for head in bundle.manifest.ranker_heads:
        column = scored.heads[head.name]
        assert head.value or (column.min() >= 0 and column.max() <= 1)


def test_columns_that_a_bundle_can_not_compute_are_named(small: Bundle) -> None:
    names = feature_names(small.schema, ["a"], ["global"], events=10)
    assert unknown_features(names, small.schema, ["a"], ["global"]) == []
    assert unknown_features([*names, "number:weight"], small.schema, ["a"], ["global"]) == ["number:weight"]
    lacking = unknown_features(names, small.schema, [], [])
    assert lacking == ["reciprocal_rank:a", "source_score:a", "source_z:a", "level:global"]
