"""Servicers on a real socket, for the length of a with block."""

from __future__ import annotations

import sys
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


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server on 127.0.0.1. address: "127.0.0.1:PORT". channel: a plaintext channel to it. services: full names."""

    address: str
    channel: grpc.Channel
    services: tuple[str, ...]
    _health: health.HealthServicer

    def set_health(self, serving: bool) -> None:
        """Let grpc.health.v1 say SERVING or NOT_SERVING for the server ("") and each service; calls work as before."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self.services):
            self._health.set(name, status)


@contextmanager
def serve(
    *servicers: object, interceptors: Sequence[grpc.ServerInterceptor[Any, Any]] = (), threads: int = 8
) -> Iterator[RunningServer]:
    """Serve servicers of `tandem.*` services, healthy at first; at exit, close the channel and stop the server.

    threads: how many calls run at once. Calls still running at exit are cancelled. Raises TypeError for an object that
    is no servicer of Tandem.
    """
    found = [(name, register, servicer) for servicer in servicers for name, register in _services(servicer)]
    pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="tandem-stub")
    server = grpc.server(pool, interceptors=list(interceptors), options=_SERVER_OPTIONS)
    for _, register, servicer in found:
        register(servicer, server)
    health_servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
    running = RunningServer(address, channel, tuple(name for name, _, _ in found), health_servicer)
    running.set_health(True)
    try:
        yield running
    finally:
        channel.close()
        server.stop(grace=None).wait()


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
