"""Servicers on a real socket, for the length of a with block."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

# so_reuseport: two servers must never share a port. http proxy: what the environment says is not meant for loopback.
_SERVER_OPTIONS = [("grpc.so_reuseport", 0)]
_CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0)]

_Register = Callable[[object, grpc.Server], None]
_WATCHERS = 64  # of health, at once


class _Health(health.HealthServicer):
    """gRPC's own, with a thread for each watcher.

    As it comes it sends while it holds a lock, and sending ends by the thread that wants this lock when another watcher
    goes away: two that came and went at the same time stopped whole servers.
    """

    def __init__(self) -> None:
        pool = futures.ThreadPoolExecutor(_WATCHERS, thread_name_prefix="tandem-stub-watch")
        super().__init__(experimental_non_blocking=False, experimental_thread_pool=pool)

    def Watch(self, request: health_pb2.HealthCheckRequest, context: Any, send_response_callback: Any = None) -> Any:
        """Defined here because the settings above are kept in the function, not in the object."""
        return super().Watch(request, context, send_response_callback)


class RunningServer:
    """A server on a loopback address.

    address: "127.0.0.1:PORT". channel: a plaintext channel to it. services: full names.
    """

    def __init__(self, found: Sequence[tuple[str, _Register, object]], options: _Options) -> None:
        self._found = found
        self._options = options
        self._health = _Health()
        self._flapping = threading.Event()
        self._flapper: threading.Thread | None = None
        self.services = tuple(name for name, _, _ in found)
        self._server, port = self._start(options.port)
        self.port = port
        self.address = f"{options.host}:{port}"
        self.channel = grpc.insecure_channel(self.address, options=_CHANNEL_OPTIONS)
        self.set_health(True)

    def set_health(self, serving: bool) -> None:
        """Let grpc.health.v1 say SERVING or NOT_SERVING for the server ("") and each service; calls work as before."""
        self._stop_flapping()
        self._say(serving)

    def flap_health(self, period_s: float) -> None:
        """Let health change between SERVING and NOT_SERVING every `period_s` seconds until set_health is called."""
        if period_s <= 0:
            raise ValueError(f"a period of {period_s} s")
        self._stop_flapping()
        self._flapping.clear()
        self._flapper = threading.Thread(target=self._flap, args=(period_s,), daemon=True, name="tandem-stub-health")
        self._flapper.start()

    def drop(self) -> None:
        """Break off every connection, calls in flight included, and refuse new ones until `back` is called."""
        self._server.stop(grace=None).wait()

    def back(self) -> None:
        """Serve again on the same port after `drop`; scripts and recorded requests are as they were."""
        self._server, _ = self._start(self.port)

    def close(self) -> None:
        """Close the channel and stop the server; calls still running are cancelled."""
        self._stop_flapping()
        self.channel.close()
        self._server.stop(grace=None).wait()

    def _start(self, port: int) -> tuple[grpc.Server, int]:
        pool = futures.ThreadPoolExecutor(self._options.threads, thread_name_prefix="tandem-stub")
        server = grpc.server(pool, interceptors=list(self._options.interceptors), options=_SERVER_OPTIONS)
        for _, register, servicer in self._found:
            register(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        bound = server.add_insecure_port(f"{self._options.host}:{port}")
        server.start()
        return server, bound

    def _say(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self.services):
            self._health.set(name, status)

    def _flap(self, period_s: float) -> None:
        serving = False
        while not self._flapping.is_set():
            self._say(serving)
            serving = not serving
            self._flapping.wait(period_s)

    def _stop_flapping(self) -> None:
        if self._flapper is not None:
            self._flapping.set()
            self._flapper.join()
            self._flapper = None


@dataclass(frozen=True, slots=True)
class _Options:
    interceptors: Sequence[grpc.ServerInterceptor[Any, Any]]
    threads: int
    host: str
    port: int


@contextmanager
def serve(
    *servicers: object,
    interceptors: Sequence[grpc.ServerInterceptor[Any, Any]] = (),
    threads: int = 8,
    host: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[RunningServer]:
    """Serve servicers of `tandem.*` services, healthy at first; at exit, close the channel and stop the server.

    threads: how many calls run at once. port: 0 takes a free one. Calls still running at exit are cancelled. Raises
    TypeError for an object that is no servicer of Tandem, RuntimeError where the port is taken.
    """
    found = [(name, register, servicer) for servicer in servicers for name, register in _services(servicer)]
    running = RunningServer(found, _Options(interceptors, threads, host, port))
    try:
        yield running
    finally:
        running.close()


def _services(servicer: object) -> list[tuple[str, _Register]]:
    """Return full name and registering function of each service that an object is a servicer of.

    Found by the generated base class: folder = proto package, so its module says the package and has the function.
    """
    bases = [
        base
        for base in type(servicer).__mro__
        if base.__module__.startswith("tandem.") and base.__module__.endswith("_pb2_grpc")
    ]
    if not bases:
        raise TypeError(f"{type(servicer).__name__} is no servicer of a tandem.* service")
    return [
        (
            f"{base.__module__.rpartition('.')[0]}.{base.__name__.removesuffix('Servicer')}",
            getattr(sys.modules[base.__module__], f"add_{base.__name__}_to_server"),
        )
        for base in bases
    ]
