"""Linear and neighbour models of items, against naive dense implementations."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.sparse_rows import SparseRows
from tandem_trainer.ease import fit_ease
from tandem_trainer.item_knn import fit_item_knn
from tandem_trainer.slist import SlistSettings, fit_slist

N = 7


def dense(matrix: SparseRows) -> np.ndarray:
    every = np.arange(matrix.n_columns)
    return np.stack([matrix.weighted_sum(np.array([row]), np.ones(1)).at(every) for row in range(len(matrix))])


def naive_slist(users: np.ndarray, items: np.ndarray, weights: np.ndarray, settings: SlistSettings) -> np.ndarray:
    """The definition, example by example."""
    xs, ys, counted = [], [], []
    for user in np.unique(users):
        mine = [(items[e], weights[e]) for e in range(len(users)) if users[e] == user and weights[e] > 0]
        for t in range(1, len(mine)):
            x, y = np.zeros(N), np.zeros(N)
            for back, (item, weight) in enumerate(reversed(mine[:t])):
                x[item] += weight * 0.5 ** (back / settings.half_life)
            y[mine[t][0]] = 1
            xs.append(x)
            ys.append(y)
            counted.append(mine[t][1])
    x, y, w = np.array(xs).reshape(-1, N), np.array(ys).reshape(-1, N), np.diag(counted)
    solved: np.ndarray = np.linalg.solve(x.T @ w @ x + settings.regularization * np.eye(N), x.T @ w @ y)
    return solved


@given(st.integers(0, 10_000))
def test_slist_solves_the_ridge_regression_of_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    events = int(rng.integers(1, 60))
    users, items = rng.integers(0, 4, events), rng.integers(0, N, events)
    weights = rng.choice([-2.0, 0.2, 1.0, 5.0], events)
    settings = SlistSettings(half_life=float(rng.uniform(4, 9)), regularization=float(rng.uniform(0.5, 20)))
    got = dense(fit_slist(users, items, weights, N, settings))
    np.testing.assert_allclose(got, naive_slist(users, items, weights, settings), atol=2e-3)


def test_slist_learns_what_comes_next_and_not_what_came_before() -> None:
    users, items = np.repeat(np.arange(50), 3), np.tile([0, 1, 2], 50)
    model = dense(fit_slist(users, items, np.ones(150), N, SlistSettings(half_life=1, regularization=0.01)))
    assert model[0].argmax() == 1
    assert model[0, 1] == pytest.approx(1, abs=0.01)
    assert model[1].argmax() == 2
    assert not model[2:].any()  # nothing ever came after 2, and the others have no events


def test_slist_keeps_the_largest_entries_by_absolute_value() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 9, 300), rng.integers(0, N, 300)
    whole = dense(fit_slist(users, items, np.ones(300), N, SlistSettings(regularization=1)))
    few = dense(fit_slist(users, items, np.ones(300), N, SlistSettings(regularization=1, neighbours=2)))
    for kept, entries in zip(few, whole, strict=True):
        assert set(np.flatnonzero(kept)) == set(np.argsort(-np.abs(entries))[:2])
        np.testing.assert_array_equal(kept[kept != 0], entries[kept != 0])


def test_slist_takes_the_most_popular_items_of_a_large_catalogue_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    users, items = np.repeat(np.arange(10), 3), np.tile([4, 1, 6], 10)
    items[2] = 5  # the rarest; 1 and 4 are the most popular, 6 follows
    with caplog.at_level(logging.WARNING):
        model = fit_slist(users, items, np.ones(30), N, SlistSettings(regularization=1, most_items=3))
    assert "take no part" in caplog.text
    assert set(model.columns.tolist()) <= {1, 4, 6}
    assert dense(model)[4].argmax() == 1
    again = fit_slist(*(a[items != 5] for a in (users, items, np.ones(30))), N, SlistSettings(regularization=1))
    np.testing.assert_array_equal(dense(model), dense(again))


def test_slist_of_no_events_is_empty() -> None:
    model = fit_slist(np.array([0, 1]), np.array([3, 3]), np.zeros(2), N, SlistSettings())
    assert (len(model), len(model.columns)) == (N, 0)


def random_pairs(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users and items of events, some pairs more than once, and the 0/1 matrix of them."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 9, 40), rng.integers(0, N - 1, 40)  # the last item has no events
    matrix = np.zeros((9, N))
    matrix[users, items] = 1
    return users, items, matrix


@given(st.integers(0, 1000))
def test_ease_minimises_its_loss_under_a_zero_diagonal(seed: int) -> None:
    users, items, x = random_pairs(seed)
    got = fit_ease(users, items, 9, N, regularization=2.0)
    np.testing.assert_array_equal(np.diag(got), 0)
    for j in range(N):  # each column alone: ridge regression of item j on all the others
        others = np.delete(np.arange(N), j)
        a = x[:, others]
        column = np.linalg.solve(a.T @ a + 2.0 * np.eye(N - 1), a.T @ x[:, j])
        np.testing.assert_allclose(got[others, j], column, atol=1e-5)


@given(st.integers(0, 1000), st.integers(1, N), st.sampled_from([0.0, 3.0]))
def test_item_knn_keeps_the_nearest_by_shrunk_cosine(seed: int, neighbours: int, shrinkage: float) -> None:
    users, items, x = random_pairs(seed)
    got = dense(fit_item_knn(users, items, 9, N, neighbours, shrinkage))
    for i in range(N):
        similar = [
            0.0 if i == j or not x[:, i] @ x[:, j]
            else x[:, i] @ x[:, j] / (np.sqrt(x[:, i].sum() * x[:, j].sum()) + shrinkage)
            for j in range(N)
        ]  # fmt: skip
        assert np.count_nonzero(got[i]) == min(neighbours, np.count_nonzero(similar))
        np.testing.assert_allclose(np.sort(got[i])[::-1][:neighbours], np.sort(similar)[::-1][:neighbours], atol=1e-6)
        kept = got[i] > 0
        np.testing.assert_allclose(got[i][kept], np.array(similar)[kept], atol=1e-6)
