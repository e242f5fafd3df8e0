from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema, User, resolve_user
from tandem_core.filters import Eligibility
from tandem_core.query import Query
from tandem_core.sources.fresh import MS_PER_DAY, Fresh

NONE = np.empty(0, np.int32)


@pytest.fixture
def source(now_ms: int) -> Fresh:
    """Item i was born i days ago; 4 is unknown, 5 and 6 are born together, 0 is born tomorrow."""
    born = now_ms - MS_PER_DAY * np.array([-1, 1, 2, 3, np.nan, 5, 5, 7, 8, 9, 10, 11])
    return Fresh(born, max_age_days=8.0)


@pytest.fixture
def user(schema: FeatureSchema, catalog: Catalog, make_query: Callable[..., Query]) -> User:
    return resolve_user(schema, catalog, make_query())


def test_the_newest_come_first_up_to_the_oldest_that_is_fresh(source: Fresh, catalog: Catalog, user: User) -> None:
    found = source.find(user, Eligibility(catalog, NONE, None), 12)
    assert found.rows.tolist() == [1, 2, 3, 5, 6, 7, 8]  # not 0, which is not born, nor 4, nor 9 of nine days
    np.testing.assert_allclose(found.scores, 1 - np.array([1, 2, 3, 5, 5, 7, 8]) / 8)
    assert found.score_rows is not None
    np.testing.assert_array_equal(found.score_rows(found.rows), found.scores)
    np.testing.assert_array_equal(found.score_rows(np.array([0, 4, 9], np.int32)), 0)


def test_ineligible_items_are_passed_over(source: Fresh, catalog: Catalog, user: User) -> None:
    found = source.find(user, Eligibility(catalog, np.array([1, 3], np.int32), None), 2)
    assert found.rows.tolist() == [2, 5]


def test_a_replayed_request_finds_what_was_fresh_at_its_own_moment(
    source: Fresh, schema: FeatureSchema, catalog: Catalog, make_query: Callable[..., Query], now_ms: int
) -> None:
    then = resolve_user(schema, catalog, make_query(now_ms=now_ms - 9 * MS_PER_DAY))
    assert source.find(then, Eligibility(catalog, NONE, None), 12).rows.tolist() == [9, 10, 11]
    long_after = resolve_user(schema, catalog, make_query(now_ms=now_ms + 99 * MS_PER_DAY))
    assert len(source.find(long_after, Eligibility(catalog, NONE, None), 12)) == 0
