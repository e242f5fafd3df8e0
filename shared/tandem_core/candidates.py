"""Candidates as columns: the one value that every stage after the sources takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class CandidateBatch:
    """n candidates of one request.

    rows: int32 [n], catalogue rows, none twice. scores: float32 [n], higher is better. columns: name -> array with
    n entries in its first axis; sources write "rank:<source>" (1 is best, 0 where it did not return the item) and
    "score:<source>" (0 where it can not score an item that it did not return). Raises ValueError where lengths differ.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    columns: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.rows)
        lengths = {"scores": len(self.scores)} | {name: len(column) for name, column in self.columns.items()}
        if wrong := {name: length for name, length in lengths.items() if length != n}:
            raise ValueError(f"columns of other lengths than the {n} rows: {wrong}")

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def empty(cls) -> CandidateBatch:
        return cls(np.empty(0, np.int32), np.empty(0, np.float32))

    def take(self, index: Array) -> CandidateBatch:
        """Return the candidates at `index` (positions, or a mask), all columns moved together."""
        return CandidateBatch(
            self.rows[index], self.scores[index], {name: column[index] for name, column in self.columns.items()}
        )

    def with_scores(self, scores: Array) -> CandidateBatch:
        return replace(self, scores=scores.astype(np.float32, copy=False))

    def with_columns(self, columns: Mapping[str, Array]) -> CandidateBatch:
        return replace(self, columns={**self.columns, **columns})

    def best_first(self) -> CandidateBatch:
        """Return the candidates by falling score; see `order`."""
        return self.take(order(self.scores, self.rows))

    @property
    def sources(self) -> list[str]:
        """Names of the sources that left columns, in the order they were asked."""
        return [name.removeprefix("rank:") for name in self.columns if name.startswith("rank:")]


def order(scores: Array, rows: Array) -> NDArray[np.intp]:
    """Return positions by falling score; NaN and infinite scores sink below all others, ties go to smaller rows.

    scores: float [n], compared as float32. rows: int32 [n], none negative.
    """
    # One integer per candidate that sorts as the pair does: half the time of a sort by two keys.
    bits = (scores.astype(np.float32, copy=False) + np.float32(0)).view(np.int32)  # + 0: there is a negative zero too
    rising = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)  # negative floats have falling bits
    key = np.where(np.isfinite(scores), -rising, np.iinfo(np.int32).max)  # above all finite ones
    return np.argsort((key << 32) + rows)
