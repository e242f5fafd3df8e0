"""Whether probabilities mean what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SMALLEST = 1e-7  # a probability of 0 for what happened would cost infinitely much


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationCurve:
    """Bins of equally many candidates, by rising probability, all float64 [b].

    predicted, observed: means over each bin. share: of all candidates, the bin's.
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    share: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of the two, weighted by share (Naeini et al., AAAI 2015)."""
        return float((self.share * np.abs(self.predicted - self.observed)).sum())


def calibration_curve(
    probabilities: NDArray[np.floating], happened: NDArray[np.floating], bins: int = 15
) -> CalibrationCurve:
    """Return the curve over bins of equal mass; both [n], `happened` 0 or 1. Raises ValueError where n is 0."""
    if not len(probabilities):
        raise ValueError("no probabilities: there is no curve through nothing")
    by_probability = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(by_probability, bins) if len(part)]
    return CalibrationCurve(
        np.array([probabilities[part].mean(dtype=np.float64) for part in parts]),
        np.array([happened[part].mean(dtype=np.float64) for part in parts]),
        np.array([len(part) / len(probabilities) for part in parts]),
    )


def log_losses(probabilities: NDArray[np.floating], happened: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the log-loss of each prediction in nats, float64 [n]; both [n], `happened` 0 or 1."""
    p = np.clip(probabilities.astype(np.float64), _SMALLEST, 1 - _SMALLEST)
    return -np.where(happened > 0, np.log(p), np.log1p(-p))
