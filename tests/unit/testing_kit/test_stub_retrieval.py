"""StubRetrieval through a real socket."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tandem.common.v1 import context_pb2, degradation_pb2, filter_pb2
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_testing import Refusal, StubRetrieval, assert_valid_candidates, serve
from tandem_testing.plugin import StubServer

Served = StubServer[StubRetrieval]


def request_for(user_id: str = "ann", **fields: object) -> retrieval_pb2.RetrieveRequest:
    return retrieval_pb2.RetrieveRequest(
        context=context_pb2.RequestContext(user_id=user_id),
        **fields,  # type: ignore[arg-type]
    )


def ask(served: Served, request: retrieval_pb2.RetrieveRequest, timeout: float = 60) -> retrieval_pb2.RetrieveResponse:
    return retrieval_pb2_grpc.RetrievalServiceStub(served.channel).Retrieve(request, timeout=timeout)


def refused(served: Served, request: retrieval_pb2.RetrieveRequest, timeout: float = 60) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        ask(served, request, timeout)
    return caught.value


def test_the_same_request_gets_the_same_answer_in_any_stub(tandem_retrieval_stub: Served) -> None:
    request = request_for(max_candidates=50)
    first = ask(tandem_retrieval_stub, request)
    assert first == ask(tandem_retrieval_stub, request)
    with serve(StubRetrieval()) as other:
        assert first == retrieval_pb2_grpc.RetrievalServiceStub(other.channel).Retrieve(request)


def test_the_answer_is_known_to_the_letter(tandem_retrieval_stub: Served) -> None:
    """Callers may keep answers as golden files: a change of the seeds would break them all."""
    response = ask(tandem_retrieval_stub, request_for(max_candidates=3))
    assert list(response.candidates.item_ids) == ["velvet-canyon", "tidy-canyon", "autumn-prairie"]


def test_users_differ_and_request_ids_do_not_matter(tandem_retrieval_stub: Served) -> None:
    ann, bob = request_for("ann", max_candidates=20), request_for("bob", max_candidates=20)
    retry = request_for("ann", max_candidates=20)
    retry.context.request_id = "r-2"
    ids_of_ann = ask(tandem_retrieval_stub, ann).candidates.item_ids
    assert ids_of_ann != ask(tandem_retrieval_stub, bob).candidates.item_ids
    again = ask(tandem_retrieval_stub, retry)
    assert ids_of_ann == again.candidates.item_ids
    assert again.request_id == "r-2"


@pytest.mark.parametrize(("asked", "given"), [(0, 500), (1, 1), (777, 777), (2000, 1000)])
def test_max_candidates_is_kept_and_0_means_500(tandem_retrieval_stub: Served, asked: int, given: int) -> None:
    request = request_for(max_candidates=asked)
    response = ask(tandem_retrieval_stub, request)
    assert len(response.candidates.item_ids) == given
    assert_valid_candidates(response, request)


def test_excluded_and_interacted_items_are_absent_unless_allowed(tandem_retrieval_stub: Served) -> None:
    request = request_for(max_candidates=10)
    first, second, third = ask(tandem_retrieval_stub, request).candidates.item_ids[:3]
    request.exclude_item_ids.extend([first, "not-in-the-catalogue"])
    request.context.recent_events.add(item_id=second)
    request.context.seed_item_ids.append(third)
    kept = ask(tandem_retrieval_stub, request).candidates.item_ids
    assert {first, second, third}.isdisjoint(kept)

    request.max_candidates = 1000
    request.seen_policy.interacted = filter_pb2.SEEN_MODE_ALLOW
    kept = ask(tandem_retrieval_stub, request).candidates.item_ids
    assert first not in kept
    assert {second, third} < set(kept)


def test_rows_and_ids_name_the_same_items(tandem_retrieval_stub: Served) -> None:
    by_id = ask(tandem_retrieval_stub, request_for(item_form=retrieval_pb2.ITEM_FORM_IDS)).candidates
    request = request_for(item_form=retrieval_pb2.ITEM_FORM_ROWS)
    response = ask(tandem_retrieval_stub, request)
    assert_valid_candidates(response, request)
    assert response.candidates.bundle_id == "stub-bundle"
    assert [tandem_retrieval_stub.stub.catalogue[row] for row in response.candidates.rows] == list(by_id.item_ids)


def test_only_the_sources_asked_for_answer_within_their_limits(tandem_retrieval_stub: Served) -> None:
    request = request_for(fill_policy=filter_pb2.FILL_POLICY_STRICT, max_candidates=100)
    request.sources.add(source="als", limit=7)
    response = ask(tandem_retrieval_stub, request)
    assert_valid_candidates(response, request)
    (column,) = response.candidates.source_columns
    assert column.source == "als"
    assert list(column.ranks) == [1, 2, 3, 4, 5, 6, 7]


def test_a_short_list_is_filled_up_with_popular_items(tandem_retrieval_stub: Served) -> None:
    request = request_for(max_candidates=100)
    request.sources.add(source="als", limit=7)
    response = ask(tandem_retrieval_stub, request)
    assert_valid_candidates(response, request)
    assert len(response.candidates.item_ids) == 100
    assert [column.source for column in response.candidates.source_columns] == ["als", "backfill"]


def test_the_bundle_answers_only_where_it_is_acceptable(tandem_retrieval_stub: Served) -> None:
    assert ask(tandem_retrieval_stub, request_for(acceptable_bundle_ids=["b-9", "stub-bundle"])).bundle_id
    error = refused(tandem_retrieval_stub, request_for(acceptable_bundle_ids=["b-9"]))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    assert (info.reason, info.domain) == ("BUNDLE_MISMATCH", "tandem")


def test_requests_beyond_the_limits_are_refused_with_every_violation(tandem_retrieval_stub: Served) -> None:
    request = request_for(max_candidates=-1, exclude_item_ids=["x"] * 1001)
    request.sources.add(source="tarot", weight=0)
    error = refused(tandem_retrieval_stub, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(error).details[0].Unpack(bad)
    fields = [violation.field for violation in bad.field_violations]
    assert fields == ["max_candidates", "exclude_item_ids", "sources[0].source", "sources[0].weight"]


@pytest.mark.parametrize(
    ("context", "regime"),
    [
        (context_pb2.RequestContext(user_id="ann"), context_pb2.USER_REGIME_WARM),
        (context_pb2.RequestContext(user_id="ann", anonymous=True), context_pb2.USER_REGIME_UNKNOWN),
        (context_pb2.RequestContext(seed_item_ids=["a"]), context_pb2.USER_REGIME_FEW_EVENTS),
        (context_pb2.RequestContext(seed_item_ids=list("abcde")), context_pb2.USER_REGIME_WARM),
        (
            context_pb2.RequestContext(user_attributes=[{"name": "age", "number_value": 25}]),  # type: ignore[list-item]
            context_pb2.USER_REGIME_PROFILE_ONLY,
        ),
    ],
)
def test_the_regime_follows_what_the_context_tells(
    tandem_retrieval_stub: Served, context: context_pb2.RequestContext, regime: int
) -> None:
    response = ask(tandem_retrieval_stub, retrieval_pb2.RetrieveRequest(context=context, max_candidates=1))
    assert response.regime == regime


def test_a_batch_answers_as_single_calls_do(tandem_retrieval_stub: Served) -> None:
    requests = [request_for("ann"), request_for("bob", max_candidates=-1), request_for("eve")]
    stub = retrieval_pb2_grpc.RetrievalServiceStub(tandem_retrieval_stub.channel)
    results = stub.BatchRetrieve(retrieval_pb2.BatchRetrieveRequest(requests=requests)).results
    assert results[0].response == ask(tandem_retrieval_stub, requests[0])
    assert results[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert results[1].error.field_violations[0].field == "max_candidates"
    assert results[2].response == ask(tandem_retrieval_stub, requests[2])


@pytest.mark.parametrize("size", [0, 65])
def test_a_batch_has_1_to_64_requests(tandem_retrieval_stub: Served, size: int) -> None:
    batch = retrieval_pb2.BatchRetrieveRequest(requests=[request_for()] * size)
    with pytest.raises(grpc.RpcError, match="1 to 64"):
        retrieval_pb2_grpc.RetrievalServiceStub(tandem_retrieval_stub.channel).BatchRetrieve(batch)


def test_failures_are_counted_request_by_request(tandem_retrieval_stub: Served) -> None:
    tandem_retrieval_stub.stub.fail(grpc.StatusCode.UNAVAILABLE, "out to lunch", times=3)
    error = refused(tandem_retrieval_stub, request_for())
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "out to lunch")
    stub = retrieval_pb2_grpc.RetrievalServiceStub(tandem_retrieval_stub.channel)
    results = stub.BatchRetrieve(retrieval_pb2.BatchRetrieveRequest(requests=[request_for()] * 3)).results
    assert [result.WhichOneof("outcome") for result in results] == ["error", "error", "response"]
    assert results[0].error.message == "out to lunch"


def test_failures_without_number_last_until_reset(tandem_retrieval_stub: Served) -> None:
    tandem_retrieval_stub.stub.fail(grpc.StatusCode.INTERNAL)
    for _ in range(3):
        assert refused(tandem_retrieval_stub, request_for()).code() is grpc.StatusCode.INTERNAL
    tandem_retrieval_stub.stub.reset()
    assert ask(tandem_retrieval_stub, request_for()).candidates.item_ids


def test_a_delay_is_kept_and_ends_when_the_caller_gives_up(tandem_retrieval_stub: Served) -> None:
    tandem_retrieval_stub.stub.delay(0.2)
    began = time.monotonic()
    ask(tandem_retrieval_stub, request_for())
    assert time.monotonic() - began >= 0.2

    tandem_retrieval_stub.stub.delay(600)
    for _ in range(9):  # one more than the server has threads: a waiting call must not keep its thread
        assert refused(tandem_retrieval_stub, request_for(), 0.05).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(tandem_retrieval_stub.stub.requests) == 10
    tandem_retrieval_stub.stub.delay(0)
    assert ask(tandem_retrieval_stub, request_for()).bundle_id


def test_degradations_and_emptiness_are_declared(tandem_retrieval_stub: Served) -> None:
    late = degradation_pb2.Degradation(kind=degradation_pb2.DEGRADATION_KIND_SOURCE_LATE, component="als")
    tandem_retrieval_stub.stub.degrade(late)
    response = ask(tandem_retrieval_stub, request_for())
    assert list(response.degradations) == [late]
    assert response.candidates.item_ids
    tandem_retrieval_stub.stub.empty()
    response = ask(tandem_retrieval_stub, request_for())
    assert list(response.degradations) == [late]
    assert not response.candidates.item_ids
    assert response.empty_reason
    assert_valid_candidates(response, request_for())


def test_an_answer_without_eligible_items_says_why() -> None:
    stub = StubRetrieval(catalogue=["a", "b"], bundle_id="b-7")
    request = request_for(exclude_item_ids=["a", "b"])
    with serve(stub) as running:
        response = retrieval_pb2_grpc.RetrievalServiceStub(running.channel).Retrieve(request)
    assert_valid_candidates(response, request)
    assert response.empty_reason
    assert response.bundle_id == "b-7"


def test_a_malformed_answer_has_columns_of_unequal_length(tandem_retrieval_stub: Served) -> None:
    tandem_retrieval_stub.stub.malformed()
    response = ask(tandem_retrieval_stub, request_for())
    assert len(response.candidates.scores) == len(response.candidates.item_ids) + 1
    with pytest.raises(AssertionError, match="every column has 500 entries"):
        assert_valid_candidates(response, request_for())


def test_a_given_answer_is_sent_as_it_is(tandem_retrieval_stub: Served) -> None:
    given = retrieval_pb2.RetrieveResponse(bundle_id="mine", empty_reason="because")
    tandem_retrieval_stub.stub.answer_with(given)
    assert ask(tandem_retrieval_stub, request_for(max_candidates=-1)) == given


def test_a_function_may_answer_leave_it_to_the_seed_or_refuse(tandem_retrieval_stub: Served) -> None:
    def answer(request: retrieval_pb2.RetrieveRequest) -> retrieval_pb2.RetrieveResponse | None:
        if request.context.user_id == "eve":
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "not eve")
        return retrieval_pb2.RetrieveResponse(bundle_id="mine") if request.context.user_id == "bob" else None

    tandem_retrieval_stub.stub.answer_with(answer)
    assert ask(tandem_retrieval_stub, request_for("bob")).bundle_id == "mine"
    assert ask(tandem_retrieval_stub, request_for("ann")).bundle_id == "stub-bundle"
    assert refused(tandem_retrieval_stub, request_for("eve")).code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_function_that_returns_the_wrong_thing_is_named(tandem_retrieval_stub: Served) -> None:
    tandem_retrieval_stub.stub.answer_with(lambda request: request)
    assert "returned RetrieveRequest, not RetrieveResponse" in refused(tandem_retrieval_stub, request_for()).details()


def test_requests_are_recorded_and_forgotten(tandem_retrieval_stub: Served) -> None:
    stub = tandem_retrieval_stub.stub
    with pytest.raises(LookupError, match="not been asked"):
        _ = stub.last_request
    with ThreadPoolExecutor(8) as pool:
        users = [f"user-{i}" for i in range(64)]
        list(pool.map(lambda user: ask(tandem_retrieval_stub, request_for(user)), users))
    assert sorted(request.context.user_id for request in stub.requests) == sorted(users)
    ask(tandem_retrieval_stub, request_for("last"))
    assert stub.last_request.context.user_id == "last"
    stub.reset()
    assert not stub.requests


def test_the_script_refuses_nonsense() -> None:
    stub = StubRetrieval()
    with pytest.raises(ValueError, match="OK is no failure"):
        stub.fail(grpc.StatusCode.OK)
    with pytest.raises(ValueError, match="times is 0"):
        stub.fail(grpc.StatusCode.INTERNAL, times=0)
    with pytest.raises(ValueError, match="delay"):
        stub.delay(-1)
    with pytest.raises(TypeError, match="not str"):
        stub.answer_with("hello")  # type: ignore[arg-type]


@pytest.mark.parametrize("catalogue", [["a", "a"], ["a", ""]])
def test_a_catalogue_with_doubled_or_empty_ids_is_refused(catalogue: list[str]) -> None:
    with pytest.raises(ValueError, match="empty id or an id twice"):
        StubRetrieval(catalogue)


def similar(served: Served, *item_ids: str, **fields: Any) -> retrieval_pb2.SimilarItemsResponse:
    request = retrieval_pb2.SimilarItemsRequest(item_ids=item_ids, **fields)
    return retrieval_pb2_grpc.RetrievalServiceStub(served.channel).SimilarItems(request, timeout=60)


def vectors(served: Served, *item_ids: str, users: Any = ()) -> retrieval_pb2.GetEmbeddingsResponse:
    request = retrieval_pb2.GetEmbeddingsRequest(item_ids=item_ids, users=users)
    return retrieval_pb2_grpc.RetrievalServiceStub(served.channel).GetEmbeddings(request, timeout=60)


def test_similar_items_and_vectors_are_known_to_the_letter(tandem_retrieval_stub: Served) -> None:
    """Callers may keep answers as golden files: a change of the seeds would break them all."""
    response = similar(tandem_retrieval_stub, "quiet-river", max_results=3)
    assert list(response.candidates.item_ids) == ["lively-raven", "crimson-maple", "copper-otter"]
    values = vectors(tandem_retrieval_stub, "quiet-river").items[0].values
    assert list(values[:3]) == pytest.approx([0.3553, -0.5027, 0.2833], abs=1e-4)


def test_a_user_has_the_same_vector_whatever_the_request_is_called(tandem_retrieval_stub: Served) -> None:
    users = [{"user_id": "ann"}, {"user_id": "ann", "request_id": "r-2"}, {"user_id": "bob"}]
    ann, again, bob = vectors(tandem_retrieval_stub, users=users).users
    assert ann == again
    assert ann.values != bob.values


def test_the_script_holds_for_similar_items_and_vectors_too(tandem_retrieval_stub: Served) -> None:
    script = tandem_retrieval_stub.stub
    script.malformed()
    broken = similar(tandem_retrieval_stub, "quiet-river", max_results=5)
    assert (len(broken.candidates.item_ids), len(broken.candidates.scores)) == (5, 6)
    assert len(vectors(tandem_retrieval_stub, "quiet-river", users=[{}]).users[0].values) == 17
    script.reset()
    script.empty()
    assert not similar(tandem_retrieval_stub, "quiet-river").candidates.item_ids
    answer = vectors(tandem_retrieval_stub, "quiet-river", users=[{}])
    assert (len(answer.items), len(answer.users)) == (0, 1)
    script.answer_with(retrieval_pb2.SimilarItemsResponse(bundle_id="mine"))
    assert similar(tandem_retrieval_stub, "lost").bundle_id == "mine"
    assert vectors(tandem_retrieval_stub).bundle_id == "stub-bundle"  # a call of another type
    script.fail(grpc.StatusCode.UNAVAILABLE, times=2)
    for call in (similar, vectors):
        with pytest.raises(grpc.RpcError) as caught:
            call(tandem_retrieval_stub, "quiet-river")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(script.last_request, retrieval_pb2.GetEmbeddingsRequest)


def test_the_state_is_told(tandem_retrieval_stub: Served) -> None:
    stub = retrieval_pb2_grpc.RetrievalServiceStub(tandem_retrieval_stub.channel)
    state = stub.GetServingState(retrieval_pb2.GetServingStateRequest())
    assert state.state.serving
    assert state.state.catalogue_size == 1000
    assert list(state.sources) == ["two_tower", "als", "popularity"]


def test_a_call_that_was_given_up_does_not_use_up_a_failure(tandem_retrieval_stub: Served) -> None:
    tandem_retrieval_stub.stub.delay(0.3)
    tandem_retrieval_stub.stub.fail(grpc.StatusCode.UNAVAILABLE, times=1)
    assert refused(tandem_retrieval_stub, request_for(), 0.05).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert refused(tandem_retrieval_stub, request_for()).code() is grpc.StatusCode.UNAVAILABLE
    assert ask(tandem_retrieval_stub, request_for()).bundle_id
