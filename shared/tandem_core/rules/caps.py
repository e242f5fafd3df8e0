"""At most so many items of one creator, category or other group, in the list or in any stretch of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from tandem_core.rules.base import Array, Mask


@dataclass(frozen=True, slots=True)
class Cap:
    """Show at most `limit` items of each value of `column` in any `window` places after each other; 0: in the list.

    Items without a value are never capped; of a list column the first value counts.
    """

    column: str
    limit: int
    window: int = 0

    @property
    def name(self) -> str:
        return f"cap:{self.column}"

    def excess(self, shown: Array) -> int:
        """Count the places whose item is above the limit of the window that ends there. shown: int [k], codes."""
        window = self.window or len(shown)
        codes: list[int] = shown.tolist()
        counts = dict.fromkeys(codes, 0)  # within the window that ends at the place looked at
        excess = 0
        for place, code in enumerate(codes):
            if place >= window:
                counts[codes[place - window]] -= 1
            counts[code] += 1
            excess += code >= 0 and counts[code] > self.limit
        return excess

    def broken(self, excess: int) -> str:
        """Say in words by how much it is broken."""
        return f"{excess} more than {self.limit} of one {self.column}" + (
            f" within {self.window}" if self.window else ""
        )


class CapState:
    """One cap while a list is filled slot by slot: which candidates it allows in the next slot.

    codes: int [n], of the candidates in the order they are preferred. pinned: slot -> code of items that will stand
    there whatever the cap says: those ahead count as much as those behind.
    """

    def __init__(self, cap: Cap, codes: Array, slots: int, pinned: Mapping[int, int]) -> None:
        self.allowed: Mask = np.ones(len(codes), np.bool_)
        self._limit = cap.limit
        self._window = min(cap.window or slots, slots)
        self._codes = codes
        self._code_of: Sequence[int] = codes.tolist()
        self._shown: list[int] = []
        self._counts: dict[int, int] = {}  # within the window that ends at the last slot filled
        self._with_pins: dict[int, list[int]] = {}  # code -> 1 for each slot that has or will have it
        for slot, code in pinned.items():
            if code >= 0 and slot < slots:
                self._with_pins.setdefault(code, [0] * slots)[slot] = 1
        self._fitted = dict.fromkeys(self._with_pins, True)  # code -> whether it is allowed
        self._last_pin = max(pinned, default=-1)

    def begin(self) -> None:
        """Move the window on to the next slot."""
        slot = len(self._shown)
        for code, taken in self._with_pins.items():
            if (fits := self._fits(taken, slot)) is not self._fitted[code]:
                self._fitted[code] = fits
                self._allow(code, fits)
        if slot >= self._window:
            code = self._shown[slot - self._window]
            if code in self._counts:
                self._counts[code] -= 1
                if self._counts[code] == self._limit - 1:
                    self._allow(code, True)

    def place(self, candidate: int) -> None:
        """Note what the slot got."""
        code = self._code_of[candidate]
        slot = len(self._shown)
        self._shown.append(code)
        if code in self._with_pins:
            self._with_pins[code][slot] = 1
        elif code >= 0:
            count = self._counts.get(code, 0) + 1
            self._counts[code] = count
            if count == self._limit:
                self._allow(code, False)

    def _allow(self, code: int, allowed: bool) -> None:
        self.allowed[self._codes == code] = allowed

    def _fits(self, taken: list[int], slot: int) -> bool:
        """Tell whether one more of the group at `slot` keeps every window that holds the slot at the limit."""
        if slot > self._last_pin:  # nothing stands ahead: of those windows the one that ends here is the fullest
            return sum(taken[max(0, slot - self._window + 1) : slot]) < self._limit
        before = [0, *accumulate(taken)]
        starts = range(max(0, slot - self._window + 1), slot + 1)
        last = len(taken)
        return all(before[min(start + self._window, last)] - before[start] < self._limit for start in starts)


def place_in_group(codes: Array, *, without_group: bool) -> NDArray[np.intp]:
    """Return for each item how many items of its group stand before it: int [n].

    without_group: items without a group (code -1) are a group too, else they are first in one of their own each.
    """
    by_group = np.argsort(codes, kind="stable")
    grouped = codes[by_group]
    n = len(codes)
    new = np.empty(n, np.bool_)
    new[:1] = True
    np.not_equal(grouped[1:], grouped[:-1], out=new[1:])
    starts = np.flatnonzero(new)
    places = np.empty(n, np.intp)
    places[by_group] = np.arange(n) - starts[np.cumsum(new) - 1] if n else 0
    return places if without_group else np.where(codes >= 0, places, 0)
