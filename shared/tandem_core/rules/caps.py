"""At most so many items of one creator, category or other group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tandem_core.candidates import CandidateBatch
from tandem_core.rules.base import Outcome


@dataclass(frozen=True, slots=True)
class CapPerGroup:
    """Show at most `limit` items of each value of `column` among the slots; the others move below, order kept.

    Items without a value are never capped; of a list column the first value counts. Where the slots cannot be filled
    otherwise, items above the limit come back in their order, and the outcome says so. Needs column code:<column>:
    int [n], -1 for none.
    """

    column: str
    limit: int

    def __call__(self, batch: CandidateBatch, slots: int) -> Outcome:
        over = _place_in_group(batch.columns[f"code:{self.column}"]) >= self.limit
        kept, moved = np.flatnonzero(~over), np.flatnonzero(over)
        # Fewer kept items than slots: the cap must give way, if there is anything to fill up with.
        missing = min(slots, len(batch)) - len(kept)
        relaxed = f"{missing} more than {self.limit} of one {self.column}" if missing > 0 else ""
        return Outcome(batch.take(np.concatenate([kept, moved])), relaxed)


def _place_in_group(codes: np.ndarray) -> np.ndarray:
    """Return for each item how many items of its group stand before it; 0 for items without a group. int [n]."""
    by_group = np.argsort(codes, kind="stable")
    grouped = codes[by_group]
    starts = (
        np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]])) if len(codes) else np.empty(0, np.intp)
    )
    sizes = np.diff(np.append(starts, len(codes)))
    places = np.empty(len(codes), np.intp)
    places[by_group] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return np.where(codes >= 0, places, 0)
