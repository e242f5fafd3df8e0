"""Predicted ratings as whole numbers, and their table."""

from __future__ import annotations

import numpy as np
import pytest

from tandem_trainer.ratings.rounding import prediction_table, round_ratings


@pytest.mark.parametrize(
    ("predicted", "whole"),
    [(-3.0, 1), (1.0, 1), (7.49, 7), (7.5, 7), (7.51, 8), (9.99, 10), (10.4, 10), (10.5, 10), (99.0, 10)],
)
def test_a_prediction_is_clipped_and_goes_up_only_above_a_half(predicted: float, whole: int) -> None:
    assert round_ratings(np.array([predicted])).tolist() == [whole]


def test_the_range_of_whole_numbers_is_that_of_the_data() -> None:
    assert round_ratings(np.array([0.2, 5.7, 4.6]), lowest=1, highest=5).tolist() == [1, 5, 5]


def test_a_prediction_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 predicted ratings are NaN"):
        round_ratings(np.array([np.nan, 3.0]))


def test_the_table_lists_each_users_items_by_falling_prediction() -> None:
    table = prediction_table(
        np.array(["b", "a", "a"]), np.array(["x", "y", "z"]), np.array([5.0, 1, 2]), np.array([4.6, 2.2, 3.5]), 1, 5
    )
    assert table["user_id"].tolist() == ["a", "a", "b"]
    assert table["item_id"].tolist() == ["z", "y", "x"]
    assert table["pred_rating"].tolist() == [3, 2, 5]
