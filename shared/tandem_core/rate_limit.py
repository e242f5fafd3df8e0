"""How many calls each caller may make: a token bucket per name."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_CALLERS = 10_000  # remembered; those not heard of for longest are forgotten, and start with a full bucket


class RateLimit:
    """per_s: calls a second, on average. burst: calls at once, after a pause.

    A bucket is one number, the time at which it is full again: the generic cell rate algorithm (ITU-T I.371, 1993).
    """

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._each_s = 1 / per_s
        self._most_s = burst / per_s
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def wait_s(self, caller: str) -> float:
        """Count a call and return 0, or, where it is one too many, the seconds after which one may be made."""
        with self._lock:
            now = self._clock()
            full_at = max(now, self._full_at.get(caller, now)) + self._each_s
            if (wait_s := full_at - now - self._most_s) > 1e-9:
                return wait_s
            self._full_at[caller] = full_at
            self._full_at.move_to_end(caller)
            if len(self._full_at) > MOST_CALLERS:
                self._full_at.popitem(last=False)
            return 0.0

    def __len__(self) -> int:
        return len(self._full_at)
