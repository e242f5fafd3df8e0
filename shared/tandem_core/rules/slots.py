"""Filling the list slot by slot: pins, then what caps allow of promoted, drawn and ordered items, strongest first."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tandem_core.rules.base import Array, Given, Order
from tandem_core.rules.caps import Cap, CapState


class Placed(enum.IntEnum):
    """By which rule an item got its place."""

    BY_ORDER = 0
    PINNED = 1
    PROMOTED = 2
    COLD_START = 3
    EXPLORED = 4


class Claim(Protocol):
    """A rule that wants certain slots. Stronger claims of the same slot are asked first."""

    @property
    def name(self) -> str: ...

    @property
    def slots(self) -> frozenset[int]:
        """Slots it wants, 0 is the top."""
        ...

    def choose(self, slot: int, free: Order) -> tuple[int, Placed, float]:
        """Return the position it puts there, -1 for none, how to call it, and the probability of this choice.

        free: intp [m], m >= 1, positions that may stand here, best first. Probability 0: no chance took part.
        """
        ...

    def missed(self, slots: Sequence[int]) -> str:
        """Say what slots it wanted and did not get mean for it, "" where nothing is lost."""
        ...


class ClaimRule(Protocol):
    """What a placement wants of the slots, whoever asks."""

    def claim(self, given: Given) -> Claim | None:
        """Return what it wants of this list, None where that is nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Filled:
    """A list and how it came about.

    order: intp [n], all positions. placed: int8 [k], propensities: float64 [k], of the k slots that were filled.
    missed: name of a claim -> slots it did not get.
    """

    order: Order
    placed: NDArray[np.int8]
    propensities: NDArray[np.float64]
    missed: Mapping[str, Sequence[int]] = field(default_factory=dict)


def fill_slots(
    order: Order,
    slots: int,
    pins: Mapping[int, int],
    claims: Sequence[Claim],
    caps: Sequence[tuple[Cap, Array]],
) -> Filled:
    """Fill min(slots, n) slots; what is left follows in its order.

    order: positions, best first. pins: slot -> position. claims, caps: strongest first; caps with their codes, int [n]
    in the batch's order. An item that breaks a cap is shown only in a pinned slot, or where no candidate that is left
    would keep all caps: then the caps give way, the last first, and the best that keeps the others is taken.
    """
    k = min(slots, len(order))
    placed, propensities = np.zeros(k, np.int8), np.zeros(k)
    if not (pins or claims or caps):
        return Filled(order, placed, propensities)
    place_of = np.empty(len(order), np.intp)  # position -> place in the order: the candidates' numbers from here on
    place_of[order] = np.arange(len(order))
    pinned = {slot: int(place_of[position]) for slot, position in pins.items() if slot < k}
    states = [_state(cap, codes[order], k, pinned) for cap, codes in caps]
    claimed = {slot: [claim for claim in claims if slot in claim.slots] for slot in _slots_of(claims, k)}
    missed: dict[str, list[int]] = {}
    open_ = np.ones(len(order), np.bool_)
    open_[list(pinned.values())] = False
    chosen = np.empty(k, np.intp)
    for slot in range(k):
        for state in states:
            state.begin()
        if (candidate := pinned.get(slot, -1)) >= 0:
            placed[slot] = Placed.PINNED
        else:
            free, candidate = _free(open_, states)
            for claim in claimed.get(slot, ()):
                wanted, how, propensity = claim.choose(slot, order[np.flatnonzero(free)])
                if wanted >= 0:
                    candidate, placed[slot], propensities[slot] = int(place_of[wanted]), how, propensity
                    break
                missed.setdefault(claim.name, []).append(slot)
        chosen[slot] = candidate
        open_[candidate] = False
        for state in states:
            state.place(candidate)
    return Filled(np.concatenate([order[chosen], order[open_]]), placed, propensities, missed)


def _state(cap: Cap, codes: Array, slots: int, pinned: Mapping[int, int]) -> CapState:
    return CapState(cap, codes, slots, {slot: int(codes[candidate]) for slot, candidate in pinned.items()})


def _slots_of(claims: Sequence[Claim], k: int) -> set[int]:
    return {slot for claim in claims for slot in claim.slots if slot < k}


def _free(open_: NDArray[np.bool_], states: Sequence[CapState]) -> tuple[NDArray[np.bool_], int]:
    """Return which candidates may stand in the next slot, and the best of them.

    Those that keep all caps or, where none would be left, fewer.
    """
    for count in range(len(states), 0, -1):
        free = open_ & states[0].allowed
        for state in states[1:count]:
            free &= state.allowed
        if free[best := int(free.argmax())]:
            return free, best
    return open_, int(open_.argmax())
