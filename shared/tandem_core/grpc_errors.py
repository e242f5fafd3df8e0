"""Errors to gRPC statuses: one table, one interceptor."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from tandem.common.v1 import degradation_pb2
from tandem_core import errors

log = logging.getLogger(__name__)

DOMAIN = "tandem"

# Clients refuse trailers above 8 KiB, and would see RESOURCE_EXHAUSTED instead of what is wrong: 50 violations do it.
MOST_TOLD = 20
LONGEST_TOLD = 160

_CODES: dict[type[errors.TandemError], int] = {
    errors.InvalidRequest: code_pb2.INVALID_ARGUMENT,
    errors.BundleNotReady: code_pb2.UNAVAILABLE,
    errors.UpstreamUnavailable: code_pb2.UNAVAILABLE,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    errors.BundleMismatch: code_pb2.FAILED_PRECONDITION,
    errors.CheckFailed: code_pb2.FAILED_PRECONDITION,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.Forbidden: code_pb2.PERMISSION_DENIED,
    errors.Overloaded: code_pb2.RESOURCE_EXHAUSTED,
    errors.Unimplemented: code_pb2.UNIMPLEMENTED,
}
_REASONS: dict[type[errors.TandemError], str] = {
    errors.BundleMismatch: "BUNDLE_MISMATCH",
    errors.BundleNotReady: "BUNDLE_NOT_READY",
    errors.CheckFailed: "BUNDLE_REFUSED",
    errors.UpstreamUnavailable: "UPSTREAM_UNAVAILABLE",
}
_INTERNAL = "internal error; see the service's log"


def to_status(error: Exception) -> status_pb2.Status:
    """Return the status of an error, with google.rpc details; anything unknown is INTERNAL with fixed text."""
    if not isinstance(error, errors.TandemError):
        return status_pb2.Status(code=code_pb2.INTERNAL, message=_INTERNAL)
    status = status_pb2.Status(code=_CODES[type(error)], message=str(error))
    if isinstance(error, errors.InvalidRequest):
        told = _told(error)
        more = len(error.violations) - 3
        status.message = str(errors.InvalidRequest(*told[:3])) + (f"; and {more} more" if more > 0 else "")
        bad = [error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description) for v in told]
        _attach(status, error_details_pb2.BadRequest(field_violations=bad))
    if isinstance(error, errors.Overloaded):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(error.retry_after_s * 1000))
        _attach(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if reason := _REASONS.get(type(error)):
        _attach(status, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN))
    return status


def to_call_error(error: Exception) -> degradation_pb2.CallError:
    """Return an error as the result of one request of a batch."""
    status = to_status(error)
    violations = _told(error) if isinstance(error, errors.InvalidRequest) else ()
    return degradation_pb2.CallError(
        code=status.code,
        message=status.message,
        field_violations=[degradation_pb2.FieldViolation(field=v.field, description=v.description) for v in violations],
    )


def _told(error: errors.InvalidRequest) -> list[errors.FieldViolation]:
    """Return as many violations as fit into a status, long ones cut: some quote what the caller sent."""
    return [
        errors.FieldViolation(v.field, textwrap.shorten(v.description, LONGEST_TOLD, placeholder=" ..."))
        for v in error.violations[:MOST_TOLD]
    ]


def _attach(status: status_pb2.Status, detail: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


class ErrorInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Turns what servicers raise into statuses."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler  # unknown methods, and the streams of health and reflection
        inner, read = handler.unary_unary, handler.request_deserializer

        def guarded(raw: Any, context: grpc.ServicerContext) -> Any:
            try:
                return inner(_read(raw, read), context)
            except errors.TandemError as error:
                _abort(context, error)
            except Exception as error:  # a bug: the caller gets fixed text, the trace goes to our log
                if context.code() is not None:  # type: ignore[attr-defined]  # missing in the stubs
                    raise  # context.abort of a library's own servicer: the status is set already
                log.exception("request failed", extra={"method": details.method})
                _abort(context, error)

        # The request is read in here: what cannot be read is the caller's mistake, and gRPC itself would say INTERNAL.
        return grpc.unary_unary_rpc_method_handler(guarded, None, handler.response_serializer)


def _read(raw: Any, read: Callable[[bytes], Any] | None) -> Any:
    try:
        return raw if read is None else read(raw)
    except DecodeError as error:
        raise errors.InvalidRequest(errors.FieldViolation("", "the request is no message of this method")) from error


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("abort_with_status raises")
