from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from tandem_trainer.cold_items import ColdItemSettings
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset, SyntheticConfig, filter_min_interactions, load_dataset
from tandem_trainer.data.synthetic import generate
from tandem_trainer.studies.cold import LEAKED, OURS, ColdStudy, cold_split, ratio_of_means, study_cold
from tandem_trainer.studies.cold_baselines import ALL, best, choose_neighbours, neighbour_scores, text_vectors

QUICK = ColdItemSettings(noises=(1.0,), directs=(0.3,), priors=(0.0, 0.2), half_lives=(1e9,), ease_regularization=50)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return filter_min_interactions(generate(SyntheticConfig(n_users=600, n_items=200, seed=3)), 5, 0)


@pytest.fixture(scope="module")
def study(dataset: Dataset) -> ColdStudy:
    return study_cold(dataset, TrainConfig(), QUICK, fraction=0.2, resamples=200)


def test_a_cold_item_has_no_training_event_and_nothing_is_lost(dataset: Dataset) -> None:
    split = cold_split(dataset, 0.2, seed=5)
    cold = set(dataset.items["item_id"].iloc[split.cold])
    assert len(cold) == round(0.2 * len(dataset.items))
    assert not cold & set(split.train["item_id"])
    assert set(split.truth["item_id"]) <= cold
    assert len(split.train) + len(split.truth) == len(dataset.events)
    np.testing.assert_array_equal(split.cold, cold_split(dataset, 0.2, seed=5).cold)
    assert split.cold.tolist() != cold_split(dataset, 0.2, seed=6).cold.tolist()


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_split_without_a_side_is_refused(fraction: float, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="some must be cold and some not"):
        cold_split(dataset, fraction, 0)


def test_planted_tastes_are_found_in_items_that_nobody_chose(study: ColdStudy) -> None:
    ndcg = {name: arm.ndcg for name, arm in study.arms.items()}
    assert ndcg["taste"].low > ndcg["random"].high
    assert ndcg[OURS].low > ndcg["random"].high
    assert {arm.ndcg.n for arm in study.arms.values()} == {study.users}
    assert study.baseline in {"category cosine", "TF-IDF cosine", "TF-IDF neighbours"}
    assert study.ratio.low < study.ratio.mean < study.ratio.high
    assert study.ratio.mean == pytest.approx(ndcg[OURS].mean / ndcg[study.baseline].mean)


def test_what_is_known_of_the_truth_reaches_the_leaked_arm_alone(dataset: Dataset, study: ColdStudy) -> None:
    """Users' events on cold items are dealt out anew: no list that does not leak may change."""
    split = cold_split(dataset, 0.2, TrainConfig().seed)
    changed = dataset.events.copy()
    names = dataset.items["item_id"].iloc[split.cold].to_numpy(dtype=object)
    drawn = names[np.random.default_rng(0).integers(0, 3, len(split.truth))]  # three cold items get all events
    changed.loc[split.truth.index, "item_id"] = drawn
    other = study_cold(
        Dataset(dataset.name, changed, dataset.items, dataset.users, dataset.schema, dataset.report),
        TrainConfig(),
        QUICK,
        fraction=0.2,
        resamples=10,
    )
    assert (other.choice, other.neighbours) == (study.choice, study.neighbours)
    assert other.arms[LEAKED].recall.mean == 1.0  # it saw what is chosen now


def test_every_arm_appears_for_data_with_categories_and_profiles(study: ColdStudy) -> None:
    assert list(study.arms) == [
        "random",
        "category cosine",
        "TF-IDF cosine",
        "TF-IDF neighbours",
        "prior",
        "prior and segment",
        "taste",
        OURS,
        LEAKED,
    ]


def test_neighbours_are_the_nearest_warm_items_that_the_history_holds() -> None:
    vectors = scipy.sparse.csr_matrix([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1], [1, 0]])  # row 4 is cold
    histories = scipy.sparse.csr_matrix([[1, 0, 1, 1, 0], [0, 1, 0, 0, 0]])
    cold = np.array([4])
    assert neighbour_scores(vectors, histories, cold).ravel().tolist() == pytest.approx([1.6, 0.8])
    assert neighbour_scores(vectors, histories, cold, 2).ravel().tolist() == pytest.approx([1.0, 0.8])
    assert neighbour_scores(vectors, histories, cold, 1).ravel().tolist() == pytest.approx([1.0, 0.0])


def test_the_number_of_neighbours_is_chosen_on_warm_items(dataset: Dataset) -> None:
    n = len(dataset.items)
    vectors = text_vectors(dataset.items, np.arange(n))
    users, rows = np.unique(np.random.default_rng(0).integers(0, [[50], [n]], (2, 900)), axis=1)
    histories = scipy.sparse.csr_matrix((np.ones(len(users)), (users, rows)), shape=(50, n))
    assert choose_neighbours(vectors, histories, np.arange(n), 0, (3, ALL)) in {3, ALL}


def test_the_best_places_come_first_and_ties_go_to_the_first() -> None:
    assert best(np.array([[1.0, 3.0, 3.0, 2.0]]), 3).tolist() == [[1, 2, 3]]


def test_a_ratio_of_constant_arms_has_no_width() -> None:
    found = ratio_of_means(np.full(5, 0.6), np.full(5, 0.4), rng=np.random.default_rng(0), resamples=20)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((1.5, 1.5, 1.5, 5))
    paired = ratio_of_means(np.array([0.2, 0.4]), np.array([0.1, 0.2]), rng=np.random.default_rng(0), resamples=20)
    assert (paired.low, paired.high) == pytest.approx((2, 2))  # every user says twice


@pytest.mark.skipif("TANDEM_DATA_DIR" not in os.environ, reason="TANDEM_DATA_DIR is not set")
def test_cold_films_are_ranked_better_than_by_content_cosine() -> None:
    folder = Path(os.environ["TANDEM_DATA_DIR"]) / "ml-100k"
    if not folder.exists():
        pytest.skip("ml-100k is not in TANDEM_DATA_DIR")
    films = filter_min_interactions(load_dataset("ml-100k", folder), 5, 0)
    found = study_cold(films, TrainConfig(), ColdItemSettings(), resamples=200)
    assert found.ratio.low > 1
    assert found.users > 500


def test_creators_and_categories_are_words_of_the_text_baseline() -> None:
    items = pd.DataFrame(
        {"title": ["a cup", "a pot"], "text": ["", ""], "categories": [["Tea"], ["Tea"]], "creator": ["Ann", None]}
    )
    alike = (text_vectors(items, np.arange(2)) @ text_vectors(items, np.arange(2)).T).toarray()
    assert 0 < alike[0, 1] < 1
