"""Traces by OpenTelemetry: a span per call and one per stage, across services by W3C Trace Context.

Imported only where an endpoint is configured: the extra `tracing`. Nothing of it is known to pipelines.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tandem_core.observe import Record

_PROPAGATOR = TraceContextTextMapPropagator()
_SERVERS_FAULT = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})


class CallSpans:
    """The spans of one call; the outermost one is the call's own. Not recording: only what must be passed on."""

    def __init__(self, tracer: Tracer, call: Span) -> None:
        self._tracer = tracer
        self._open = [call]
        self.trace_id = format_trace_id(call.get_span_context().trace_id)

    @property
    def call(self) -> Span:
        return self._open[0]

    def open(self, name: str) -> None:
        parent = self._open[-1]
        self._open.append(
            self._tracer.start_span(name, context=set_span_in_context(parent, Context()))
            if parent.is_recording()
            else parent
        )

    def close(self) -> None:
        span = self._open.pop()
        if span is not self._open[-1]:
            span.end()

    def traceparent(self) -> str:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(self._open[-1], Context()))
        return carrier.get("traceparent", "")


class Tracing:
    """Makes spans of calls. A caller's decision to trace is followed; `ratio` (0 to 1) decides where there is none."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tandem")

    @classmethod
    def batched(cls, service: str, exporter: SpanExporter, ratio: float) -> Tracing:
        """Send spans from a thread of its own: make it after the fork."""
        tracing = cls(provider(service, ratio))
        tracing._provider.add_span_processor(BatchSpanProcessor(exporter))
        return tracing

    def begin(self, rpc: str, metadata: Iterable[tuple[str, Any]]) -> CallSpans:
        """Start the span of a call, below the caller's where its metadata names one."""
        carrier = {key: value for key, value in metadata if key in ("traceparent", "tracestate")}
        context = _PROPAGATOR.extract(carrier, Context()) if carrier else Context()
        attributes = {"rpc.system": "grpc", "rpc.method": rpc}
        span = self._tracer.start_span(rpc, context=context, kind=SpanKind.SERVER, attributes=attributes)
        return CallSpans(self._tracer, span)

    def end(self, record: Record, code: str) -> None:
        """End the span of a call."""
        spans = record.spans
        if not isinstance(spans, CallSpans):
            return
        span = spans.call
        if span.is_recording():
            span.set_attribute("rpc.grpc.status_code", code)
            span.set_attribute("tandem.request_id", record.request_id)
            if record.bundle_id:
                span.set_attribute("tandem.bundle_id", record.bundle_id)
            if code in _SERVERS_FAULT:
                span.set_status(Status(StatusCode.ERROR))
        span.end()

    def close(self) -> None:
        self._provider.shutdown()


def provider(service: str, ratio: float) -> TracerProvider:
    """Return a provider without exporters. service: what traces call it."""
    sampler = ParentBased(TraceIdRatioBased(ratio))
    resource = Resource.create({"service.name": f"tandem-{service}"})
    return TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)


def otlp_exporter(endpoint: str) -> SpanExporter:
    """Return the exporter to a collector's HTTP endpoint, such as http://collector:4318/v1/traces."""
    return OTLPSpanExporter(endpoint=endpoint)
