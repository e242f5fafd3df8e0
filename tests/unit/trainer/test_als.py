import numpy as np
import pytest
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares

from tandem_core.index.exact import ExactIndex
from tandem_core.sources.als import Als
from tandem_trainer.als import AlsModel, AlsSettings, fit_als

SETTINGS = AlsSettings(factors=6, regularization=0.1, alpha=3.0, iterations=15)


def fold_in(model: AlsModel, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (Y'Y + Y'(C - I)Y + rI)^-1 Y'C 1 as the model's docstring states it."""
    y = model.item_factors.astype(np.float64)
    confidence = model.alpha * weights
    left = y.T @ y + (y[rows].T * (confidence - 1)) @ y[rows] + model.regularization * np.eye(y.shape[1])
    return np.linalg.solve(left, y[rows].T @ confidence)


def test_a_checkerboard_with_its_diagonal_withheld_returns_the_diagonal() -> None:
    n = 20
    users, items = np.nonzero((np.arange(n)[:, None] + np.arange(n)) % 2 == 0)
    given = users != items
    model = fit_als(users[given], items[given], np.ones(given.sum()), n, n, SETTINGS, seed=0)
    for user in range(n):
        seen = items[given & (users == user)]
        scores = model.item_factors @ fold_in(model, seen, np.ones(len(seen)))
        scores[seen] = -np.inf
        assert scores.argmax() == user


def test_folding_in_equals_what_implicit_recalculates_for_the_user() -> None:
    rng = np.random.default_rng(0)
    users, items, weights = rng.integers(0, 30, 400), rng.integers(0, 25, 400), rng.uniform(0.5, 4, 400)
    model = fit_als(users, items, weights, 30, 25, SETTINGS, seed=0)
    theirs = AlternatingLeastSquares(factors=6, regularization=model.regularization, alpha=model.alpha, num_threads=1)
    theirs.item_factors = model.item_factors
    rows, values = np.array([3, 7, 11]), np.array([1.0, 2.5, 4.0], np.float32)
    one_user = scipy.sparse.csr_matrix((values, ([0, 0, 0], rows)), shape=(1, 25))
    np.testing.assert_allclose(fold_in(model, rows, values), theirs.recalculate_user(0, one_user), atol=1e-4)
    serving = Als(ExactIndex(model.item_factors), model.alpha, model.regularization, half_life=1e9)
    np.testing.assert_allclose(serving.fold_in(rows, values), theirs.recalculate_user(0, one_user), atol=1e-4)


def test_the_same_seed_gives_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    events = rng.integers(0, 30, 300), rng.integers(0, 25, 300), np.ones(300)
    one, same, other = (fit_als(*events, 30, 25, SETTINGS, seed).item_factors for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_events_of_the_same_pair_add_up_and_negative_ones_are_left_out() -> None:
    rng = np.random.default_rng(0)
    users, items = np.divmod(rng.permutation(600)[:200], 20)
    whole = fit_als(users, items, np.full(200, 2.0), 30, 20, SETTINGS, seed=0)
    # Two halves of each event, and dislikes between them.
    split = fit_als(
        np.concatenate([users, users[:9], users]), np.concatenate([items, items[:9] - 1, items]),
        np.concatenate([np.ones(200), np.full(9, -5.0), np.ones(200)]), 30, 20, SETTINGS, seed=0,
    )  # fmt: skip
    np.testing.assert_allclose(whole.item_factors, split.item_factors, atol=1e-5)


def test_items_without_events_get_the_zero_vector() -> None:
    model = fit_als(np.array([0, 1]), np.array([0, 2]), np.array([1.0, 1.0]), 2, 4, SETTINGS, seed=0)
    assert model.item_factors.dtype == np.float32
    np.testing.assert_array_equal(np.abs(model.item_factors).sum(1) > 0, [True, False, True, False])


def test_fitting_shows_no_progress_bar(capfd: pytest.CaptureFixture[str]) -> None:
    fit_als(np.array([0, 1]), np.array([0, 2]), np.array([1.0, 1.0]), 2, 4, SETTINGS, seed=0)
    assert capfd.readouterr() == ("", "")
