"""The time a request has left."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from tandem_core.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Budget:
    """A deadline on the monotonic clock, in seconds; infinity where the caller set none."""

    deadline: float = math.inf

    @classmethod
    def of(cls, seconds: float | None) -> Budget:
        return cls() if seconds is None else cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds left, at least 0."""
        return max(0.0, self.deadline - time.monotonic())

    def expired(self) -> bool:
        return time.monotonic() >= self.deadline

    def check(self) -> None:
        """Raise DeadlineExceeded when no time is left: nobody waits for the answer any more."""
        if self.expired():
            raise DeadlineExceeded("the request's deadline has passed")
