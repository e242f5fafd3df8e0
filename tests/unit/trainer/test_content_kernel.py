from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tandem_trainer.content_kernel import MIXES, NARROW, WIDE, ContentKernel, Mix

ALL = np.arange(5)


@pytest.fixture
def items() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "title": ["red mug", "blue mug", "garden chair", "", "star wars"],
            "text": [""] * 5,
            "categories": [["A"], ["A", "B"], ["B"], [], ["C"]],
            "creator": pd.Series([None] * 5, dtype=object),
            "price": [1.0, 1.0, 9.0, np.nan, np.nan],
        }
    )


def kernel(items: pd.DataFrame, mix: Mix, *numbers: str) -> Any:
    return ContentKernel(items, numbers, ALL)(mix, ALL, ALL)


def test_categories_are_compared_by_the_cosine_of_their_sets(items: pd.DataFrame) -> None:
    alike = kernel(items, Mix("m", category=1.0))
    np.testing.assert_allclose(alike[0], [1, np.sqrt(0.5), 0, 0, 0], rtol=1e-12)


def test_unknown_numbers_are_alike_and_unlike_known_ones(items: pd.DataFrame) -> None:
    alike = kernel(items, Mix("m", number=1.0), "price")
    spread = np.std(np.log1p([1, 1, 9]))
    far = (np.log(10) - np.log(2)) / spread
    between = np.mean([np.exp(-(far**2) / (2 * width**2)) for width in (WIDE, NARROW)])
    np.testing.assert_allclose(alike[0], [1, 1, between, 0, 0], rtol=1e-9)
    np.testing.assert_allclose(alike[3], [0, 0, 0, 1, 1])


def test_a_column_that_nothing_is_known_of_is_left_out(items: pd.DataFrame) -> None:
    dated = items.assign(created_at=pd.array([None] * 5, dtype="Int64"), released=pd.array([1, 5, None, 9, 2], "Int64"))
    mix = Mix("m", number=1.0)
    np.testing.assert_array_equal(kernel(dated, mix, "price", "created_at"), kernel(items, mix, "price"))
    assert kernel(dated, mix, "released")[2].tolist() == [0, 0, 1, 0, 0]


def test_a_product_needs_all_of_its_parts_to_agree(items: pd.DataFrame) -> None:
    alike = kernel(items, Mix("m", category_number=1.0), "price")
    np.testing.assert_allclose(alike[0, :2], [1, np.sqrt(0.5)], rtol=1e-12)
    assert alike[1, 2] < 0.01  # both are B, at other prices


def test_a_variant_of_a_product_is_more_alike_than_another_product(items: pd.DataFrame) -> None:
    alike = kernel(items, Mix("m", text=1.0))
    assert alike[0, 1] > 0.2 > alike[0, 2] >= 0


def test_what_the_data_does_not_have_is_left_out(items: pd.DataFrame) -> None:
    bare = items.assign(title="", categories=[[]] * 5)
    np.testing.assert_array_equal(kernel(bare, MIXES[0]), np.zeros((5, 5)))
    alone = kernel(bare, MIXES[0], "price")  # the products become plain numbers
    np.testing.assert_allclose(np.diag(alone), 1)


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_every_mix_is_a_kernel(items: pd.DataFrame, mix: Mix) -> None:
    alike = kernel(items.assign(title=["a b", "a c", "c d", "d e", "star wars"]), mix, "price")
    np.testing.assert_allclose(alike, alike.T)
    assert np.linalg.eigvalsh(alike).min() > -1e-9
    assert alike.max() <= 1 + 1e-12


def test_scales_come_from_the_rows_fitted_on_alone(items: pd.DataFrame) -> None:
    others = items.assign(price=[1.0, 1.0, 9.0, 1e9, np.nan], title=["red mug", "blue mug", "garden chair", "zzz", ""])
    fit, mix = np.array([0, 1, 2]), MIXES[1]
    one = ContentKernel(items, ["price"], fit)(mix, fit, fit)
    np.testing.assert_array_equal(one, ContentKernel(others, ["price"], fit)(mix, fit, fit))
