"""Whether services serve: the health protocol of gRPC, asked once or watched."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Send = Callable[[Any], None]  # a response to one watcher; None ends its stream

_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthStatus(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # has no types
    """Statuses by service name, and who watches them. Safe to use from several threads.

    Not the servicer that comes with gRPC: that one holds a lock while it sends, and sending ends by the very thread
    that wants this lock when another watcher goes away. Two watchers that came and went at the same time stopped whole
    processes. Here one thread sends, which nobody waits for, and no lock is held meanwhile.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: dict[str, int] = {}
        self._watchers: dict[Send, str] = {}  # and which service each watches
        self._due: queue.SimpleQueue[Send] = queue.SimpleQueue()
        threading.Thread(target=self._tell, name="health", daemon=True).start()

    def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        if (status := self._statuses.get(request.service)) is None:
            context.set_code(grpc.StatusCode.NOT_FOUND)
            return health_pb2.HealthCheckResponse()
        return health_pb2.HealthCheckResponse(status=status)

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> None:  # noqa: N802
        """Called once; what comes later goes through the callback, from `_tell`."""
        with self._lock:
            self._watchers[send_response_callback] = request.service
        if not context.add_callback(lambda: self._end(send_response_callback)):
            self._end(send_response_callback)  # it is gone already
        self._due.put(send_response_callback)

    Watch.experimental_non_blocking = True  # type: ignore[attr-defined]  # no thread of the pool for each watcher

    def set(self, service: str, status: int) -> None:
        """Change a service's status, and tell those who watch it."""
        with self._lock:
            self._statuses[service] = status
            watchers = [send for send, watched in self._watchers.items() if watched == service]
        for send in watchers:
            self._due.put(send)

    def let_go(self) -> None:
        """End every watching stream: open ones hold up the process for the whole grace."""
        with self._lock:
            watchers = list(self._watchers)
        for send in watchers:
            self._end(send)

    def _end(self, send: Send) -> None:
        with self._lock:
            open_ = self._watchers.pop(send, None) is not None
        if open_:  # a stream ends once
            send(None)

    def _tell(self) -> None:
        while True:
            send = self._due.get()
            with self._lock:
                service = self._watchers.get(send)
                status = _UNKNOWN if service is None else self._statuses.get(service, _UNKNOWN)
            if service is not None:
                send(health_pb2.HealthCheckResponse(status=status))
