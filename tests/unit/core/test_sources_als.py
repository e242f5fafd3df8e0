from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, resolve_user
from tandem_core.filters import Eligibility
from tandem_core.index.exact import ExactIndex
from tandem_core.query import Query, UserEvents
from tandem_core.sources.als import Als

NONE = np.empty(0, np.int32)


def fitted(likes: np.ndarray, factors: int, seed: int = 0) -> np.ndarray:
    """Return item factors of plain weighted ALS on a 0/1 matrix, straight from the paper, confidence 1 + alpha * 1."""
    rng = np.random.default_rng(seed)
    n_users, n_items = likes.shape
    items = rng.normal(size=(n_items, factors)) / factors
    for _ in range(15):
        users = np.stack([solve(items, likes[u]) for u in range(n_users)])
        items = np.stack([solve(users, likes[:, i]) for i in range(n_items)])
    return items.astype(np.float32)


def solve(other: np.ndarray, liked: np.ndarray, alpha: float = 3.0, regularization: float = 0.1) -> np.ndarray:
    """Return (Y'CY + rI)^-1 Y'Cp with the whole diagonal matrix C: alpha where liked, 1 elsewhere."""
    confidence = np.where(liked > 0, alpha * liked, 1.0)
    left = other.T @ np.diag(confidence) @ other + regularization * np.eye(other.shape[1])
    answer: np.ndarray = np.linalg.solve(left, other.T @ (confidence * (liked > 0)))
    return answer


def als(factors: np.ndarray, half_life: float = 1e9) -> Als:
    return Als(ExactIndex(factors.astype(np.float32)), alpha=3.0, regularization=0.1, half_life=half_life)


@given(st.lists(st.integers(0, 29), min_size=1, max_size=12), st.integers(0, 9))
def test_folding_in_solves_the_normal_equations_and_weights_of_one_item_add_up(rows: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    factors, weights = rng.normal(size=(30, 6)), rng.uniform(0.1, 5, len(rows))
    liked = np.bincount(rows, weights, minlength=30)
    got = als(factors).fold_in(np.array(rows, np.int32), weights.astype(np.float32))
    np.testing.assert_allclose(got, solve(factors, liked), rtol=2e-3, atol=2e-4)


def test_two_events_on_an_item_weigh_as_one_of_their_sum() -> None:
    source = als(np.random.default_rng(0).normal(size=(10, 4)))
    split = source.fold_in(np.array([3, 5, 3], np.int32), np.array([1, 2, 0.5], np.float32))
    whole = source.fold_in(np.array([3, 5], np.int32), np.array([1.5, 2], np.float32))
    np.testing.assert_allclose(split, whole, atol=1e-6)


def test_a_checkerboard_with_its_diagonal_withheld_returns_exactly_the_diagonal(
    schema: FeatureSchema, make_query: Callable[..., Query]
) -> None:
    n = 16
    board = (np.add.outer(np.arange(n), np.arange(n)) % 2 == 0).astype(np.float64)
    np.fill_diagonal(board, 0)
    source = als(fitted(board, factors=8))
    catalog = Catalog([str(i) for i in range(n)], [""] * n, {}, {}, np.ones(n, np.int32))
    for user in range(n):
        liked = np.flatnonzero(board[user])
        events = UserEvents(
            [str(i) for i in liked], np.arange(len(liked)), ["new type"] * len(liked), np.zeros(len(liked), np.float32)
        )
        resolved = resolve_user(schema, catalog, make_query(events=events))
        found = source.find(resolved, Eligibility(catalog, resolved.interacted, None), 1)
        assert found.rows.tolist() == [user]


def test_newer_events_count_for_more(
    schema: FeatureSchema, catalog: Catalog, make_query: Callable[..., Query], events_of: Callable[..., UserEvents]
) -> None:
    factors = np.eye(12, dtype=np.float32)  # each item its own taste: its score is what the history says of it alone
    user = resolve_user(schema, catalog, make_query(events=events_of("i1", "i2", "i3")))
    found = als(factors, half_life=1.0).find(user, Eligibility(catalog, NONE, None), 3)
    assert found.rows.tolist() == [3, 2, 1]
    # Without cross terms x = c / (c + r), c = alpha * weight: views weigh .5, halved at each step back.
    assert found.scores.tolist() == pytest.approx([c / (c + 0.1) for c in (1.5, 0.75, 0.375)], rel=1e-5)


def test_a_user_without_history_gets_nothing(
    schema: FeatureSchema, catalog: Catalog, make_query: Callable[..., Query], events_of: Callable[..., UserEvents]
) -> None:
    source = als(np.eye(12))
    for events in (events_of(), events_of("i1", types=["dislike"])):
        user = resolve_user(schema, catalog, make_query(events=events, attributes={"age": "25"}))
        assert len(source.find(user, Eligibility(catalog, NONE, None), 5)) == 0
