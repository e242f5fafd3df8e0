"""A gRPC server of ours: binds, says how it is, drains, and lets its connections go."""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tandem_core.grpc_admission import AdmissionInterceptor, WorkPool
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.grpc_health_status import HealthStatus
from tandem_core.grpc_security import interceptors, server_credentials
from tandem_core.service_settings import ServiceSettings
from tandem_core.settings import ConfigError

log = logging.getLogger(__name__)

LIVENESS = "liveness"  # health service name that is SERVING as long as the process runs
LARGEST_MESSAGE = 4 << 20
SHORTEST_PING_MS = 5000  # clients that look more often whether we live are told to calm down
# After the last connection has gone its last calls may still be on their way through the server: 0.3 s did (measured).
SETTLE_S = 0.5
LONGEST_QUEUE_S = 1.0  # so long may connections wait to be accepted by a server that closes to new ones


class Service:
    """One gRPC server with health and reflection.

    register: adds the servicers to a server and returns their full service names.
    share_port: another process of ours may listen on the port, while one of the two lets its connections go.
    observing: goes before all other interceptors.
    admin: the port is for operators: it is on `admin_host`, and where there are tokens it asks for the scope admin.
    Raises ConfigError for TLS and token files that cannot be used. Nothing is bound before `start`.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        register: Callable[[grpc.Server], Sequence[str]],
        port: int,
        *,
        share_port: bool = False,
        admin: bool = False,
        observing: grpc.ServerInterceptor | None = None,  # type: ignore[type-arg]  # generic in the stubs alone
    ) -> None:
        self._settings = settings
        self._host = settings.admin_host if admin else settings.host
        self._credentials = server_credentials(settings.server_certificates())
        self._stopping = threading.Event()
        self._saying = threading.Lock()
        self._health = HealthStatus()
        self.pool = WorkPool(settings.threads, settings.max_queue_ms / 1000)
        admission = AdmissionInterceptor(self.pool, settings.max_concurrent_rpcs)
        most = settings.max_connections
        first, last = interceptors(settings, admin=admin)
        observers = [] if observing is None else [observing]
        self._server = grpc.server(
            self.pool,
            interceptors=[*observers, *first, admission, ErrorInterceptor(), *last],
            options=[
                ("grpc.so_reuseport", int(share_port)),  # else a second server on the port is a mistake, and must fail
                ("grpc.max_receive_message_length", LARGEST_MESSAGE),
                ("grpc.max_connection_age_ms", int(settings.max_connection_age_s * 1000)),
                ("grpc.max_connection_age_grace_ms", int(settings.grace_s * 1000)),
                ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.max_concurrent_streams", settings.max_connection_streams),
                *([] if most is None else [("grpc.max_allowed_incoming_connections", most)]),
            ],
        )
        self._names = list(register(self._server))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)
        self.port = port

    def start(self, *, serving: bool) -> None:
        """Bind the port and serve; raises ConfigError where the port is not to be had. serving: what health says."""
        self.set_serving(serving)
        host = f"[{self._host}]" if ":" in self._host else self._host
        address = f"{host}:{self.port}"
        try:
            if self._credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {address}: the port is taken, or the host is not ours") from error
        self._server.start()

    def stop(self) -> None:
        """Drain: say NOT_SERVING, give clients time to see it, then let calls in flight end."""
        self._stopping.set()
        self.set_serving(False)
        log.info("draining", extra={"port": self.port})
        time.sleep(self._settings.drain_s)
        stopped = self._server.stop(self._settings.grace_s)
        self._health.let_go()  # only now, or they would come back
        stopped.wait()
        log.info("stopped", extra={"port": self.port})

    def close_to_new_connections(self) -> None:
        """Stop listening; go on answering on the connections that there are.

        gRPC has no call for it: its listening socket is shut down under it. Every connection then ends by its age,
        gracefully, and its client comes back to whoever listens on the port now.
        """
        for end in self._sockets():
            if end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                _when_nobody_waits(end)
                end.shutdown(socket.SHUT_RDWR)

    def has_connections(self) -> bool:
        return any(_is_connected(end) for end in self._sockets())

    def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        with self._saying:  # once stopping, nobody may say SERVING any more
            good = serving and not self._stopping.is_set()
            for name in ("", *self._names):
                self._health.set(name, status.SERVING if good else status.NOT_SERVING)
        self._health.set(LIVENESS, status.SERVING)

    def _sockets(self) -> Iterator[socket.socket]:
        """Yield a duplicate of each of this process's sockets on the port."""
        for entry in Path("/dev/fd").iterdir():
            try:
                if not stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                    continue  # and must not be opened: closing it again would undo the locks of a database
                end = socket.socket(fileno=os.dup(int(entry.name)))
            except OSError:
                continue  # closed meanwhile
            with end:
                if end.family not in (socket.AF_INET, socket.AF_INET6) or end.type != socket.SOCK_STREAM:
                    continue
                if end.getsockname()[1] == self.port:
                    yield end


def _when_nobody_waits(listening: socket.socket) -> None:
    """Return as soon as no connection waits to be accepted: those that do would be reset. Linux alone tells."""
    deadline = time.monotonic() + LONGEST_QUEUE_S
    while sys.platform == "linux" and time.monotonic() < deadline:
        told = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 28)
        if int.from_bytes(told[24:28], sys.byteorder) == 0:  # tcpi_unacked: of a listening socket its queue
            return
        time.sleep(0.0002)


def _is_connected(end: socket.socket) -> bool:
    """Whether there is somebody at the other end: of what listened until it was shut down there is nobody."""
    try:
        end.getpeername()
    except OSError:
        return False
    return True
