"""What a stub says instead of an answer: a status with google.rpc details, for a call or for one request of a batch."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tandem.common.v1 import degradation_pb2

DOMAIN = "tandem"
MOST_TOLD = 20  # a client takes 8 KiB of trailers, and sees RESOURCE_EXHAUSTED instead of longer ones
LONGEST_TOLD = 160

Violation = tuple[str, str]  # the field's path, and what is wrong with it


class Refusal(Exception):  # noqa: N818  (reads as a sentence where it is raised)
    """A request is not answered; carries the status the caller gets. A callable given to answer_with may raise it."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *details: Message,
        violations: Sequence[Violation] = (),
    ) -> None:
        """details: google.rpc messages. violations: sent as google.rpc.BadRequest. Raises ValueError for code OK."""
        if code is grpc.StatusCode.OK:
            raise ValueError("OK is no failure")
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.violations = tuple(violations)

    def abort(self, context: grpc.ServicerContext) -> NoReturn:
        """End the call with this status."""
        context.abort_with_status(rpc_status.to_status(self._status()))
        raise AssertionError("abort_with_status raises")

    def call_error(self) -> degradation_pb2.CallError:
        """Return this as the outcome of one request of a batch."""
        return degradation_pb2.CallError(
            code=self.code.value[0],
            message=self.message,
            field_violations=[degradation_pb2.FieldViolation(field=f, description=d) for f, d in self.violations],
        )

    def _status(self) -> status_pb2.Status:
        details = list(self.details)
        if self.violations:
            wrong = [error_details_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in self.violations]
            details.append(error_details_pb2.BadRequest(field_violations=wrong))
        packed = [any_pb2.Any() for _ in details]
        for into, detail in zip(packed, details, strict=True):
            into.Pack(detail)
        return status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)


def invalid(violations: Sequence[Violation]) -> Refusal:
    """Return INVALID_ARGUMENT with the first of these field violations, as many as the services tell."""
    told = [
        (field, textwrap.shorten(description, LONGEST_TOLD, placeholder=" ..."))
        for field, description in violations[:MOST_TOLD]
    ]
    message = "; ".join(f"{field}: {description}" for field, description in told[:3])
    if (more := len(violations) - 3) > 0:
        message += f"; and {more} more"
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message, violations=told)


def bundle_mismatch(message: str) -> Refusal:
    """Return FAILED_PRECONDITION with reason BUNDLE_MISMATCH."""
    reason = error_details_pb2.ErrorInfo(reason="BUNDLE_MISMATCH", domain=DOMAIN)
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, message, reason)
