from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.catalog import Catalog
from tandem_core.filters import Eligibility
from tandem_core.index.base import top_k
from tandem_core.live.sources import BundleOnly
from tandem_core.sources.base import Found
from tandem_core.sources.live import LiveItems, _among_best


@given(n=st.integers(1, 3000), k=st.integers(1, 60), levels=st.integers(2, 500), seed=st.integers(0, 9))
def test_the_best_are_always_among_those_looked_at(n: int, k: int, levels: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(levels, size=n).astype(np.float32)
    looked_at = _among_best(scores, k)
    best, _ = top_k(scores, np.arange(n, dtype=np.int32), k)
    assert np.isin(best, looked_at).all()


def wide(catalog: Catalog, n: int) -> Catalog:
    """Return a catalogue of n items."""
    codes = {name: replace(c, codes=np.resize(c.codes, (n, c.codes.shape[1]))) for name, c in catalog.codes.items()}
    return Catalog(
        item_ids=[f"i{row}" for row in range(n)],
        titles=[""] * n,
        codes=codes,
        numbers={name: np.resize(column, n) for name, column in catalog.numbers.items()},
        event_counts=np.zeros(n, np.int32),
    )


@pytest.mark.parametrize("excluded", [0, 5, 1990])
def test_the_nearest_live_items_are_those_of_a_plain_search(catalog: Catalog, excluded: int) -> None:
    rng = np.random.default_rng(1)
    vectors, query = rng.normal(size=(5000, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    first = 3000
    scores = vectors[first:] @ query
    best = np.argsort(-scores, kind="stable") + first
    eligible = Eligibility(wide(catalog, 5000), best[:excluded].astype(np.int32), None)
    found = LiveItems(vectors, first, np.empty(0, np.int32)).nearest(query, eligible, 20)
    np.testing.assert_array_equal(found.rows, best[excluded : excluded + 20][: len(found)])
    assert len(found) == min(20, 2000 - excluded)
    np.testing.assert_allclose(found.scores, vectors[found.rows] @ query, atol=1e-5)


def test_a_source_that_knows_the_bundle_alone_gives_live_items_its_lowest(
    list_source: Callable[..., object], catalog: Catalog
) -> None:
    table = np.arange(12, 0, -1, dtype=np.float32)

    class Scoring:
        def find(self, user: object, eligible: Eligibility, limit: int) -> Found:
            return Found(np.array([0], np.int32), table[:1], table.__getitem__)

    class Nobody:
        class history:  # noqa: N801
            rows = np.empty(0, np.int32)

    found = BundleOnly(Scoring(), 12).find(Nobody(), Eligibility(catalog, np.empty(0, np.int32), None), 5)  # type: ignore[arg-type]
    assert found.score_rows is not None
    assert found.score_rows(np.array([3, 12, 1, 40], np.int32)).tolist() == [9, 9, 11, 9]
    assert found.score_rows(np.array([3, 1], np.int32)).tolist() == [9, 11]
    assert found.score_rows(np.array([12, 13], np.int32)).tolist() == [0, 0]
