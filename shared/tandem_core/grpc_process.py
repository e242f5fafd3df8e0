"""The life of a serving process: load, serve, watch the registry, drain."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.serving_bundles import ServingBundles
from tandem_core.settings import ConfigError

log = logging.getLogger(__name__)

LIVENESS = "liveness"  # health service name that is SERVING as long as the process runs
LARGEST_MESSAGE = 4 << 20


class ServiceSettings(BaseSettings):
    """What both services are configured by: defaults here, then the TOML file, then TANDEM_<SERVICE>_<NAME>."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)  # 0: any free one; the log says which
    threads: int = Field(default=2, ge=1, le=256)  # work is done inline: more threads than cores only queue
    max_concurrent_rpcs: int = Field(default=128, ge=1)  # more are refused with RESOURCE_EXHAUSTED
    registry: Path = Path("bundles")
    store: str = Field(default="sqlite:///store.db", repr=False)  # may hold a password
    bundle_poll_s: float = Field(default=2.0, gt=0)
    drain_s: float = Field(default=0.5, ge=0)  # between saying NOT_SERVING and stopping: clients must see it
    grace_s: float = Field(default=10.0, ge=0)  # for calls in flight when stopping
    max_connection_age_s: float = Field(default=300.0, gt=0)  # so that new pods get their share of old clients
    reflection: bool = True
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")


class _Health(health.HealthServicer):
    """Lets go of its watchers at the end: their open streams would hold up the process for the whole grace."""

    def __init__(self) -> None:
        super().__init__()
        self._open: set[Callable[[Any], None]] = set()

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> Any:  # noqa: N802
        def send(response: Any) -> None:
            with self._lock:
                if send not in self._open:
                    return  # a stream ends once
                if response is None:
                    self._open.discard(send)
            send_response_callback(response)

        self._open.add(send)
        return super().Watch(request, context, send)

    def let_go(self) -> None:
        """End every watching stream."""
        with self._lock:
            for send in tuple(self._open):
                send(None)


class Service:
    """One gRPC server around a registry of bundles.

    register: adds the servicers to a server and returns their full service names. They are SERVING while a bundle is
    loaded, or always where needs_bundle is False or bundles is None. Nothing is bound before `start`.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        bundles: ServingBundles[Any] | None,
        register: Callable[[grpc.Server], Sequence[str]],
        *,
        needs_bundle: bool = True,
    ) -> None:
        self._settings = settings
        self._bundles = bundles
        self._needs_bundle = needs_bundle and bundles is not None
        self._stopping = threading.Event()
        self._saying = threading.Lock()
        self._health = _Health()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(settings.threads, thread_name_prefix="serve"),
            interceptors=[ErrorInterceptor()],
            maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
            options=[
                ("grpc.so_reuseport", 0),  # a second server on the port is a mistake, and must fail
                ("grpc.max_receive_message_length", LARGEST_MESSAGE),
                ("grpc.max_connection_age_ms", int(settings.max_connection_age_s * 1000)),
                ("grpc.max_connection_age_grace_ms", int(settings.grace_s * 1000)),
            ],
        )
        self._names = list(register(self._server))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if settings.reflection:
            names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, self._server)
        self.port = 0

    def start(self) -> None:
        """Load the current bundle, bind the port, serve. Without a good bundle: up, NOT_SERVING, saying why.

        Raises ConfigError where the port is not to be had.
        """
        self._set_serving(False)
        if self._bundles is not None:
            self._bundles.refresh()
        address = f"{self._settings.host}:{self._settings.port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {address}: the port is taken, or the host is not ours") from error
        self._server.start()
        self._set_serving(self._ready())
        about: dict[str, object] = {"port": self.port}
        if self._bundles is not None:
            threading.Thread(target=self._watch, args=(self._bundles,), name="registry-watch", daemon=True).start()
            held = self._bundles.held
            about |= {"bundle_id": held.current_id, "refusal": held.refusal}
        log.info("listening", extra=about)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; raises ConfigError as `start` does."""
        # A socket and no Event. The kernel may give the signal to a thread of grpc, and Python runs handlers only when
        # this thread wakes, which it then never does. And a handler that takes a lock may have interrupted its holder.
        told, tell = socket.socketpair()
        tell.setblocking(False)
        signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self.start()
        told.recv(1)
        self.stop()

    def stop(self) -> None:
        """Drain: say NOT_SERVING, give clients time to see it, then let calls in flight end."""
        self._stopping.set()
        self._set_serving(False)
        log.info("draining", extra={"port": self.port})
        time.sleep(self._settings.drain_s)
        stopped = self._server.stop(self._settings.grace_s)
        self._health.let_go()  # only now, or they would come back
        stopped.wait()
        log.info("stopped", extra={"port": self.port})

    def _ready(self) -> bool:
        return not self._needs_bundle or (self._bundles is not None and bool(self._bundles.held.loaded))

    def _watch(self, bundles: ServingBundles[Any]) -> None:
        """Look for a new bundle every few seconds; sleeps in between, so requests do not feel it."""
        while not self._stopping.wait(self._settings.bundle_poll_s):
            try:
                bundles.refresh()
            except Exception:  # the watcher must outlive whatever it meets: the old bundle goes on serving
                log.exception("looking for a new bundle failed")
            self._set_serving(self._ready())

    def _set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        with self._saying:  # once stopping, nobody may say SERVING any more
            good = serving and not self._stopping.is_set()
            for name in ("", *self._names):
                self._health.set(name, status.SERVING if good else status.NOT_SERVING)
        self._health.set(LIVENESS, status.SERVING)
