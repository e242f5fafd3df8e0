from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem_core.catalog import Catalog
from tandem_core.features import User
from tandem_core.filters import Eligibility, InSet
from tandem_core.sources.cold_items import ColdItems
from tandem_core.sources.cold_items_model import ColdItemModel

NONE = np.empty(0, np.int32)
COLD = 25  # rows 8 (20 events), 9 (10), 10 and 11 (none) of the hand-made catalogue are cold

UserOf = Callable[..., User]


def array(*values: Any) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.fixture
def model() -> ColdItemModel:
    """Anchors 0, 2 and 5; row 8 is for those who chose row 0, row 9 for those of 2, row 10 for both, 11 for nobody."""
    return ColdItemModel(
        anchor_rows=np.array([0, 2, 5], np.int32),
        anchor_vectors=array([1, 0], [0, 1], [0, 0]),
        item_rows=np.array([8, 9, 10, 11], np.int32),
        item_vectors=array([4, 0], [0, 2], [1, 1], [-1, -1]),
        prior=array(3.0, 2.9, 1.0, 2.0),
        segments=("age=25", "age=25,gender=F"),
        affinity=array([0, 0.5, 0], [-1, 0, -4]),  # to Drama, Comedy, News
        half_life=1.0,
    )


@pytest.fixture
def source(model: ColdItemModel, catalog: Catalog) -> ColdItems:
    return ColdItems(model, catalog, COLD)


@pytest.fixture
def everything(catalog: Catalog) -> Eligibility:
    return Eligibility(catalog, NONE, None)


def test_the_score_is_the_items_vector_times_the_weighted_mean_of_the_history(
    source: ColdItems, user_of: UserOf, everything: Eligibility
) -> None:
    # Oldest first: i2 halves once, i0 is newest. Both are views of weight .5: the mean is (2/3, 1/3).
    found = source.find(user_of("i2", "i0", types=["view", "view"]), everything, 10)
    assert found.rows.tolist() == [8, 10, 9, 11]
    np.testing.assert_allclose(found.scores, [8 / 3, 1, 2 / 3, -1], rtol=1e-6)
    assert found.rows.dtype == np.int32
    assert found.scores.dtype == np.float32


def test_an_item_counts_once_with_its_strongest_event(source: ColdItems, user_of: UserOf) -> None:
    # Newest first: i0 a view (.5), i0 bought (4 / 2), i2 bought (4 / 4): i0 counts 2, i2 counts 1.
    taste = source.taste(user_of("i2", "i0", "i0", types=["buy", "buy", "view"]).history)
    assert taste is not None
    np.testing.assert_allclose(taste, [2 / 3, 1 / 3], rtol=1e-6)


def test_items_that_are_no_anchors_say_nothing(source: ColdItems, user_of: UserOf, everything: Eligibility) -> None:
    with_others = source.taste(user_of("i0", "i1", types=["buy", "buy"]).history)
    np.testing.assert_allclose(with_others, [1, 0])
    unknown = source.find(user_of("i1", "i3", types=["buy", "buy"]), everything, 10)
    assert unknown.rows.tolist() == [8, 9, 11, 10]  # by the prior


@pytest.mark.parametrize(
    ("attributes", "rows", "scores"),
    [
        ({}, [8, 9, 11, 10], [3, 2.9, 2, 1]),
        ({"age": "25"}, [9, 8, 11, 10], [3.4, 3, 2, 1]),  # row 9 is a comedy
        # The narrower segment comes first; row 8 is Drama and News: the mean of -1 and -4. Row 11 has no category.
        ({"age": "25", "gender": "F"}, [9, 11, 8, 10], [2.9, 2, 0.5, 0]),
        ({"age": "18"}, [8, 9, 11, 10], [3, 2.9, 2, 1]),  # a segment without affinities
    ],
)
def test_without_a_history_the_prior_and_the_segments_categories_decide(
    attributes: dict[str, str],
    rows: list[int],
    scores: list[float],
    source: ColdItems,
    user_of: UserOf,
    everything: Eligibility,
) -> None:
    found = source.find(user_of(attributes=attributes), everything, 10)
    assert found.rows.tolist() == rows
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)


def test_only_cold_eligible_items_are_found_and_no_more_than_asked(
    source: ColdItems, user_of: UserOf, catalog: Catalog, everything: Eligibility
) -> None:
    user = user_of("i0", types=["buy"])
    eligible = Eligibility(catalog, np.array([8], np.int32), InSet("categories", frozenset({"Drama", "Comedy"})))
    assert source.find(user, eligible, 10).rows.tolist() == [10, 9]
    assert source.find(user, everything, 1).rows.tolist() == [8]
    assert len(source.find(user, Eligibility(catalog, np.arange(8, 12, dtype=np.int32), None), 5)) == 0


def test_a_model_that_calls_a_warm_item_cold_is_refused(model: ColdItemModel, catalog: Catalog) -> None:
    with pytest.raises(ValueError, match=r"row 8 .* has 20 training events: only items with fewer than 20 are cold"):
        ColdItems(model, catalog, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_rows": np.array([8, 9, 10, 12], np.int32)}, "knows row 12, the catalogue has 12 items"),
        ({"affinity": array([0, 0], [0, 0])}, "affinities to 2 categories, the catalogue has 3"),
    ],
)
def test_a_model_of_another_catalogue_is_refused(
    change: dict[str, Any], message: str, model: ColdItemModel, catalog: Catalog
) -> None:
    with pytest.raises(ValueError, match=message):
        ColdItems(replace(model, **change), catalog, COLD)


def test_a_model_reads_back_what_it_wrote(model: ColdItemModel, tmp_path: Path) -> None:
    model.save(tmp_path / "cold_items.npz")
    read = ColdItemModel.load(tmp_path / "cold_items.npz")
    for name in ("anchor_rows", "anchor_vectors", "item_rows", "item_vectors", "prior", "affinity"):
        np.testing.assert_array_equal(getattr(read, name), getattr(model, name))
        assert getattr(read, name).dtype == getattr(model, name).dtype
    assert (list(read.segments), read.half_life) == (list(model.segments), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior": array(1, 2)}, "wrong shapes.*prior"),
        ({"anchor_vectors": array([1], [2], [3])}, "wrong shapes.*anchor_vectors"),
        ({"segments": ("age=25",)}, "wrong shapes.*affinity"),
        ({"item_vectors": array([4, 0], [0, np.nan], [1, 1], [0, 0])}, "item_vectors .* not finite"),
        ({"anchor_rows": np.array([0, 5, 2], np.int32)}, "anchor_rows .* must rise"),
        ({"half_life": 0.0}, "half_life .* is 0.0"),
    ],
)
def test_arrays_that_do_not_hold_together_are_refused(
    change: dict[str, Any], message: str, model: ColdItemModel
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(model, **change)


def test_a_model_without_cold_items_finds_nothing(
    model: ColdItemModel, catalog: Catalog, user_of: UserOf, everything: Eligibility
) -> None:
    empty = replace(model, item_rows=NONE, item_vectors=np.empty((0, 2), np.float32), prior=np.empty(0, np.float32))
    source = ColdItems(empty, catalog, COLD)
    assert len(source.find(user_of("i0", types=["buy"]), everything, 5)) == 0
    assert len(source.find(user_of(), everything, 5)) == 0
