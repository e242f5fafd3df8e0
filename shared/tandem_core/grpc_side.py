"""The side process of a service: looks at the registry, and serves the admin port. No request waits for it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from typing import Any

import grpc

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem_core.errors import BundleRefused, NotFound
from tandem_core.grpc_admin import BundleServicer
from tandem_core.grpc_observe import serve_metrics
from tandem_core.grpc_process import Service
from tandem_core.process_wire import Wire, name_process, signals_as_wire, wait
from tandem_core.registry import Registry
from tandem_core.service_settings import ServiceSettings
from tandem_core.settings import ConfigError

log = logging.getLogger(__name__)


class Side:
    """Tells the supervisor what the registry points to, whenever that or the files of the bundle change."""

    def __init__(self, settings: ServiceSettings, registry: Registry, upwards: Wire) -> None:
        self._settings = settings
        self._registry = registry
        self._up = upwards
        self._pointed, self._point = Wire.pair()

    def run(self) -> None:
        """Look every `bundle_poll_s` until SIGTERM or the supervisor's end."""
        signals = signals_as_wire(signal.SIGTERM)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor tells us
        name_process("side")
        admin = self._admin()
        metrics = serve_metrics(self._settings, self._registry, lambda: not self._up.dead)
        before: dict[str, Any] = {}
        while not (signals.has_more() or self._up.dead):
            if (seen := self._look()) != before:
                self._up.send(event="seen", **seen)
                before = seen
            self._up.send(event="beat")
            if metrics is not None:
                metrics[1].look(seen["bundle_id"])
            wait([signals, self._up, self._pointed], self._settings.bundle_poll_s)
            self._up.receive()
            self._pointed.receive()
        if metrics is not None:
            metrics[0].close()
        if admin is not None:
            admin.stop()

    def _admin(self) -> Service | None:
        """Serve the admin port, where there is one: bundles, and whether this service lives."""
        if self._settings.admin_port is None:
            return None

        def register(server: grpc.Server) -> Sequence[str]:
            servicer = BundleServicer(self._registry, self._point.send)
            bundle_pb2_grpc.add_BundleServiceServicer_to_server(servicer, server)
            return [bundle_pb2.DESCRIPTOR.services_by_name["BundleService"].full_name]

        try:
            service = Service(self._settings, register, self._settings.admin_port, admin=True)
        except ConfigError as error:  # files were good when the service started: no reason to end what serves
            raise RuntimeError(f"the admin port must wait: {error}") from error
        service.start(serving=True)
        log.info("admin listening", extra={"admin_port": service.port})
        return service

    def _look(self) -> dict[str, Any]:
        bundle_id = ""
        try:
            if (current := self._registry.mirror()) is None:
                why = f"{self._registry.root} has no current bundle: train one (tandem train)"
                return {"bundle_id": "", "state": "", "why": why}
            bundle_id = current.bundle_id
            return {"bundle_id": bundle_id, "state": repr(self._registry.fingerprint(bundle_id)), "why": ""}
        except (BundleRefused, NotFound, OSError) as error:
            return {"bundle_id": bundle_id, "state": "", "why": str(error)}
