from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.catalog import Catalog
from tandem_core.errors import InvalidRequest, NotFound
from tandem_core.filters import Condition, Exists, InRange, InSet
from tandem_core.grpc_errors import to_status
from tandem_core.index.base import VectorIndex
from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.similar_items import SimilarQuery, mean_direction, similar_items
from tandem_core.sources.two_tower import TwoTower
from tandem_core.user_tower import UserTower

MakeBundle = Callable[..., Bundle]


def unit(vectors: Any) -> np.ndarray:
    rows = np.asarray(vectors, np.float32)
    found: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


@pytest.fixture(scope="module")
def bundle_of(make_bundle: MakeBundle) -> MakeBundle:
    """Return a bundle of these vectors, i0 upwards; the price of row r is r, unless the catalogue is given."""

    def make(vectors: np.ndarray, index: VectorIndex | None = None, catalog: Catalog | None = None) -> Bundle:
        n = len(vectors)
        price = {"price": np.arange(n, dtype=np.float64)}
        catalog = catalog or Catalog([f"i{r}" for r in range(n)], [""] * n, {}, price, np.ones(n, np.int32))
        source = TwoTower(cast(UserTower, None), index or ExactIndex(vectors))
        return make_bundle({"two_tower": source}, item_vectors=vectors, catalog=catalog)

    return make


@pytest.fixture(scope="module")
def hand(bundle_of: MakeBundle, catalog: Catalog, item_vectors: np.ndarray) -> Bundle:
    """The twelve items."""
    return bundle_of(item_vectors, catalog=catalog)


def asked(bundle: Bundle, *item_ids: str, k: int = 20, condition: Condition | None = None) -> CandidateBatch:
    return similar_items(bundle, SimilarQuery(item_ids, k, condition))


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 50), st.data())
def test_for_one_item_exact_search_is_numpys_argsort_of_the_cosine(
    bundle_of: MakeBundle, seed: int, n: int, k: int, data: st.DataObject
) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(n, 8)))
    row = data.draw(st.integers(0, n - 1))
    found = asked(bundle_of(vectors), f"i{row}", k=k)
    cosine = vectors.astype(np.float64) @ vectors[row].astype(np.float64)
    expected = np.argsort(-cosine, kind="stable")
    expected = expected[expected != row][:k]
    np.testing.assert_allclose(found.scores, cosine[found.rows], atol=1e-6)
    np.testing.assert_allclose(found.scores, cosine[expected], atol=1e-6)
    if len(expected) < 2 or np.diff(-cosine[expected]).min() > 1e-5:
        assert found.rows.tolist() == expected.tolist()


@given(st.lists(st.integers(0, 11), min_size=1, max_size=20), st.randoms())
def test_neither_order_nor_repetition_of_the_given_items_matters(hand: Bundle, rows: list[int], random: Any) -> None:
    shuffled = rows + rows[:2]
    random.shuffle(shuffled)
    one = asked(hand, *(f"i{row}" for row in rows))
    other = asked(hand, *(f"i{row}" for row in shuffled))
    np.testing.assert_array_equal(one.rows, other.rows)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert sorted(one.rows.tolist()) == sorted(set(range(12)) - set(rows))  # all others, and none of the given


def test_scores_are_cosines_with_the_mean_and_told_as_the_word_of_two_tower(hand: Bundle) -> None:
    found = asked(hand, "i1", "i6", k=4)
    mean = hand.item_vectors[[1, 6]].mean(axis=0)
    np.testing.assert_allclose(found.scores, hand.item_vectors[found.rows] @ (mean / np.linalg.norm(mean)), atol=1e-6)
    assert found.sources == ["two_tower"]
    assert found.columns["rank:two_tower"].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(found.columns["score:two_tower"], found.scores)


def test_items_as_near_as_each_other_go_by_row(bundle_of: MakeBundle) -> None:
    found = asked(bundle_of(unit([[1, 0], [0, 1], [3, 4], [1, 0], [0, 1], [3, 4], [3, 4], [-1, 0]])), "i0")
    assert found.rows.tolist() == [3, 2, 5, 6, 1, 4, 7]
    assert found.scores.tolist() == pytest.approx([1, 0.6, 0.6, 0.6, 0, 0, -1])


class TiesFalling(ExactIndex):
    """An index may settle ties as it likes: this one has the largest row first."""

    def search(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = self.vectors @ query
        rows = np.lexsort((-np.arange(len(scores)), -scores))[:k].astype(np.int32)
        return rows, scores[rows]


def test_ties_go_by_row_whatever_the_index_makes_of_them(bundle_of: MakeBundle) -> None:
    vectors = unit([[1, 0], [0, 1], [3, 4], [1, 0], [0, 1], [3, 4]])
    assert asked(bundle_of(vectors, TiesFalling(vectors)), "i0").rows.tolist() == [3, 2, 5, 1, 4]


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
@pytest.mark.parametrize("k", [1, 3, 20, 500])
def test_a_filter_never_makes_the_list_short_while_matching_items_exist(
    bundle_of: MakeBundle, kind: str, k: int
) -> None:
    vectors = unit(np.random.default_rng(1).normal(size=(2000, 8)))
    index = ExactIndex(vectors) if kind == "exact" else HnswIndex.build(vectors, 8, 50, 20, seed=0)
    bundle = bundle_of(vectors, index)
    given_rows = np.argsort(-(vectors @ vectors[7]))[:50]  # the whole neighbourhood
    found = asked(bundle, *(f"i{row}" for row in given_rows), k=k)
    assert len(found) == k
    assert not np.isin(found.rows, given_rows).any()
    cheap = asked(bundle, "i7", k=k, condition=InRange("price", high=9))
    assert len(cheap) == min(k, 9)
    assert set(cheap.rows.tolist()) <= set(range(10)) - {7}


def test_where_nothing_matches_or_only_the_given_item_does_the_list_is_empty(hand: Bundle) -> None:
    assert len(asked(hand, "i4", condition=InRange("price", low=1000))) == 0
    only = asked(hand, "i4", condition=InSet("item_id", frozenset({"i4"})))
    assert len(only) == 0
    assert only.sources == ["two_tower"]
    assert len(asked(hand, *(f"i{row}" for row in range(12)))) == 0


@pytest.mark.parametrize("scale", [1, 1 + 1e-7])
def test_items_whose_vectors_cancel_out_have_nothing_near_them(bundle_of: MakeBundle, scale: float) -> None:
    vectors = np.concatenate([unit([[1, 2, 3]]), -scale * unit([[1, 2, 3]]), unit([[1, 0, 0]])]).astype(np.float32)
    assert mean_direction(vectors[:2]) is None
    assert len(asked(bundle_of(vectors), "i0", "i1")) == 0
    assert asked(bundle_of(vectors), "i0", "i1", "i2").rows.tolist() == []  # a direction, and nobody left
    np.testing.assert_allclose(mean_direction(vectors), [1, 0, 0], atol=1e-6)


def test_an_item_without_a_vector_has_nothing_near_it(bundle_of: MakeBundle) -> None:
    vectors = np.array([[0, 0], [1, 0]], np.float32)
    assert len(asked(bundle_of(vectors), "i0")) == 0


def test_unknown_items_are_named(hand: Bundle) -> None:
    with pytest.raises(NotFound, match="bundle b1 has no item 'lost', 'gone': ask"):
        asked(hand, "i1", "lost", "i2", "gone")


@pytest.mark.parametrize("character", ["\U0010ffff", "\U0001f600", "x"])
def test_fifty_unknown_items_of_the_longest_names_fit_into_a_trailer(hand: Bundle, character: str) -> None:
    with pytest.raises(NotFound, match="and 47 more") as caught:
        asked(hand, *[character * 256] * 50)
    status = to_status(caught.value)
    # Clients refuse metadata above 8 KiB; details travel in base64, the message percent-encoded.
    assert len(status.SerializeToString()) * 4 / 3 + len(quote(status.message, safe=string.printable)) < 8192


def test_columns_that_the_bundle_does_not_have_are_named_before_items_that_it_does_not_have(hand: Bundle) -> None:
    with pytest.raises(InvalidRequest) as caught:
        asked(hand, "lost", condition=Exists("colour"))
    assert caught.value.violations[0].field == "filter.exists.column"


def test_a_bundle_without_the_index_is_told_apart_from_an_empty_answer(make_bundle: MakeBundle) -> None:
    with pytest.raises(ValueError, match="loaded without the index of two_tower"):
        asked(make_bundle(), "i1")
