"""Predicted ratings as the whole numbers that people give."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def round_ratings(predicted: NDArray[np.floating], lowest: int = 1, highest: int = 10) -> NDArray[np.int64]:
    """Return int64 of the same shape: clipped to lowest .. highest + .5, then up if the fraction is above .5.

    A half goes down, so that highest + .5 is `highest`. Raises ValueError where a prediction is NaN.
    """
    if np.isnan(predicted).any():
        raise ValueError(f"{int(np.isnan(predicted).sum())} of {predicted.size} predicted ratings are NaN")
    clipped = np.clip(predicted, lowest, highest + 0.5)
    down = np.floor(clipped)
    return np.asarray(np.where(clipped - down > 0.5, np.ceil(clipped), down), np.int64)


def prediction_table(
    user_ids: NDArray[np.str_],
    item_ids: NDArray[np.str_],
    ratings: NDArray[np.floating],
    predicted: NDArray[np.floating],
    lowest: int,
    highest: int,
) -> pd.DataFrame:
    """Return user_id, item_id, rating, predicted and pred_rating (whole), by user and falling prediction; all [P]."""
    table = pd.DataFrame(
        {
            "user_id": user_ids,
            "item_id": item_ids,
            "rating": ratings,
            "predicted": predicted,
            "pred_rating": round_ratings(predicted, lowest, highest),
        }
    )
    return table.sort_values(["user_id", "predicted"], ascending=[True, False], kind="stable", ignore_index=True)
