"""What the ranker learns from, and what it is judged on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest

from tandem_core.bundle import Bundle
from tandem_core.features import FeatureSchema
from tandem_core.ranker_features import RETRIEVAL_PLACE, from_sources
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset, SyntheticConfig
from tandem_trainer.data.synthetic import generate
from tandem_trainer.inputs import history_of_validation
from tandem_trainer.offline_queries import OfflineQueries, make_queries
from tandem_trainer.progress import Progress
from tandem_trainer.ranker import RankerSettings
from tandem_trainer.ranker_examples import HeadSettings, RankerData, find_heads, ranker_examples
from tandem_trainer.ranker_fit import RankingData
from tandem_trainer.split import Split, global_time
from tandem_trainer.train import Trained
from tandem_trainer.train_ranker import train_ranker
from tandem_trainer.training_run import TrainingRun

NAMES = [RETRIEVAL_PLACE, "reciprocal_rank:als", "source_score:als", "log_events"]
EVENT = [HeadSettings(name="event", event_types=("click",))]
FAST = RankerSettings(epochs=3, folds=2, hidden=(8,), attention=0)


def examples(right_at: int, requests: int = 60, size: int = 12) -> RankingData:
    """Candidates in retrieval's order; the one at `right_at` is always right, and the last column says so."""
    place = np.tile(-np.log1p(np.arange(size)), requests).astype(np.float32)
    labels = np.tile(np.arange(size) == right_at, requests).astype(np.float32)
    features = np.random.default_rng(0).normal(size=(requests * size, len(NAMES))).astype(np.float32)
    features[:, 0], features[:, 3] = place, labels
    groups = np.repeat(np.arange(requests), size)
    return RankingData(features, labels, groups, labels[:, None], np.ones(len(labels), np.float32), np.arange(requests))


def test_the_gain_over_retrieval_has_an_interval_that_excludes_0_only_where_there_is_one() -> None:
    settings = FAST.model_copy(update={"epochs": 8, "learning_rate": 0.1, "groups_per_batch": 8})
    _, helps = train_ranker(examples(right_at=5), NAMES, EVENT, settings, 0.0, 0, Progress())
    assert helps["retrieval_heldout_ndcg@10"] == pytest.approx(1 / np.log2(7))
    assert helps["ranker_heldout_ndcg@10"] > 0.9
    assert 0 < helps["ranker_gain_low"] <= helps["ranker_gain_high"]
    _, perfect = train_ranker(examples(right_at=0), NAMES, EVENT, settings, 0.0, 0, Progress())
    assert perfect["retrieval_heldout_ndcg@10"] == 1
    assert perfect["ranker_gain_low"] <= 0  # nothing is better than right


def test_the_columns_of_sources_are_told_from_the_others() -> None:
    assert from_sources(NAMES).tolist() == [True, True, True, False]


@pytest.fixture(scope="module")
def validation(trained: Trained, bundle: Bundle) -> OfflineQueries:
    return make_queries(
        history_of_validation(trained.split),
        trained.split.validation,
        trained.dataset.users,
        list(bundle.schema.user_attributes),
        bundle.catalog,
        max_results=50,
        most_users=40,
    )


def test_examples_are_what_retrieval_returns_with_the_next_events_marked(
    bundle: Bundle, validation: OfflineQueries
) -> None:
    names = bundle.manifest.ranker_features
    settings = RankerData(candidates=50, first=20, others=10)
    heads = find_heads(settings, bundle.schema, validation, [])
    made = ranker_examples(RetrievalPipeline(bundle), validation, names, heads, settings, 0, Progress())
    assert len(made) == len(validation)  # those whose answer was not found, too: they are part of the base rate
    assert made.features.shape == (len(made.labels), len(names))
    assert np.isfinite(made.features).all()
    assert made.labels.sum() <= len(validation.relevant.rows)
    np.testing.assert_allclose(np.bincount(made.groups, made.weights), 50)  # those drawn stand for all the others
    assert made.weights[made.labels > 0].tolist() == [1.0] * int(made.labels.sum())
    place = made.features[:, names.index(RETRIEVAL_PLACE)]
    assert (np.diff(place)[np.diff(made.groups) == 0] < 0).all()  # in the order retrieval gave them
    np.testing.assert_array_equal(made.heads.max(axis=1), made.labels)  # what was chosen was chosen by some event


def test_a_head_asks_for_its_event_types_its_least_value_or_the_value_itself(
    bundle: Bundle, validation: OfflineQueries
) -> None:
    types = tuple({t for outcome in validation.outcomes for t in outcome.event_types})
    heads = [
        HeadSettings(name="any", event_types=types),
        HeadSettings(name="none", event_types=("of another world",)),
        HeadSettings(name="high", event_types=types, least_value=4.0),
        HeadSettings(name="stars", event_types=types, value=True),
    ]
    for outcome in validation.outcomes:
        outcome.values[:] = 5.0
    validation.outcomes[0].values[:] = 1.0
    settings = RankerData(candidates=50)
    made = ranker_examples(
        RetrievalPipeline(bundle), validation, bundle.manifest.ranker_features, heads, settings, 0, Progress()
    )
    right = made.labels > 0
    np.testing.assert_array_equal(made.heads[:, 0], made.labels)
    assert not made.heads[:, 1].any()
    np.testing.assert_array_equal(made.heads[:, 2] > 0, right & (made.groups > 0))
    assert np.isnan(made.heads[~right, 3]).all()
    np.testing.assert_array_equal(made.heads[right, 3], np.where(made.groups[right] > 0, 5.0, 1.0))


def test_a_right_candidate_counts_by_its_weightiest_event_of_which_a_value_may_be_a_share(
    bundle: Bundle, validation: OfflineQueries
) -> None:
    # Histories without values weigh the same either way, so that the candidates stay the same.
    bare = [
        replace(query, events=replace(query.events, values=np.full(len(query.events), np.nan, np.float32)))
        for query in validation.queries
    ]
    halves = [replace(each, values=np.full(len(each), 2.5, np.float32)) for each in validation.outcomes]
    asked = replace(validation, queries=bare, outcomes=halves)
    types = [each.model_copy(update={"full_value": 5.0}) for each in bundle.schema.event_types]
    by_value = FeatureSchema.model_validate(bundle.schema.model_dump() | {"event_types": types})

    def gains(gain: Literal["equal", "event_type", "value"], schema: FeatureSchema) -> np.ndarray:
        pipeline = RetrievalPipeline(replace(bundle, schema=schema))
        settings = RankerData(candidates=50, gain=gain)
        return ranker_examples(pipeline, asked, [RETRIEVAL_PLACE], EVENT, settings, 0, Progress()).labels

    right = gains("equal", bundle.schema) > 0
    np.testing.assert_array_equal(gains("value", bundle.schema), np.where(right, 2.5, 0))
    whole = gains("event_type", bundle.schema)
    weights = {max(each.weight, 0) for each in bundle.schema.event_types} | {1.0}
    assert set(np.unique(whole[right]).tolist()) <= {float(np.float32(each)) for each in weights}
    assert whole.any()
    np.testing.assert_allclose(gains("event_type", by_value), whole / 2)


def test_heads_follow_the_data(bundle: Bundle, validation: OfflineQueries) -> None:
    types = [t for outcome in validation.outcomes for t in outcome.event_types]
    most = max(set(types), key=types.count)
    few = RankerData(fewest_events=types.count(most))
    assert [head.name for head in find_heads(few, bundle.schema, validation, [])] == [most]
    rated = find_heads(few, bundle.schema, validation, [most])
    assert [(head.name, head.value) for head in rated] == [(most, False), (f"{most}_value", True)]
    assert [head.name for head in find_heads(RankerData(fewest_events=10**6), bundle.schema, validation, [])] == [
        "event"
    ]


def test_a_user_is_asked_about_at_several_moments_with_what_was_known_by_then(bundle: Bundle) -> None:
    ids = bundle.catalog.item_ids
    rows = [("u", ids[i], 10 * i, "click", 1.0) for i in range(7)]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event_type", "value"])
    users = pd.DataFrame({"user_id": ["u"]})
    made = make_queries(log[:2], log[2:], users, [], bundle.catalog, max_results=5, moments=3)
    assert [len(query.events) for query in made.queries] == [2, 3, 5]
    assert [query.now_ms for query in made.queries] == [20, 30, 50]
    for i, query in enumerate(made.queries):
        assert (query.events.timestamps < query.now_ms).all()
        wanted = made.relevant.rows[made.relevant.indptr[i] : made.relevant.indptr[i + 1]]
        assert wanted.tolist() == list(range(len(query.events), 7))
    assert len(make_queries(log[:5], log[5:], users, [], bundle.catalog, max_results=5, moments=9)) == 2


@pytest.fixture(scope="module")
def past_and_futures() -> tuple[Dataset, Split, Split]:
    """One log cut by time, and the same log with all other items after the training part."""
    dataset = generate(SyntheticConfig(n_users=150, n_items=80, seed=3))
    split = global_time(dataset.events, 0.15, 0.15)
    shifted = dataset.events.copy()
    later = shifted["timestamp"] > split.train["timestamp"].max()
    shifted.loc[later, "item_id"] = np.roll(shifted.loc[later, "item_id"].to_numpy(), 17)
    return dataset, split, global_time(shifted, 0.15, 0.15)


def test_another_future_changes_no_table_that_columns_are_read_from(
    past_and_futures: tuple[Dataset, Split, Split], tmp_path: Path
) -> None:
    dataset, *splits = past_and_futures
    files: list[dict[str, bytes]] = []
    for at, split in enumerate(splits):
        folder = tmp_path / str(at)
        folder.mkdir()
        run = TrainingRun(TrainConfig(), dataset, split, folder, Progress())
        run.fit_tables()
        run.fit_als()
        run.fit_item_to_item()
        files.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert splits[0].validation["item_id"].tolist() != splits[1].validation["item_id"].tolist()
    assert files[0] == files[1]


def test_another_future_changes_no_request_that_the_ranker_learns_from(
    past_and_futures: tuple[Dataset, Split, Split], bundle: Bundle
) -> None:
    dataset, *splits = past_and_futures
    asked = [
        make_queries(split.train, split.validation, dataset.users, [], bundle.catalog, max_results=5)
        for split in splits
    ]
    for one, other in zip(asked[0].queries, asked[1].queries, strict=True):
        assert (one.user_id, one.now_ms, list(one.events.item_ids)) == (
            other.user_id,
            other.now_ms,
            list(other.events.item_ids),
        )
        assert (one.events.timestamps <= one.now_ms).all()


@pytest.mark.parametrize("fixture", ["trained", "past_and_futures"])
def test_nothing_that_retrieval_is_fitted_on_is_an_answer_the_ranker_learns_from(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    """Scores of events that a model was fitted on are too good: a ranker that learned from them would trust them."""
    found = request.getfixturevalue(fixture)
    split: Split = found.split if fixture == "trained" else found[1]
    assert not set(split.train.index) & set(split.validation.index)
    assert not set(split.validation.index) & set(split.test.index)
    assert len(split.validation)
