"""Admission: so many calls wait and no more, so that those who are let in are answered in time.

Refusing must cost next to nothing, or overload feeds itself: a refused call is not parsed, never waits behind accepted
ones, and is told when to come back. A call whose deadline passed while it waited is not worked on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import grpc
from google.rpc import status_pb2

from tandem_core.errors import Overloaded
from tandem_core.grpc_errors import to_status

_STEP_MS = 10  # of the delay that refused callers are told
_LONGEST_MS = 2000
_DETAILS = "grpc-status-details-bin"


class WorkPool(ThreadPoolExecutor):
    """Threads that do the work of calls; knows how many calls it holds, and how long a call keeps a thread."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="serve")
        self.threads = threads
        self.held = 0  # calls at work or waiting
        self.call_s = 0.001  # running mean
        self.dropped = 0  # calls whose deadline passed while they waited
        self.refused = 0
        self._counting = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._counting:
            self.held += 1
        return super().submit(self._run, fn, *args, **kwargs)

    def _run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        begun = time.monotonic()
        try:
            return fn(*args, **kwargs)
        finally:
            with self._counting:
                self.held -= 1
                self.call_s += 0.05 * (time.monotonic() - begun - self.call_s)


class _Inline(ThreadPoolExecutor):
    """Runs what it is given in the thread that gives it: gRPC's own, which must never wait."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class AdmissionInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Refuses calls when `most` are at work or waiting. Health is never refused and has a thread of its own."""

    def __init__(self, pool: WorkPool, most: int) -> None:
        self._pool = pool
        self._most = most
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="aside")
        # As if the request were a stream: then nothing waits for it to arrive, and no thread is needed. CPU measured:
        # 0.8x of an empty call; refusing by a thread of its own took 1.4x.
        self._refusal = grpc.stream_unary_rpc_method_handler(_run_by(_Inline(1), self._refuse))

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Called by gRPC's own thread, before the call waits for one of the pool's."""
        if details.method.startswith("/grpc.health."):
            handler = continuation(details)
            if handler is None or handler.unary_unary is None:
                return handler
            check = _run_by(self._aside, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(check, handler.request_deserializer, handler.response_serializer)
        if self._pool.held >= self._most:
            self._pool.refused += 1
            return self._refusal
        handler = continuation(details)
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

    def _refuse(self, request: Any, context: grpc.ServicerContext) -> bytes:
        expected_ms = 1000 * self._pool.call_s * self._pool.held / self._pool.threads
        status, details = _overloaded(min(_LONGEST_MS, _STEP_MS * (1 + int(expected_ms / _STEP_MS))))
        # Not by abort: its exception would cost as much as all the rest.
        context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
        context.set_details(status.message)
        context.set_trailing_metadata(((_DETAILS, details),))
        return b""


def _run_by(pool: ThreadPoolExecutor, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def run(request: Any, context: grpc.ServicerContext) -> Any:
        return behaviour(request, context)

    run.experimental_thread_pool = pool  # type: ignore[attr-defined]  # grpc looks for this name
    return run


@lru_cache(maxsize=_LONGEST_MS // _STEP_MS + 1)
def _overloaded(delay_ms: int) -> tuple[status_pb2.Status, bytes]:
    status = to_status(Overloaded("too many calls at once; come back after the delay", delay_ms / 1000))
    return status, status.SerializeToString()
