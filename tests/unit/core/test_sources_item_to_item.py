from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tandem_core.catalog import Catalog
from tandem_core.features import User
from tandem_core.filters import Eligibility, InSet
from tandem_core.sources.item_to_item import ItemToItem
from tandem_core.sparse_rows import SparseRows

NONE = np.empty(0, np.int32)
UserOf = Callable[..., User]


@pytest.fixture
def source() -> ItemToItem:
    """After i1: i2 (.5), i3 (.25), i4 (-1). After i5: i3 (.5), i6 (.5). After others: nothing."""
    indptr = np.array([0, 0, 3, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5])
    columns, values = [2, 3, 4, 3, 6], [0.5, 0.25, -1, 0.5, 0.5]
    return ItemToItem(SparseRows(indptr, np.array(columns, np.int32), np.array(values, np.float32), 12), half_life=1.0)


def test_the_rows_of_the_history_are_added_each_halved_per_event_back(
    source: ItemToItem, catalog: Catalog, user_of: UserOf
) -> None:
    found = source.find(user_of("i1", "i5"), Eligibility(catalog, NONE, None), 5)
    # Views weigh .5: newest i5 .5, i1 .25. i3 = .25 * .25 + .5 * .5, i6 = .5 * .5, i2 = .25 * .5.
    assert found.rows.tolist() == [3, 6, 2]
    assert found.scores.tolist() == pytest.approx([0.3125, 0.25, 0.125])


def test_ties_go_to_the_smaller_row(source: ItemToItem, catalog: Catalog, user_of: UserOf) -> None:
    assert source.find(user_of("i5"), Eligibility(catalog, NONE, None), 1).rows.tolist() == [3]


def test_items_that_nothing_speaks_for_are_not_found_but_scored(
    source: ItemToItem, catalog: Catalog, user_of: UserOf
) -> None:
    found = source.find(user_of("i1"), Eligibility(catalog, NONE, None), 12)
    assert found.rows.tolist() == [2, 3]
    assert found.score_rows is not None
    np.testing.assert_array_equal(found.score_rows(found.rows), found.scores)
    np.testing.assert_allclose(found.score_rows(np.array([4, 9, 2], np.int32)), [-0.5, 0, 0.25])


def test_only_eligible_items_are_found_and_take_no_place_from_others(
    source: ItemToItem, catalog: Catalog, user_of: UserOf
) -> None:
    eligible = Eligibility(catalog, np.array([3], np.int32), InSet("categories", frozenset({"Drama"})))
    assert source.find(user_of("i1", "i5"), eligible, 1).rows.tolist() == [6]


def test_without_history_or_with_items_that_have_no_row_nothing_is_found(
    source: ItemToItem, catalog: Catalog, user_of: UserOf
) -> None:
    nobody = source.find(user_of(), Eligibility(catalog, NONE, None), 5)
    assert len(nobody) == 0
    assert nobody.score_rows is None
    for items in (("i9",), ("not in the catalogue",), ("i0", "i11")):
        assert len(source.find(user_of(*items), Eligibility(catalog, NONE, None), 5)) == 0
