"""Every error class through a real server: code, message, google.rpc details, and nothing of ours in INTERNAL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core import errors
from tandem_core.errors import FieldViolation
from tandem_core.grpc_errors import to_call_error

INTERNAL_TEXT = "internal error; see the service's log"
PRIVATE = "what the user did yesterday"


class Raises(retrieval_pb2_grpc.RetrievalServiceServicer):
    """Raises what a test puts into it."""

    error: BaseException = errors.NotFound("not set")

    def Retrieve(self, request: Any, context: grpc.ServicerContext) -> Any:
        raise self.error


@pytest.fixture(scope="module")
def grpc_servicer() -> Raises:
    return Raises()


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    return retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type[retrieval_pb2_grpc.RetrievalServiceStub]:
    return retrieval_pb2_grpc.RetrievalServiceStub


Case = tuple[errors.TandemError, grpc.StatusCode, dict[str, Any]]
CASES: list[Case] = [
    (
        errors.InvalidRequest(
            FieldViolation("max_candidates", "is -1"), FieldViolation("context.recent_events[3].value", "is no number")
        ),
        grpc.StatusCode.INVALID_ARGUMENT,
        {"violations": {"max_candidates": "is -1", "context.recent_events[3].value": "is no number"}},
    ),
    (
        errors.BundleNotReady("no bundle yet"),
        grpc.StatusCode.UNAVAILABLE,
        {"reason": "BUNDLE_NOT_READY", "domain": "tandem"},
    ),
    (
        errors.UpstreamUnavailable("retrieval is away"),
        grpc.StatusCode.UNAVAILABLE,
        {"reason": "UPSTREAM_UNAVAILABLE", "domain": "tandem"},
    ),
    (errors.DeadlineExceeded("too late"), grpc.StatusCode.DEADLINE_EXCEEDED, {}),
    (
        errors.BundleMismatch("another bundle"),
        grpc.StatusCode.FAILED_PRECONDITION,
        {"reason": "BUNDLE_MISMATCH", "domain": "tandem"},
    ),
    (
        errors.CheckFailed("a file is missing"),
        grpc.StatusCode.FAILED_PRECONDITION,
        {"reason": "BUNDLE_REFUSED", "domain": "tandem"},
    ),
    (errors.NotFound("no item 'x'"), grpc.StatusCode.NOT_FOUND, {}),
    (errors.Unauthenticated("who are you?"), grpc.StatusCode.UNAUTHENTICATED, {}),
    (errors.Forbidden("not for you"), grpc.StatusCode.PERMISSION_DENIED, {}),
    (errors.Overloaded("too much", 1.5), grpc.StatusCode.RESOURCE_EXHAUSTED, {"retry_after_s": 1.5}),
    (errors.Unimplemented("not built yet"), grpc.StatusCode.UNIMPLEMENTED, {}),
]
NOTHING = {"violations": {}, "reason": "", "domain": "", "retry_after_s": None}


def test_every_error_class_has_a_case() -> None:
    assert {type(error) for error, _, _ in CASES} == set(errors.TandemError.__subclasses__())


@pytest.mark.parametrize(("error", "code", "details"), CASES, ids=[type(error).__name__ for error, _, _ in CASES])
def test_an_error_arrives_with_its_code_its_message_and_its_details(
    grpc_servicer: Raises,
    grpc_stub: retrieval_pb2_grpc.RetrievalServiceStub,
    refused: Callable[..., Any],
    error: errors.TandemError,
    code: grpc.StatusCode,
    details: dict[str, Any],
) -> None:
    grpc_servicer.error = error
    got = refused(grpc_stub.Retrieve, retrieval_pb2.RetrieveRequest())
    assert (got.code, got.message) == (code, str(error))
    assert {name: getattr(got, name) for name in NOTHING} == NOTHING | details


@pytest.mark.parametrize(("error", "code", "details"), CASES, ids=[type(error).__name__ for error, _, _ in CASES])
def test_an_error_in_a_batch_says_the_same(
    error: errors.TandemError, code: grpc.StatusCode, details: dict[str, Any]
) -> None:
    result = to_call_error(error)
    assert (result.code, result.message) == (code.value[0], str(error))
    violations = {violation.field: violation.description for violation in result.field_violations}
    assert violations == details.get("violations", {})


@pytest.mark.parametrize("kind", [ValueError, KeyError, RuntimeError, AssertionError, MemoryError])
def test_an_unexpected_error_is_internal_and_its_text_stays_in_our_log(
    grpc_servicer: Raises,
    grpc_stub: retrieval_pb2_grpc.RetrievalServiceStub,
    refused: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    kind: type[Exception],
) -> None:
    grpc_servicer.error = kind(PRIVATE)
    got = refused(grpc_stub.Retrieve, retrieval_pb2.RetrieveRequest())
    assert (got.code, got.message) == (grpc.StatusCode.INTERNAL, INTERNAL_TEXT)
    assert PRIVATE not in got.trailers
    assert kind.__name__ not in got.trailers
    (record,) = (record for record in caplog.records if record.name == "tandem_core.grpc_errors")
    assert record.exc_info is not None
    assert PRIVATE in str(record.exc_info[1])


def test_fifty_violations_still_arrive_as_what_they_are(
    grpc_servicer: Raises, grpc_stub: retrieval_pb2_grpc.RetrievalServiceStub, refused: Callable[..., Any]
) -> None:
    many = [FieldViolation(f"context.recent_events[{i}].item_id", "is " + "far " * 200 + "too long") for i in range(50)]
    grpc_servicer.error = errors.InvalidRequest(*many)
    got = refused(grpc_stub.Retrieve, retrieval_pb2.RetrieveRequest())
    assert got.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(got.violations) <= {violation.field for violation in many}
    assert len(got.violations) >= 10


def test_bytes_that_are_no_request_do_not_reach_the_servicer(grpc_channel: grpc.Channel) -> None:
    call = grpc_channel.unary_unary("/tandem.retrieval.v1.RetrievalService/Retrieve")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff no protobuf")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no message of this method" in (caught.value.details() or "")


def test_a_service_that_this_server_does_not_have_is_unimplemented(grpc_channel: grpc.Channel) -> None:
    call = grpc_channel.unary_unary(
        "/tandem.ranking.v1.RankingService/Recommend",
        request_serializer=ranking_pb2.RecommendRequest.SerializeToString,
    )
    with pytest.raises(grpc.RpcError) as caught:
        call(ranking_pb2.RecommendRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
