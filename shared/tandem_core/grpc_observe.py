"""Observing calls: a record per call, told to metrics, traces and logs when it has been answered."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc

from tandem_core import observe
from tandem_core.grpc_admission import WorkPool
from tandem_core.observe import Record, recording
from tandem_core.service_settings import ServiceSettings
from tandem_core.serving_bundles import ServingBundles
from tandem_core.settings import ConfigError

if TYPE_CHECKING:
    from tandem_core.registry import Registry
    from tandem_core.signals_audit import Audit
    from tandem_core.signals_side import MetricsServer
    from tandem_core.signals_traces import Tracing
    from tandem_core.signals_worker import WorkerMetrics

log = logging.getLogger(__name__)

SAMPLE_EVERY = 16  # requests, of which one leaves its searches for the audit


class ObserveInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Outermost: it sees the time a call waits for a thread. What is refused before that is counted by who refuses."""

    def __init__(self, metrics: WorkerMetrics | None = None, tracing: Tracing | None = None) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._seen = 0

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None or details.method.startswith("/grpc."):
            return handler
        arrived = perf_counter()
        inner = handler.unary_unary
        rpc = details.method.rpartition("/")[2]  # one of our contract's: others have no handler

        def observed(request: Any, context: Any) -> Any:
            spans = self._tracing.begin(rpc, details.invocation_metadata) if self._tracing is not None else None
            self._seen += 1
            listening = self._metrics is not None or spans is not None
            record = Record(rpc, listening=listening, sampled=self._seen % SAMPLE_EVERY == 0, spans=spans)
            with recording(record):
                if listening:
                    record.stages.append(("queue", perf_counter() - arrived))
                try:
                    return inner(request, context)
                finally:
                    self._finish(record, _code_name(context), perf_counter() - arrived)

        return grpc.unary_unary_rpc_method_handler(observed, handler.request_deserializer, handler.response_serializer)

    def _finish(self, record: Record, code: str, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.finish(record, code, seconds)
        if record.spans is not None and self._tracing is not None:
            self._tracing.end(record, code)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("answered", extra={"code": code, "took_ms": round(1000 * seconds, 3)})


def _code_name(context: Any) -> str:
    code = context.code()
    return "OK" if code is None else grpc.StatusCode(code).name if not isinstance(code, int) else str(code)


def import_signals(settings: ServiceSettings) -> None:
    """Import what the settings ask for, before the fork, so that workers share it; raises ConfigError."""
    if settings.metrics_port is not None:
        import tandem_core.signals_worker  # noqa: PLC0415
    if settings.otlp_endpoint:
        try:
            import tandem_core.signals_traces  # noqa: F401, PLC0415
        except ImportError as error:
            raise ConfigError(f"otlp_endpoint is set, and the extra `tracing` is not installed: {error}") from error


def serve_metrics(
    settings: ServiceSettings, registry: Registry, alive: Callable[[], bool]
) -> tuple[MetricsServer, Audit] | None:
    """Serve the metrics port, where there is one, and return with it what looks at workers' samples when asked to.

    Raises ConfigError where the port is not to be had.
    """
    if settings.metrics_port is None:
        return None
    from tandem_core.signals_audit import Audit  # noqa: PLC0415  (only where it is wanted)
    from tandem_core.signals_side import MetricsServer, SideGauges, WorkerFiles  # noqa: PLC0415
    from tandem_core.signals_worker import folder  # noqa: PLC0415

    files = WorkerFiles(folder())
    gauges = SideGauges(files)
    server = MetricsServer(settings.host, settings.metrics_port, files, gauges, alive)
    return server, Audit(registry, files, gauges, settings.audit_s)


class WorkerSignals:
    """What a worker tells of itself: made after the fork, `beat` called every second, `close` at the end."""

    def __init__(self, settings: ServiceSettings, service: str, bundles: ServingBundles[Any]) -> None:
        self._bundles = bundles
        self._metrics: WorkerMetrics | None = None
        self._tracing: Tracing | None = None
        if settings.metrics_port is not None:
            from tandem_core.signals_samples import SampleWriter  # noqa: PLC0415
            from tandem_core.signals_worker import WorkerMetrics, folder, reserve_files  # noqa: PLC0415  (where wanted)

            try:
                reserve_files()
                self._metrics = WorkerMetrics(SampleWriter(folder(), os.getpid(), self._items_of))
            except OSError as error:  # a full disk, say: answers go on without them
                log.error("no metrics of this process", extra={"reason": str(error)})
        if settings.otlp_endpoint:
            from tandem_core.signals_traces import Tracing, otlp_exporter  # noqa: PLC0415  (an optional extra)

            self._tracing = Tracing.batched(service, otlp_exporter(settings.otlp_endpoint), settings.trace_ratio)
        self.interceptor = ObserveInterceptor(self._metrics, self._tracing)

    def beat(self, pool: WorkPool) -> None:
        """Tell what is no request's own."""
        if (metrics := self._metrics) is None:
            return
        metrics.flush()
        metrics.set("calls_held", to=pool.held)
        metrics.set("calls_waiting", to=max(0, pool.held - pool.threads))
        metrics.total("calls_shed", "full", is_now=pool.refused)
        metrics.total("calls_shed", "late", is_now=pool.dropped)
        for name, total in observe.TALLIES.items():
            metrics.total(name, is_now=total)
        for name, ask in observe.WATCHED.items():
            metrics.set(name, to=ask())
        held = self._bundles.held
        metrics.set("bundle_refused", to=float(bool(held.refusal)))
        # The writer holds an encoder and serves no bundle. It goes from one to the next without a restart: the series
        # of the one before would stay, as of an instance that does not follow.
        if held.loaded and (bundle := getattr(held.loaded[0][1], "bundle", None)) is not None:
            metrics.set("bundle_info", held.current_id, to=1)
            metrics.set("bundle_age_seconds", to=time.time() - bundle.manifest.created_ms / 1000)

    def close(self) -> None:
        """Write what is left of metrics, and send what is left of traces."""
        if self._metrics is not None:
            self._metrics.flush()
        if self._tracing is not None:
            self._tracing.close()

    def _items_of(self, bundle_id: str) -> int:
        loaded = dict(self._bundles.held.loaded)
        return len(loaded[bundle_id].bundle.catalog) if bundle_id in loaded else 0
