"""Admission: so many calls wait and no more, so that those who are let in are answered in time.

Refusing must cost next to nothing, or overload feeds itself: a refused call is not parsed, never waits behind accepted
ones, and is told when to come back. A call whose deadline passed while it waited is not worked on.

A queue that comes and goes takes up bursts, and is let be; one that stands only makes every call late (Nichols and
Jacobson, Controlling Queue Delay, 2012): after half a second it is kept as short as callers are ready to wait, until
for another half second nobody had to be refused for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import grpc
from google.rpc import status_pb2

from tandem_core.errors import Overloaded
from tandem_core.grpc_errors import to_status
from tandem_core.grpc_refusal import refusal_handler, run_by

_STEP_MS = 10  # of the delay that refused callers are told
_LONGEST_MS = 2000
MOST_STREAMS = 8  # that are answered at once; further ones wait
STANDING_S = 0.5  # a queue that was too long for so long is no burst


class WorkPool(ThreadPoolExecutor):
    """Threads that do the work of calls; knows how many calls it holds, and how long a call waits and keeps a thread.

    queue_s: how long calls may wait for a thread, for more than a burst.
    """

    def __init__(self, threads: int, queue_s: float) -> None:
        super().__init__(threads, thread_name_prefix="serve")
        self.threads = threads
        self._queue_s = queue_s
        self._waiting: deque[float] = deque()  # when each call that waits came
        self._late_since = float("inf")  # when a call began that had waited for too long; inf: none since nobody waited
        self._short_until = 0.0  # until when the queue is kept short
        self.held = 0  # calls at work or waiting
        self.call_s = 0.001  # running mean
        self.dropped = 0  # calls whose deadline passed while they waited
        self.refused = 0
        self._counting = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._counting:
            self.held += 1
            self._waiting.append(time.monotonic())
        return super().submit(self._run, fn, *args, **kwargs)

    def queue_stands(self) -> bool:
        """Say whether a call that came now would wait for too long, and not for a burst's sake: it is to be refused."""
        now = time.monotonic()
        with self._counting:
            if len(self._waiting) <= max(1.0, self._queue_s * self.threads / self.call_s):
                return False
            if now < self._late_since + STANDING_S and now > self._short_until:
                return False
            self._short_until = now + STANDING_S
            return True

    def _run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        begun = time.monotonic()
        with self._counting:
            waited = begun - self._waiting.popleft()
            if not self._waiting:
                self._late_since = float("inf")
            elif waited > self._queue_s:
                self._late_since = min(begun, self._late_since)
        try:
            return fn(*args, **kwargs)
        finally:
            with self._counting:
                self.held -= 1
                self.call_s += 0.05 * (time.monotonic() - begun - self.call_s)


class AdmissionInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Refuses calls when `most` are at work or waiting, or the queue stands.

    Health is never refused and has a thread of its own. So have streams, which are reflection's alone: each keeps its
    thread for as long as the caller's window is open.
    """

    def __init__(self, pool: WorkPool, most: int) -> None:
        self._pool = pool
        self._most = most
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._streams = ThreadPoolExecutor(MOST_STREAMS, thread_name_prefix="stream")
        self._refusal = refusal_handler(self._refuse)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Called by gRPC's own thread, before the call waits for one of the pool's."""
        if details.method.startswith("/grpc.health."):
            handler = continuation(details)
            if handler is None or handler.unary_unary is None:
                return handler
            check = run_by(self._aside, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(check, handler.request_deserializer, handler.response_serializer)
        if self._pool.held >= self._most or self._pool.queue_stands():
            self._pool.refused += 1
            return self._refusal
        handler = continuation(details)
        if handler is not None and handler.stream_stream is not None:
            behaviour = run_by(self._streams, handler.stream_stream)
            return grpc.stream_stream_rpc_method_handler(
                behaviour, handler.request_deserializer, handler.response_serializer
            )
        if handler is None or handler.unary_unary is None:
            return handler
        inner = handler.unary_unary

        def in_time(request: Any, context: grpc.ServicerContext) -> Any:
            remaining = context.time_remaining()
            if remaining is not None and remaining <= 0:
                self._pool.dropped += 1
                context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed while the call waited")
            return inner(request, context)

        return grpc.unary_unary_rpc_method_handler(in_time, handler.request_deserializer, handler.response_serializer)

    def _refuse(self) -> tuple[status_pb2.Status, bytes]:
        expected_ms = 1000 * self._pool.call_s * self._pool.held / self._pool.threads
        return _overloaded(min(_LONGEST_MS, _STEP_MS * (1 + int(expected_ms / _STEP_MS))))


@lru_cache(maxsize=_LONGEST_MS // _STEP_MS + 1)
def _overloaded(delay_ms: int) -> tuple[status_pb2.Status, bytes]:
    status = to_status(Overloaded("too many calls at once; come back after the delay", delay_ms / 1000))
    return status, status.SerializeToString()
