"""Fitting rating models on ratings that hidden factors made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tandem_trainer.ratings.baselines import fit_biases
from tandem_trainer.ratings.fit import RatingTraining, fit_pairs, fit_ratings, predict
from tandem_trainer.ratings.inputs import RatingFeatures, Ratings
from tandem_trainer.ratings.models import DotModel, IdTowers, IdTowerSettings, VectorTowers, VectorTowerSettings

USERS, ITEMS = 60, 50
RNG = np.random.default_rng(0)
TASTE = RNG.normal(size=(USERS + 1, 2)) @ RNG.normal(size=(2, ITEMS + 1))


def ratings(n: int, seed: int) -> Ratings:
    rng = np.random.default_rng(seed)
    users, items = rng.integers(1, USERS + 1, n), rng.integers(1, ITEMS + 1, n)
    values = np.clip(3 + TASTE[users, items] + rng.normal(0, 0.1, n), 1, 5).astype(np.float32)
    return Ratings(users, items, values, np.zeros((n, 1), np.float32))


FEATURES = RatingFeatures(
    np.zeros((USERS + 1, 0), np.int64),
    (),
    (),
    (),
    np.random.default_rng(1).normal(size=(USERS + 1, 8)).astype(np.float32),
    np.random.default_rng(2).normal(size=(ITEMS + 1, 8)).astype(np.float32),
    np.zeros((ITEMS + 1, 1), np.float32),
    np.zeros(USERS + 1, np.bool_),
)
TRAIN, VALIDATION, TEST = ratings(2500, 1), ratings(300, 2), ratings(300, 3)


def id_towers(seed: int = 0) -> IdTowers:
    torch.manual_seed(seed)
    return IdTowers(FEATURES, IdTowerSettings(dropout=0.0), float(TRAIN.values.mean()))


def mse(predicted: np.ndarray) -> float:
    return float(np.mean((predicted - TEST.values) ** 2))


def test_id_towers_learn_tastes_that_biases_cannot() -> None:
    fitted = fit_ratings(
        id_towers(), TRAIN, VALIDATION, RatingTraining(learning_rate=5e-3, batch_size=64, epochs=25), seed=0
    )
    biases = fit_biases(TRAIN, USERS + 1, ITEMS + 1)
    assert mse(predict(fitted.model, TEST)[:, 0]) < 0.5 * mse(biases.predict(TEST))


def test_the_best_epoch_is_kept_and_the_history_says_which_it_was() -> None:
    # So fast that later epochs are worse than the best one.
    settings = RatingTraining(optimizer="nadam", learning_rate=0.1, batch_size=250, epochs=8, patience=8)
    torch.manual_seed(0)
    fitted = fit_ratings(DotModel(USERS, ITEMS, 32, 3.0), TRAIN, VALIDATION, settings, seed=0)
    found = [epoch["validation_mse"] for epoch in fitted.history]
    assert len(found) == 8
    assert fitted.best_epoch == int(np.argmin(found)) < 7
    errors = predict(fitted.model, VALIDATION)[:, 0] - VALIDATION.values
    assert float(np.mean(errors**2)) == pytest.approx(min(found), rel=1e-6)
    assert {"loss", "validation_mse", "validation_mae"} == set(fitted.history[0])


def test_fitting_stops_when_validation_no_longer_falls() -> None:
    settings = RatingTraining(optimizer="nadam", learning_rate=0.1, batch_size=250, epochs=30, patience=2)
    torch.manual_seed(0)
    fitted = fit_ratings(DotModel(USERS, ITEMS, 32, 3.0), TRAIN, VALIDATION, settings, seed=0)
    assert len(fitted.history) == fitted.best_epoch + 3 < 30


def test_the_same_seed_gives_the_same_predictions() -> None:
    settings = RatingTraining(epochs=2)
    one, other = (predict(fit_ratings(id_towers(), TRAIN, VALIDATION, settings, seed=3).model, TEST) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_one_trunk_learns_rating_and_like() -> None:
    torch.manual_seed(0)
    model = VectorTowers(FEATURES, VectorTowerSettings(like=True, dropout=0.0, head_dropout=0.0), 3.0)
    settings = RatingTraining(like_threshold=4.0, epochs=25, batch_size=64, patience=25)
    fitted = fit_ratings(model, TRAIN, VALIDATION, settings, seed=0)
    answers, likes = predict(fitted.model, TEST), TEST.values >= 4.0
    assert mse(answers[:, 0]) < 0.5 * TEST.values.var()
    liked, not_liked = answers[likes, 1], answers[~likes, 1]
    assert (liked[:, None] > not_liked).mean() > 0.9


def test_bpr_puts_what_was_liked_above_what_was_not() -> None:
    liked = [
        Ratings(part.users[keep], part.items[keep], part.values[keep], part.text[keep])
        for part in (TRAIN, VALIDATION, TEST)
        for keep in (part.values >= 4.0,)
    ]
    settings = RatingTraining(learning_rate=5e-3, batch_size=64, epochs=12, patience=12)
    fitted = fit_pairs(id_towers(), liked[0], liked[1], settings, seed=0)
    users, items = torch.from_numpy(liked[2].users), torch.from_numpy(liked[2].items)
    others = torch.from_numpy(np.argsort(TASTE[liked[2].users, 1:], axis=1)[:, 10] + 1)  # what each hardly likes
    with torch.no_grad():
        right = fitted.model.score(users, items) > fitted.model.score(users, others)
    assert right.float().mean() > 0.8  # of 58 pairs; three seeds gave .90 to .91, chance is a half
    assert fitted.history[fitted.best_epoch]["validation_wrong"] == min(e["validation_wrong"] for e in fitted.history)


def test_biases_are_shrunken_means_of_what_is_left() -> None:
    train = Ratings(
        np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2]), np.array([5, 5, 1, 1], np.float32), np.zeros((4, 1), np.float32)
    )
    biases = fit_biases(train, 4, 4, user_shrink=2.0, item_shrink=2.0)
    assert biases.mean == 3
    np.testing.assert_allclose(biases.users, [0, 1, -1, 0])  # (2 + 2) / (2 + 2)
    np.testing.assert_allclose(biases.items, 0)
    unknown = Ratings(np.array([0]), np.array([0]), np.array([3], np.float32), np.zeros((1, 1), np.float32))
    assert biases.predict(unknown).tolist() == [3.0]
