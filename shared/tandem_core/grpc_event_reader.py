"""Whether the one thread that hands out a server's calls still does so."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType

_IN_WORK = "_process_event_and_continue"  # of grpc/_server.py: what that thread does with one event


class EventReader:
    """Watches gRPC's own thread: while it stands still within one event, no call of the process begins or ends.

    Seen by the frame it is in, which is a new one for each event; a release of gRPC that calls it otherwise makes this
    blind, never wrong (a test would tell). limit_s: how long one event may take.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._clock = clock
        self._event: FrameType | None = None
        self._since = 0.0

    def stuck(self) -> bool:
        """Look; whether it has been in the same event, at every look, for longer than the limit."""
        now, event = self._clock(), _event_in_work()
        if event is not self._event:
            self._event, self._since = event, now
        return event is not None and now - self._since > self._limit_s


def _event_in_work() -> FrameType | None:
    for innermost in sys._current_frames().values():
        frame: FrameType | None = innermost
        while frame is not None:
            if frame.f_code.co_name == _IN_WORK:
                return frame
            frame = frame.f_back
    return None
