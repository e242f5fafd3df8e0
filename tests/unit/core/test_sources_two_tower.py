from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import pytest

from tandem_core.catalog import Catalog
from tandem_core.features import User
from tandem_core.filters import Condition, Eligibility, InRange, InSet
from tandem_core.index.base import VectorIndex
from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.query import Regime
from tandem_core.sources.base import nearest
from tandem_core.sources.two_tower import TwoTower
from tandem_core.user_tower import UserTower

NONE = np.empty(0, np.int32)


class NewestItem:
    """A tower that takes the user for the newest item of the history."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def encode(self, users: list[User]) -> np.ndarray:
        return np.stack(
            [self.vectors[user.history.rows[0]] if len(user.history) else self.vectors[0] for user in users]
        )


@pytest.fixture(scope="module")
def source(item_vectors: np.ndarray) -> TwoTower:
    return TwoTower(cast(UserTower, NewestItem(item_vectors)), ExactIndex(item_vectors))


def test_a_user_of_whom_nothing_is_known_gets_nothing(
    source: TwoTower, catalog: Catalog, user_of: Callable[..., User]
) -> None:
    user = user_of()
    assert user.regime is Regime.UNKNOWN
    assert len(source.find(user, Eligibility(catalog, NONE, None), 5)) == 0


def test_a_profile_alone_is_enough(source: TwoTower, catalog: Catalog, user_of: Callable[..., User]) -> None:
    assert len(source.find(user_of(attributes={"age": "25"}), Eligibility(catalog, NONE, None), 5)) == 5


def test_scores_are_the_true_inner_products_best_first(
    source: TwoTower, catalog: Catalog, item_vectors: np.ndarray, user_of: Callable[..., User]
) -> None:
    found = source.find(user_of("i4"), Eligibility(catalog, NONE, None), 12)
    assert found.rows[0] == 4
    assert found.scores[0] == pytest.approx(1)
    np.testing.assert_allclose(found.scores, item_vectors[found.rows] @ item_vectors[4], atol=1e-6)
    assert np.all(np.diff(found.scores) <= 0)
    assert sorted(found.rows.tolist()) == list(range(12))


def test_excluded_rows_are_never_returned_and_cost_no_place(
    source: TwoTower, catalog: Catalog, user_of: Callable[..., User]
) -> None:
    everything = source.find(user_of("i4"), Eligibility(catalog, NONE, None), 12).rows
    best = everything[:5]
    found = source.find(user_of("i4"), Eligibility(catalog, best, None), 5)
    assert found.rows.tolist() == everything[5:10].tolist()


@pytest.fixture(scope="module")
def many() -> Catalog:
    """2000 items, of which three have a price."""
    price = np.full(2000, np.nan)
    price[[5, 900, 1999]] = 1
    return Catalog([f"i{i}" for i in range(2000)], [""] * 2000, {}, {"price": price}, np.ones(2000, np.int32))


@pytest.fixture(scope="module")
def many_vectors() -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@pytest.fixture(scope="module", params=["exact", "hnsw"])
def index(request: pytest.FixtureRequest, many_vectors: np.ndarray) -> VectorIndex:
    if request.param == "exact":
        return ExactIndex(many_vectors)
    return HnswIndex.build(many_vectors, 8, 50, 20, seed=0)


@pytest.mark.parametrize(
    ("condition", "matching"),
    [
        (InRange("price"), [5, 900, 1999]),
        (InSet("item_id", frozenset({"i7", "i1000"})), [7, 1000]),
        (InSet("item_id", frozenset({"nothing"})), []),
        (InSet("item_id", frozenset(f"i{i}" for i in range(1500, 2000))), list(range(1500, 2000))),
    ],
)
def test_a_filter_never_makes_the_list_short_while_matching_items_exist(
    many: Catalog, many_vectors: np.ndarray, index: VectorIndex, condition: Condition, matching: list[int]
) -> None:
    query = many_vectors[42]
    found = nearest(index, query, Eligibility(many, NONE, condition), 20)
    truth = sorted(matching, key=lambda row: -float(many_vectors[row] @ query))[:20]
    if len(matching) <= 20 or isinstance(index, ExactIndex):
        assert found.rows.tolist() == truth
    assert len(found) == len(truth)
    np.testing.assert_allclose(found.scores, many_vectors[found.rows] @ query, atol=1e-5)


def test_excluding_the_whole_neighbourhood_leaves_a_full_list(
    many: Catalog, many_vectors: np.ndarray, index: VectorIndex
) -> None:
    query = many_vectors[42]
    nearest_rows = np.argsort(-(many_vectors @ query))[:1500].astype(np.int32)
    found = nearest(index, query, Eligibility(many, nearest_rows, None), 20)
    assert len(found) == 20
    assert not np.isin(found.rows, nearest_rows).any()
