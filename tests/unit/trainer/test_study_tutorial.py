"""The tutorial's protocol, its measures against brute force, and the study as a whole on small data."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from tandem_trainer.config import TrainConfig
from tandem_trainer.studies import tutorial_data
from tandem_trainer.studies.tutorial import ease, fit_ours, in_batch, study_tutorial, user_vectors
from tandem_trainer.studies.tutorial_data import Sample, accuracy, draw_sample, without_test_as_validation
from tandem_trainer.tower_training_settings import TowerTrainingSettings
from tandem_trainer.train import Trained

QUICK = TowerTrainingSettings(most_examples=512, validations=1)


def pairs_of(sample: Sample) -> list[tuple[int, int]]:
    return list(zip(sample.users.tolist(), sample.items.tolist(), strict=True))


@pytest.mark.parametrize("buffered", [False, True])
def test_a_sample_holds_each_pair_once_and_the_rest_is_the_remainder(trained: Trained, buffered: bool) -> None:
    sample = draw_sample(trained.dataset, buffered=buffered, rows=2000)
    everything = trained.dataset.events[["user_id", "item_id"]].drop_duplicates()
    drawn = {*pairs_of(sample), *zip(*sample.rest.tolist(), strict=True)}
    assert len(sample.users) == 2000
    assert sample.train_rows == 1600
    assert len(drawn) == 2000 + sample.rest.shape[1] == len(everything)


def test_a_buffered_shuffle_stays_with_the_first_users_and_a_full_one_does_not(trained: Trained) -> None:
    near, far = (draw_sample(trained.dataset, buffered=buffered, rows=1000) for buffered in (True, False))
    assert np.bincount(near.users).max() > np.bincount(far.users).max()
    assert len(np.unique(near.users)) < 0.6 * len(np.unique(far.users))


def test_a_buffer_that_holds_the_whole_stream_shuffles_all_of_it(trained: Trained) -> None:
    sample = draw_sample(trained.dataset, buffered=True, rows=10**9)
    assert len(set(pairs_of(sample))) == len(sample.users)
    assert sample.rest.shape == (2, 0)


def test_settings_are_chosen_on_training_rows_alone(trained: Trained) -> None:
    sample = draw_sample(trained.dataset, buffered=False, rows=2000)
    inner = without_test_as_validation(sample)
    assert pairs_of(inner) == pairs_of(sample)[:1600]
    assert inner.train_rows == 1520


def test_accuracy_counts_rows_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tutorial_data, "K", 3)
    monkeypatch.setattr(tutorial_data, "_CHUNK", 4)
    rng = np.random.default_rng(0)
    table = rng.integers(0, 6, (11, 9)).astype(np.float32)  # with ties
    seen = np.array(rng.random((11, 9)) < 0.3)
    users, items = np.nonzero(~seen & (rng.random((11, 9)) < 0.4))
    order = rng.permutation(len(users))
    got = accuracy(
        lambda some: table[some], (users[order], items[order]), scipy.sparse.csr_matrix(seen, dtype=np.float32)
    )
    want = [0, 0]
    for user, item in zip(users, items, strict=True):
        others = [other for other in range(9) if other != item and table[user, other] >= table[user, item]]
        want[0] += len(others) < 3
        want[1] += len([other for other in others if not seen[user, other]]) < 3
    assert got == pytest.approx((want[0] / len(users), want[1] / len(users)))
    assert got[0] < got[1]


def test_ease_predicts_each_item_by_ridge_regression_on_all_others() -> None:
    rng = np.random.default_rng(1)
    seen = (rng.random((40, 6)) < 0.4).astype(np.float32)
    scores = ease(scipy.sparse.csr_matrix(seen), 2.0)(np.arange(40))
    for item in range(6):
        others = np.delete(seen, item, axis=1).astype(np.float64)
        weights = np.linalg.solve(others.T @ others + 2 * np.eye(5), others.T @ seen[:, item])
        np.testing.assert_allclose(np.asarray(scores)[:, item], others @ weights, atol=1e-4)


def test_a_user_is_described_by_his_training_rows_and_nothing_else(trained: Trained) -> None:
    sample = draw_sample(trained.dataset, buffered=False, rows=2000)
    fitted, schema = fit_ours(trained.dataset, sample, TrainConfig(), QUICK)
    vectors = user_vectors(trained.dataset, sample, schema, fitted)
    other_test = sample.items.copy()
    other_test[sample.train_rows :] = 0
    changed = Sample(sample.users, other_test, sample.train_rows, sample.n_users, sample.n_items, sample.rest)
    np.testing.assert_array_equal(user_vectors(trained.dataset, changed, schema, fitted), vectors)
    # Only the user whose first training row is another changes.
    first = sample.items.copy()
    first[0] = (first[0] + 1) % sample.n_items
    changed = Sample(sample.users, first, sample.train_rows, sample.n_users, sample.n_items, sample.rest)
    moved = np.abs(user_vectors(trained.dataset, changed, schema, fitted) - vectors).max(axis=1) > 1e-6
    assert np.flatnonzero(moved).tolist() == [int(sample.users[0])]


def test_top_of_a_batch_no_larger_than_the_list_is_always_right() -> None:
    rng = np.random.default_rng(3)
    users, items = rng.normal(size=(50, 4)).astype(np.float32), rng.normal(size=(400, 4)).astype(np.float32)
    empty = np.empty((2, 0), np.int64)
    sample = Sample(rng.integers(0, 50, 600), rng.integers(0, 400, 600), 0, 50, 400, empty)
    ((size, random, chance), _) = in_batch(users, items, sample)
    assert (size, chance) == (256, 100 / 256)
    assert 0.3 < float(str(random)) < 0.5


def test_the_study_prints_arms_bounds_and_a_verdict(trained: Trained) -> None:
    report = study_tutorial(trained.dataset, TrainConfig(), towers=QUICK, rows=2000)
    assert [table.title.split(" ")[0] for table in report.tables] == ["Samples", "Top-100", "Bounds", "Our"]
    arms = report.tables[1]
    assert arms.column("arm")[2] == "two towers (ours)"
    for row in arms.rows:
        kept, left_out = (float(str(cell)) for cell in row[2:])
        assert 0 < kept <= left_out <= 1
    assert "reached: the best arm" in report.notes[0]
