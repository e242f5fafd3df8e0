from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tandem_core.catalog import Catalog
from tandem_core.features import User
from tandem_core.filters import Eligibility
from tandem_core.index.exact import ExactIndex
from tandem_core.sources.content_neighbours import (
    ColdContentNeighbours,
    ContentNeighbours,
    content_profile,
)

NONE = np.empty(0, np.int32)
UserOf = Callable[..., User]


@pytest.fixture
def content() -> np.ndarray:
    """Items 0 to 5 and 10 lie at 0, 15, ... 75 and 60 degrees, 11 at 200 degrees; of the others nothing is known."""
    degrees = np.array([0, 15, 30, 45, 60, 75, 0, 0, 0, 0, 60, 200])
    vectors = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1).astype(np.float32)
    vectors[6:10] = 0
    return vectors


def cosine(degrees: float) -> float:
    return float(np.cos(np.radians(degrees)))


def test_the_profile_is_the_unit_mean_that_newer_items_weigh_more_in(content: np.ndarray, user_of: UserOf) -> None:
    history = user_of("i4", "i0").history  # i0 is newer
    profile = content_profile(content, history, half_life=1.0)
    expected = content[0] + 0.5 * content[4]
    assert profile is not None
    np.testing.assert_allclose(profile, expected / np.linalg.norm(expected), atol=1e-6)


def test_a_history_of_unknown_content_has_no_profile(content: np.ndarray, user_of: UserOf) -> None:
    assert content_profile(content, user_of().history, 1.0) is None
    assert content_profile(content, user_of("i6", "i7").history, 1.0) is None


def test_the_nearest_items_are_found_with_their_cosines_and_nothing_that_is_unlike(
    content: np.ndarray, catalog: Catalog, user_of: UserOf
) -> None:
    source = ContentNeighbours(ExactIndex(content), half_life=5.0)
    found = source.find(user_of("i4"), Eligibility(catalog, np.array([4], np.int32), None), 12)
    assert found.rows.tolist() == [10, 3, 5, 2, 1, 0]
    assert found.scores.tolist() == pytest.approx([cosine(d) for d in (0, 15, 15, 30, 45, 60)], abs=1e-6)
    assert found.score_rows is not None
    np.testing.assert_allclose(found.score_rows(found.rows), found.scores, atol=1e-6)
    assert found.score_rows(np.array([11], np.int32))[0] == pytest.approx(cosine(140), abs=1e-6)
    assert len(source.find(user_of(), Eligibility(catalog, NONE, None), 12)) == 0


def test_cold_items_can_be_found_among_themselves(content: np.ndarray, catalog: Catalog, user_of: UserOf) -> None:
    source = ColdContentNeighbours(content, np.array([10, 11], np.int32), half_life=5.0)
    found = source.find(user_of("i3"), Eligibility(catalog, NONE, None), 12)
    assert found.rows.tolist() == [10]  # 11 points the other way
    assert found.scores.tolist() == pytest.approx([cosine(15)], abs=1e-6)
    assert found.score_rows is not None
    np.testing.assert_allclose(found.score_rows(np.array([10, 0], np.int32)), [cosine(15), cosine(45)], atol=1e-6)
    assert len(source.find(user_of("i3"), Eligibility(catalog, np.array([10], np.int32), None), 12)) == 0
    assert len(source.find(user_of("i7"), Eligibility(catalog, NONE, None), 12)) == 0
