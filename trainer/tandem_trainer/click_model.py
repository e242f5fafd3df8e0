"""A user who looks at a list from the top and clicks: what stands in for people in a simulated experiment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ClickModel:
    """The position-based model (Richardson, Dominowska and Ragno, 2007): a click is examination times attraction.

    examination: of position p, 1 / log2(p + 1) ("log2") or p^-eta ("power"). relevant: probability that an examined
    item which the user really turned to later is clicked. noise: the same of any other item; 0 to 1 both. What the
    rest of the list holds plays no part. Raises ValueError for values outside.
    """

    examination: Literal["log2", "power"] = "log2"
    eta: float = 1.0
    relevant: float = 0.6
    noise: float = 0.02

    def __post_init__(self) -> None:
        if not (0 <= self.noise <= 1 and 0 <= self.relevant <= 1 and self.eta >= 0):
            raise ValueError(
                f"relevant is {self.relevant} and noise {self.noise}, probabilities from 0 to 1; eta is {self.eta}, "
                "0 or more"
            )

    def examined(self, k: int) -> NDArray[np.float64]:
        """Return the probability of a look at positions 1 to k, float64 [k], never rising."""
        position = np.arange(1, k + 1, dtype=np.float64)
        looks: NDArray[np.float64] = 1 / np.log2(position + 1) if self.examination == "log2" else position**-self.eta
        return looks

    def attraction(self, found: NDArray[np.bool_], filled: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the probability of a click on each place once it is looked at, float64 [U, k].

        found: bool [U, k], where a held-out item stands. filled: bool [U, k], where any item stands.
        """
        return np.where(found, self.relevant, np.where(filled, self.noise, 0.0))
