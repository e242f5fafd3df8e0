"""Timing calls against one another on a machine that is never quite still."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

WARM_UP = 20

Call = Callable[[], object]


def interleaved_ms(calls: Sequence[Call], rounds: int, seed: int) -> NDArray[np.float64]:
    """Return milliseconds, float64 [calls, rounds]: each round makes every call once, in an order of its own."""
    rng = np.random.default_rng(seed)
    for call in calls:
        for _ in range(WARM_UP):
            call()
    taken = np.empty((len(calls), rounds))
    for number in range(rounds):
        for i in rng.permutation(len(calls)):
            begun = time.perf_counter_ns()
            calls[i]()
            taken[i, number] = time.perf_counter_ns() - begun
    return taken / 1e6
