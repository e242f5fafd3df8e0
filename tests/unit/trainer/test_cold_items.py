from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.sources.cold_items import ColdItems
from tandem_core.sources.cold_items_model import ColdItemModel
from tandem_core.sources.popularity_tables import PopularityTables, RankedTable
from tandem_trainer.cold_items import (
    Choice,
    ColdItemSettings,
    ColdItemTrainer,
    Events,
    TooLittleToLearn,
    ease_weights,
    weighted_histories,
)
from tandem_trainer.config import TrainConfig
from tandem_trainer.content_kernel import Mix
from tandem_trainer.data import SyntheticConfig
from tandem_trainer.data.synthetic import generate
from tandem_trainer.popularity import fit_popularity
from tandem_trainer.prepare import build_catalog, build_schema, event_weights, item_rows
from tandem_trainer.train_cold_items import fit_cold_items, with_affinity

CATEGORIES = Mix("categories alone", category=1.0)
PLAIN = Choice(CATEGORIES, noise=0.1, direct=0.3, prior=0.0, half_life=np.inf)
QUICK = ColdItemSettings(noises=(0.3,), directs=(0.3,), priors=(0.0, 0.2), half_lives=(5.0, 1e9), ease_regularization=5)
N_USERS = 200


def table(categories: list[str]) -> pd.DataFrame:
    n = len(categories)
    return pd.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(n)],
            "title": [f"thing {row}" for row in range(n)],
            "text": [""] * n,
            "categories": [[name] for name in categories],
            "creator": pd.Series([None] * n, dtype=object),
        }
    )


@pytest.fixture
def items() -> pd.DataFrame:
    """Rows 0-19 are of A and 20-39 of B; the last of each has no event."""
    return table(["A"] * 20 + ["B"] * 20)


@pytest.fixture
def events() -> Events:
    """Even users choose 8 items of A, odd ones 6 of B; rows 19 and 39 are never chosen."""
    rng = np.random.default_rng(3)
    chosen = [rng.permutation(19)[:8] if user % 2 == 0 else 20 + rng.permutation(19)[:6] for user in range(N_USERS)]
    users = np.repeat(np.arange(N_USERS), [len(rows) for rows in chosen])
    return Events(users, np.concatenate(chosen), N_USERS)


def trainer(items: pd.DataFrame, events: Events, settings: ColdItemSettings = QUICK, **change: Any) -> ColdItemTrainer:
    counts = np.bincount(events.rows, minlength=len(items))
    known = {"numbers": [], "event_counts": counts, "cold_item_events": 5, "seed": 1, **change}
    return ColdItemTrainer(items, events=events, settings=settings, **known)


def scores(model: ColdItemModel, history: list[int]) -> NDArray[np.float32]:
    anchors = model.anchor_vectors[np.searchsorted(model.anchor_rows, history)]
    taste: NDArray[np.float32] = model.item_vectors @ anchors.mean(axis=0)
    return taste


def test_an_item_counts_once_in_a_history_with_its_newest_event() -> None:
    events = Events(np.array([1, 0, 1, 1]), np.array([2, 0, 0, 2]), 3)  # user 1, newest first: 2, 0, 2
    expected = [[1, 0, 0], [0.5, 0, 1], [0, 0, 0]]
    np.testing.assert_allclose(weighted_histories(events, 3, half_life=1.0).toarray(), expected)
    np.testing.assert_allclose(weighted_histories(events, 3, np.inf).toarray(), np.array(expected) > 0)


def test_ease_weighs_an_item_by_the_others_and_never_by_itself() -> None:
    # Items 0 and 1 are chosen 2 times each, once together: with the regularization 3, 1 / (2 + 3) both ways.
    events = Events(np.array([0, 0, 1, 2, 3]), np.array([0, 1, 0, 1, 2]), 4)
    np.testing.assert_allclose(ease_weights(events, 3, 3.0), [[0, 0.2, 0], [0.2, 0, 0], [0, 0, 0]], atol=1e-12)


def test_cold_items_are_those_with_fewer_events_and_the_rest_are_anchors(items: pd.DataFrame, events: Events) -> None:
    model = trainer(items, events).fit(PLAIN)
    assert model.item_rows.tolist() == [19, 39]
    assert sorted([*model.anchor_rows, *model.item_rows]) == list(range(40))
    few = trainer(items, events, QUICK.model_copy(update={"most_anchors": 7})).fit(PLAIN)
    counts = np.bincount(events.rows, minlength=40)
    assert len(few.anchor_rows) == 7
    assert counts[few.anchor_rows].min() >= np.sort(counts)[-7]


def test_a_cold_item_is_for_those_who_like_its_category(items: pd.DataFrame, events: Events) -> None:
    model = trainer(items, events).fit(PLAIN)
    of_a, of_b = scores(model, [0, 1, 2]), scores(model, [20, 21])
    assert of_a[0] > 0 > of_a[1] - 0.05
    assert of_a[0] > 5 * abs(of_a[1])
    assert of_b[1] > 5 * abs(of_b[0])


def test_the_prior_is_the_log_popularity_of_items_like_it(items: pd.DataFrame, events: Events) -> None:
    model = trainer(items, events).fit(PLAIN)
    levels = np.log1p(np.bincount(events.rows, minlength=40))
    # Within a category all anchors are equal: the posterior mean is the shrunken mean of the category.
    mean, shrunk = levels[model.anchor_rows].mean(), 19 / (19 + 0.1)
    expected = [mean + shrunk * (levels[part].mean() - mean) for part in (slice(0, 19), slice(20, 39))]
    np.testing.assert_allclose(model.prior, expected, rtol=1e-6)
    assert model.prior[0] > model.prior[1]


def test_the_prior_scales_scores_by_expected_popularity_and_leaves_taste_as_it_is(
    items: pd.DataFrame, events: Events
) -> None:
    fitter = trainer(items, events)
    plain = fitter.fit(PLAIN)
    weighted = fitter.fit(Choice(CATEGORIES, 0.1, 0.3, prior=0.7, half_life=np.inf))
    expected = scores(plain, [0, 20]) * np.exp(0.7 * (plain.prior - plain.prior.mean()))
    np.testing.assert_allclose(scores(weighted, [0, 20]), expected, rtol=1e-3, atol=1e-6)


def test_all_directions_give_the_exact_scores_and_few_come_close(items: pd.DataFrame, events: Events) -> None:
    mixed = items.assign(categories=[["A"], ["B"]] * 20)  # cold items 19 (B) and 39 (B) are now alike
    exact, one = (trainer(mixed, events, QUICK.model_copy(update={"dims": dims})).fit(PLAIN) for dims in (512, 1))
    assert exact.item_vectors.shape == (2, 2)
    assert one.item_vectors.shape == (2, 1)
    np.testing.assert_allclose(scores(one, [1, 3]), scores(exact, [1, 3]), rtol=1e-3)


def test_events_of_cold_items_change_nothing(items: pd.DataFrame, events: Events) -> None:
    counts = np.bincount(events.rows, minlength=40)
    seen = Events(np.append(events.users, [0, 1, 2]), np.append(events.rows, [19, 19, 39]), N_USERS)
    one = trainer(items, events, event_counts=counts)
    other = trainer(items, seen, event_counts=counts)
    assert one.choose() == other.choose()
    np.testing.assert_array_equal(one.fit(PLAIN).item_vectors, other.fit(PLAIN).item_vectors)
    np.testing.assert_array_equal(one.fit(PLAIN).prior, other.fit(PLAIN).prior)


def test_the_choice_finds_content_that_matters_and_repeats(items: pd.DataFrame, events: Events) -> None:
    choice = trainer(items, events).choose()
    assert choice == trainer(items, events).choose()
    assert choice.mix.category > 0  # titles say nothing here
    assert choice.ndcg > 0.5


def test_too_few_warm_items_are_refused_with_a_clear_word(items: pd.DataFrame, events: Events) -> None:
    with pytest.raises(TooLittleToLearn, match="0 items have 1000 events or more: cold items need warm ones"):
        trainer(items, events, cold_item_events=1000)


def test_a_data_set_without_cold_items_gives_an_empty_model(items: pd.DataFrame, events: Events) -> None:
    model = trainer(items, events, cold_item_events=0, event_counts=np.full(40, 9)).fit(PLAIN)
    assert (len(model.item_rows), len(model.prior)) == (0, 0)


def test_a_bundle_gets_a_model_of_its_cold_items_or_none_where_nothing_is_warm() -> None:
    dataset = generate(SyntheticConfig(n_users=150, n_items=80, seed=4))
    config = TrainConfig()
    catalog = build_catalog(dataset, dataset.events, 8)
    schema = build_schema(dataset, dataset.events, catalog, config)
    profiles = dataset.events[["user_id"]].merge(dataset.users, on="user_id", how="left")
    rows, weights = item_rows(catalog, dataset.events), event_weights(schema, dataset.events)
    popularity = fit_popularity(rows, weights, profiles, schema, catalog)
    found = fit_cold_items(dataset, dataset.events, catalog, schema, popularity, QUICK, 1)
    assert found is not None
    source = ColdItems(found[0], catalog, schema.cold_item_events)
    assert (catalog.event_counts[source.model.item_rows] == 0).any()  # true cold items, which training never saw
    assert len(source.model.segments)
    none_warm = schema.model_copy(update={"cold_item_events": 10**6})
    assert fit_cold_items(dataset, dataset.events, catalog, none_warm, popularity, QUICK, 1) is None


def test_affinity_is_the_logarithm_of_a_segments_share_over_everybodys() -> None:
    def popular(rows: list[int], shares: list[float]) -> RankedTable:
        return RankedTable(np.array(rows, np.int32), np.array(shares, np.float32))

    catalog = Catalog(
        ["a", "b", "c"],
        ["", "", ""],
        {"categories": CodeColumn(np.array([[0, -1], [1, -1], [0, 1]], np.int32), ["A", "B"])},
        {},
        np.array([5, 3, 2], np.int32),
    )
    tables = PopularityTables(
        {
            "global": popular([0, 1, 2], [0.5, 0.3, 0.2]),  # A .7, B .5: shares 7/12 and 5/12
            "segment:age=25": popular([0, 2], [0.5, 0.5]),  # A 1, B .5: shares 2/3 and 1/3
            "category:A": popular([0], [1.0]),
        }
    )
    empty = ColdItemModel(
        np.array([0], np.int32),
        np.ones((1, 1), np.float32),
        np.array([2], np.int32),
        np.ones((1, 1), np.float32),
        np.ones(1, np.float32),
        (),
        np.empty((0, 0), np.float32),
        1.0,
    )
    model = with_affinity(empty, tables, catalog)
    assert model.segments == ("age=25",)
    expected = [np.log((2 / 3 + 0.01) / (7 / 12 + 0.01)), np.log((1 / 3 + 0.01) / (5 / 12 + 0.01))]
    np.testing.assert_allclose(model.affinity, [expected], rtol=1e-5)
