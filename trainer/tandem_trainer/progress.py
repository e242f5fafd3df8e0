"""How long work says where it stands; the command line draws it, everything else keeps silent."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Progress:
    """Told of steps and of advance within them; this one only remembers how long each step took (seconds)."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Mark a step of the work."""
        started = time.monotonic()
        self.begin(name)
        yield
        self.seconds[name] = time.monotonic() - started
        self.end(name, self.seconds[name])

    def begin(self, name: str) -> None:
        """Called when a step begins."""

    def end(self, name: str, seconds: float) -> None:
        """Called when a step is done."""

    def advance(self, done: int, total: int, text: str = "") -> None:
        """Called within a step: `done` of `total`, and what is known so far."""


def text(metrics: Mapping[str, float]) -> str:
    """Return figures as one short line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
