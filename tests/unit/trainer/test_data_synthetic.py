"""The synthetic data: its size, its repeatability and the structure planted in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from tandem_trainer.data import DataError, Dataset, SyntheticConfig, load_dataset
from tandem_trainer.data.synthetic import generate
from tandem_trainer.split import leave_last_out


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("synthetic")


def test_the_default_has_the_promised_size_and_density(data: Dataset) -> None:
    assert (data.report.users, data.report.items) == (2000, 500)
    pairs = len(data.events.drop_duplicates(["user_id", "item_id"]))
    assert 0.02 <= pairs / (2000 * 500) <= 0.05
    assert data.report.findings == ()


def test_the_same_seed_gives_identical_frames_and_another_seed_others() -> None:
    one, same, other = (generate(SyntheticConfig(n_users=50, n_items=60, seed=seed)) for seed in (1, 1, 2))
    for table in ("events", "items", "users"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(same, table))
    assert not one.events.equals(other.events)


def test_segments_prices_and_event_types_have_their_shares(data: Dataset) -> None:
    gender = data.users["gender"].value_counts(normalize=True)
    assert gender["female"] == pytest.approx(0.48, abs=0.04)
    assert gender["other"] == pytest.approx(0.04, abs=0.02)
    assert data.users["age_bucket"].nunique() == 5
    price = data.items["price_bucket"].value_counts(normalize=True)
    assert [price[name] for name in ("low", "mid", "high")] == pytest.approx([0.5, 0.35, 0.15], abs=0.07)
    assert (
        data.items.groupby("price_bucket")["price"].max()["low"]
        < data.items["price"][data.items["price_bucket"] == "mid"].min()
    )
    kinds = data.events["event_type"].value_counts(normalize=True)
    assert kinds.index.tolist() == ["view", "click", "like", "purchase"]
    assert kinds["purchase"] > 0.04


def test_cold_users_and_items_are_in_their_tables_and_in_no_event(data: Dataset) -> None:
    assert data.report.checks["users without events"] == 100
    assert data.report.checks["items without events"] >= 25


def test_items_arrive_over_time_and_none_is_taken_before_it_exists(data: Dataset) -> None:
    start = SyntheticConfig().start_ms
    assert 0.25 < (data.items["created_at"] > start).mean() < 0.55
    assert data.report.checks["items with an event before created_at"] == 0


def test_events_lie_within_the_observed_days(data: Dataset) -> None:
    config = SyntheticConfig()
    assert data.events["timestamp"].between(config.start_ms, config.end_ms - 1).all()


def test_only_views_repeat(data: Dataset) -> None:
    later = data.events[data.events.duplicated(["user_id", "item_id"])]
    assert set(later["event_type"]) <= {"view"}
    assert len(later) < 0.2 * len(data.events)


def test_popularity_is_skewed_like_zipf(data: Dataset) -> None:
    counts = data.events["item_id"].value_counts().to_numpy()
    assert counts[: len(counts) // 10].sum() > 0.25 * counts.sum()


def test_users_keep_to_two_preferred_categories(data: Dataset) -> None:
    category = data.items.set_index("item_id")["categories"].str[0]
    of_event = data.events["item_id"].map(category)
    per_user = pd.crosstab(data.events["user_id"], of_event).to_numpy()
    busy = np.sort(per_user[per_user.sum(axis=1) >= 20], axis=1)
    assert (busy[:, -2:].sum(axis=1) / busy.sum(axis=1)).mean() > 0.6


def test_popularity_drifts(data: Dataset) -> None:
    middle = len(data.events) // 2
    halves = (data.events.iloc[:middle], data.events.iloc[middle:])
    first, second = (half["item_id"].value_counts().reindex(data.items["item_id"], fill_value=0) for half in halves)
    old = (data.items["created_at"] <= SyntheticConfig().start_ms).to_numpy()
    correlation = np.corrcoef(first.to_numpy()[old], second.to_numpy()[old])[0, 1]
    assert 0.2 < correlation < 0.97


def test_what_comes_next_depends_on_what_came_before(data: Dataset) -> None:
    ordered = data.events.sort_values(["user_id", "timestamp"], kind="stable")
    following = ordered["item_id"].shift(-1)[ordered["user_id"] == ordered["user_id"].shift(-1)]
    pairs = pd.DataFrame({"now": ordered["item_id"].reindex(following.index), "next": following})
    pairs["share"] = 1 / pairs.groupby("now")["next"].transform("size")
    by_pair = pairs.groupby(["now", "next"])["share"].sum()
    strongest = by_pair.groupby("now").max()
    best_by_popularity = data.events["item_id"].value_counts(normalize=True).iloc[0]
    assert strongest.median() > 4 * best_by_popularity


def test_texts_and_titles_carry_the_category(data: Dataset) -> None:
    assert data.items["title"].is_unique
    row = data.items.iloc[0]
    assert row["categories"][0] in row["text"]
    assert row["creator"] in row["text"]
    assert data.items["categories"].map(len).eq(1).all()
    assert data.items["categories"].str[0].nunique() >= 6


def test_a_trivial_item_item_model_clearly_beats_popularity(data: Dataset) -> None:
    split = leave_last_out(data.events)
    users, items = data.users["user_id"], data.items["item_id"]
    row = pd.Series(range(len(users)), index=users)
    column = pd.Series(range(len(items)), index=items)
    known = pd.concat([split.train, split.validation])
    taken = np.zeros((len(users), len(items)), dtype=np.float32)
    taken[known["user_id"].map(row), known["item_id"].map(column)] = 1
    norms = np.maximum(np.linalg.norm(taken, axis=0), 1)
    cosine = taken.T @ taken / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0)
    test_user = split.test["user_id"].map(row).to_numpy()
    target = split.test["item_id"].map(column).to_numpy()
    by_cosine = hit_rate(taken[test_user] @ cosine, taken[test_user], target)
    by_popularity = hit_rate(np.tile(taken.sum(axis=0), (len(test_user), 1)), taken[test_user], target)
    assert by_cosine > 1.5 * by_popularity, (by_cosine, by_popularity)


def hit_rate(scores: npt.NDArray[Any], taken: npt.NDArray[Any], target: npt.NDArray[Any]) -> float:
    """HR@10 over users whose last item is new to them, with what they had left out."""
    new = taken[np.arange(len(target)), target] == 0
    scores = np.where(taken > 0, -np.inf, scores)[new]
    rank = (scores > scores[np.arange(len(scores)), target[new]][:, None]).sum(axis=1)
    return float((rank < 10).mean())


@pytest.mark.parametrize(("n_users", "n_items"), [(1, 1), (1, 40), (40, 1), (3, 2), (30, 2000)])
def test_tiny_and_lopsided_sizes_work(n_users: int, n_items: int) -> None:
    data = generate(SyntheticConfig(n_users=n_users, n_items=n_items))
    assert (data.report.users, data.report.items) == (n_users, n_items)


@pytest.mark.parametrize("n_categories", [1, 2, 10])
def test_any_number_of_named_categories_works(n_categories: int) -> None:
    data = generate(SyntheticConfig(n_users=40, n_items=300, n_categories=n_categories))
    assert data.items["categories"].str[0].nunique() == n_categories


def test_more_users_than_one_chunk_each_have_events() -> None:
    config = SyntheticConfig(n_users=9000, n_items=50, events_per_user=2, cold_user_fraction=0)
    assert generate(config).report.checks["users without events"] == 0


@pytest.mark.parametrize(
    ("setting", "value"),
    [("n_users", 0), ("n_items", -1), ("follow", 1.5), ("n_categories", 11), ("cold_user_fraction", 1.0), ("days", 0)],
)
def test_an_impossible_setting_is_refused_by_name(setting: str, value: float) -> None:
    with pytest.raises(DataError, match=setting if setting != "cold_user_fraction" else "cold"):
        SyntheticConfig(**{setting: value})  # type: ignore[arg-type]
