from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tandem_core.bundle import Bundle
from tandem_core.features import User
from tandem_core.query import Query, UserEvents
from tandem_core.vectors import item_vectors, user_vectors

MakeBundle = Callable[..., Bundle]


class CountingTower:
    """Takes a user for the newest item of the history, of an empty one for the first of the catalogue."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors
        self.runs: list[int] = []

    def encode(self, users: Sequence[User]) -> np.ndarray:
        self.runs.append(len(users))
        rows = [user.history.rows[0] if len(user.history) else 0 for user in users]
        found: np.ndarray = self.vectors[rows]
        return found


def test_items_come_in_the_order_asked_unknown_ones_left_out_and_doubled_ones_doubled(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    found = item_vectors(bundle, ["i9", "lost", "i0", "i9"])
    np.testing.assert_array_equal(found, bundle.item_vectors[[9, 0, 9]])
    assert item_vectors(bundle, []).shape == (0, 8)


def test_all_users_take_one_run_of_the_tower(
    make_bundle: MakeBundle,
    item_vectors: np.ndarray,
    make_query: Callable[..., Query],
    events_of: Callable[..., UserEvents],
) -> None:
    tower = CountingTower(item_vectors)
    bundle = make_bundle(user_tower=tower)
    queries = [make_query(events=events_of("i3", "i5")), make_query(), make_query(seed_item_ids=["i7"])]
    np.testing.assert_array_equal(user_vectors(bundle, queries), item_vectors[[5, 0, 7]])
    assert tower.runs == [3]


def test_without_users_the_tower_rests(make_bundle: MakeBundle, item_vectors: np.ndarray) -> None:
    tower = CountingTower(item_vectors)
    assert user_vectors(make_bundle(user_tower=tower), []).shape == (0, 8)
    assert tower.runs == []


def test_a_bundle_that_only_ranks_says_so(make_bundle: MakeBundle, make_query: Callable[..., Query]) -> None:
    with pytest.raises(ValueError, match="loaded without the user tower"):
        user_vectors(make_bundle(), [make_query()])


def test_users_of_a_batch_have_the_vectors_they_have_alone(bundle: Bundle, make_query: Callable[..., Query]) -> None:
    """Histories of a batch are padded to the longest: what is padded must not count."""
    ids = bundle.catalog.item_ids

    def having(n: int) -> Query:
        return make_query(events=UserEvents(ids[:n], np.arange(n) * 60_000, ["like"] * n, np.zeros(n, np.float32)))

    queries = [having(40), having(0), having(1), make_query(attributes={"gender": "female"})]
    together = user_vectors(bundle, queries)
    alone = np.concatenate([user_vectors(bundle, [query]) for query in queries])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
