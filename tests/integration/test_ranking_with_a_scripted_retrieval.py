"""The ranking process and a retrieval that does what a test tells it: late, failing, malformed, of another bundle."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tandem.common.v1 import degradation_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.bundle import Bundle
from tandem_core.registry import Registry
from tandem_testing import RunningServer, StubRetrieval, assert_valid_slate, serve

# Long enough that a machine which stands still for a moment does not look like a late retrieval.
TIMEOUT_MS = 1500
HANGS_S = 60.0  # far longer than any wait: what takes less was not waited for
ATTEMPTS = 3  # of a call that finds retrieval unavailable
THRESHOLD = 5  # failures in a row after which retrieval is left alone for a second
POLICY = {
    "placements": {
        "home": {
            "candidates": 120,
            "interacted": "discount",
            "plans": {"unknown": {"popularity": {"limit": 77, "weight": 0.5}, "two_tower": {"limit": 33}}},
        },
        "plain": {"candidates": 60, "caps": []},
    }
}


@pytest.fixture(scope="module")
def stub_server(bundle: Bundle) -> Iterator[tuple[StubRetrieval, RunningServer]]:
    """Speaks of the very bundle that the ranking process has."""
    stub = StubRetrieval(bundle.catalog.item_ids, bundle.id)
    with serve(stub) as running:
        yield stub, running


@pytest.fixture(scope="module")
def ranking(
    module_launch: Any,
    stub_server: tuple[StubRetrieval, RunningServer],
    registry: Registry,
    write_toml: Callable[..., Path],
) -> Any:
    return module_launch.service(
        "ranking",
        registry=registry.root,
        retrieval_target=f"ipv4:{stub_server[1].address}",
        retrieval_timeout_ms=TIMEOUT_MS,
        policy_file=write_toml(module_launch.folder / "policy.toml", POLICY),
    ).wait_serving()


Recommend = Callable[..., ranking_pb2.RecommendResponse]


@pytest.fixture
def recommend(ranking: Any) -> Recommend:
    """recommend(**fields) asks the process and checks that the answer keeps every promise."""

    def ask(**fields: Any) -> ranking_pb2.RecommendResponse:
        request = ranking_pb2.RecommendRequest(**fields)
        response: ranking_pb2.RecommendResponse = ranking.stub.Recommend(request, timeout=10)
        assert_valid_slate(response, request)
        return response

    return ask


@pytest.fixture
def stub(
    stub_server: tuple[StubRetrieval, RunningServer], recommend: Recommend, wait_until: Callable[..., Any]
) -> StubRetrieval:
    """As new, and heard by the ranking process: what an earlier test broke has healed."""
    stub = stub_server[0]
    stub.reset()
    wait_until(lambda: not recommend(max_results=1).degradations, what="an answer without degradations")
    stub.reset()
    return stub


def popular(bundle: Bundle, n: int) -> list[str]:
    """Return the ids of the n most popular items, ties to the smaller row."""
    return [bundle.catalog.item_ids[row] for row in (-bundle.catalog.event_counts).argsort(kind="stable")[:n]]


def test_what_retrieval_found_is_ranked(stub: StubRetrieval, recommend: Recommend, bundle: Bundle) -> None:
    response = recommend(context={"user_id": "ann", "placement": "plain", "request_id": "r-1"}, max_results=60)
    alone = stub.Retrieve(stub.last_request, None)  # what it told the process
    assert {item.item_id for item in response.items} == {bundle.catalog.item_ids[row] for row in alone.candidates.rows}
    assert response.bundle_id == bundle.id
    assert response.request_id == "r-1"
    assert not response.degradations
    said = {source.source for item in response.items for source in item.sources}
    assert said == {"two_tower", "als", "popularity"}


def test_retrieval_hears_the_whole_request(stub: StubRetrieval, recommend: Recommend, bundle: Bundle) -> None:
    context = {
        "request_id": "r-7",
        "placement": "home",
        "user_id": "ann",
        "session_id": "s-1",
        "anonymous": True,
        "user_attributes": [{"name": "country", "string_value": "Atlantis"}],
        "query_text": "quiet",
        "context": [{"name": "device", "string_value": "phone"}],
        "event_time": {"seconds": 1_752_000_000},
        "experiments": [{"experiment": "e", "variant": "v"}],
        "seed": 9,
    }
    condition = {"in_range": {"column": "price", "max": 30}}
    recommend(context=context, filter=condition, fill_policy=1, exclude_item_ids=["i004"], max_results=7)
    asked = stub.last_request
    wanted = retrieval_pb2.RetrieveRequest(
        context=context,
        filter=condition,
        fill_policy=1,
        exclude_item_ids=["i004"],
        max_candidates=120,  # of the placement
        seen_policy={"interacted": 2},  # of the placement: discount
        sources=[  # of the placement, for a user of whom nothing is known
            {"source": "popularity", "limit": 77, "weight": 0.5},
            {"source": "two_tower", "limit": 33, "weight": 1.0},
        ],
        acceptable_bundle_ids=[bundle.id],
        item_form=retrieval_pb2.ITEM_FORM_ROWS,
    )
    assert asked == wanted


def test_retrieval_gets_the_id_and_the_time_that_ranking_made_up(stub: StubRetrieval, recommend: Recommend) -> None:
    before = time.time()
    response = recommend()
    asked = stub.last_request
    assert asked.context.request_id == response.request_id
    assert before - 1 <= asked.context.event_time.ToMilliseconds() / 1000 <= time.time() + 1
    assert asked.max_candidates == 500
    assert not asked.sources  # the default placement has no plan of its own: the bundle's is used
    assert not asked.HasField("filter")


def test_as_many_candidates_are_asked_for_as_the_list_is_long(stub: StubRetrieval, recommend: Recommend) -> None:
    assert len(recommend(context={"placement": "plain"}, max_results=200).items) == 200
    assert stub.last_request.max_candidates == 200


def test_the_request_says_what_to_do_with_seen_items_before_the_placement(
    stub: StubRetrieval, recommend: Recommend
) -> None:
    recommend(context={"placement": "home"}, seen_policy={"interacted": 3})
    assert stub.last_request.seen_policy.interacted == 3


def test_a_late_retrieval_costs_its_timeout_and_popular_items_come_instead(
    stub: StubRetrieval, recommend: Recommend, kinds_of: Callable[..., set[str]], bundle: Bundle
) -> None:
    stub.delay(HANGS_S)
    started = time.monotonic()
    response = recommend(context={"placement": "plain"}, max_results=10)
    assert time.monotonic() - started < HANGS_S / 2
    assert kinds_of(response) == {"RETRIEVAL_UNAVAILABLE"}
    assert response.degradations[0].component == "retrieval"
    assert {item.item_id for item in response.items} <= set(popular(bundle, 100))
    assert {s.source for item in response.items for s in item.sources} <= {"popularity", "popularity_segment"}


def test_popular_items_come_under_the_filter(
    stub: StubRetrieval, recommend: Recommend, kinds_of: Callable[..., set[str]], bundle: Bundle
) -> None:
    stub.fail(grpc.StatusCode.UNAVAILABLE)
    only = [bundle.catalog.item_ids[row] for row in range(40, 50)]
    response = recommend(
        context={"recent_events": [{"item_id": only[0]}]},
        filter={"in_set": {"column": "item_id", "values": {"values": only}}},
        exclude_item_ids=[only[1]],
    )
    assert "RETRIEVAL_UNAVAILABLE" in kinds_of(response)
    assert {item.item_id for item in response.items} == set(only[2:])


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
    ],
)
def test_whatever_retrieval_fails_with_there_is_a_list(
    stub: StubRetrieval, recommend: Recommend, kinds_of: Callable[..., set[str]], code: grpc.StatusCode
) -> None:
    stub.fail(code, times=ATTEMPTS if code is grpc.StatusCode.UNAVAILABLE else 1)
    response = recommend()
    assert kinds_of(response) == {"RETRIEVAL_UNAVAILABLE"}
    assert len(response.items) == 20
    assert not recommend().degradations  # one failure is forgotten


def test_a_retrieval_that_is_unavailable_for_a_moment_is_asked_again(stub: StubRetrieval, recommend: Recommend) -> None:
    stub.fail(grpc.StatusCode.UNAVAILABLE, times=1)
    assert not recommend().degradations
    assert len(stub.requests) == 2


def test_callers_with_short_deadlines_do_not_take_retrieval_away_from_others(
    stub: StubRetrieval, ranking: Any, recommend: Recommend
) -> None:
    stub.delay(0.5)
    for _ in range(2 * THRESHOLD):
        ranking.stub.Recommend(ranking_pb2.RecommendRequest(), timeout=0.6)  # retrieval has 0.42 s of it
    assert not recommend().degradations


def test_an_outage_is_said_when_it_begins_and_when_it_ends(
    stub: StubRetrieval, ranking: Any, recommend: Recommend
) -> None:
    before = ranking.text.count('"retrieval not used"'), ranking.text.count('"retrieval used again"')
    stub.fail(grpc.StatusCode.INVALID_ARGUMENT, times=4)
    assert all(recommend(max_results=1).degradations for _ in range(4))
    assert not recommend(max_results=1).degradations
    after = ranking.text.count('"retrieval not used"'), ranking.text.count('"retrieval used again"')
    assert after == (before[0] + 1, before[1] + 1)


def test_a_retrieval_that_keeps_failing_is_left_alone_and_tried_again(
    stub: StubRetrieval, recommend: Recommend, kinds_of: Callable[..., set[str]], wait_until: Callable[..., Any]
) -> None:
    stub.fail(grpc.StatusCode.UNAVAILABLE)
    started = time.monotonic()
    answers = [recommend(max_results=1) for _ in range(40)]
    spent = time.monotonic() - started
    assert all(kinds_of(answer) == {"RETRIEVAL_UNAVAILABLE"} for answer in answers)
    # Five calls, and one more for every second that the loop took, each with its retries.
    assert THRESHOLD <= len(stub.requests) <= ATTEMPTS * (THRESHOLD + 1 + int(spent))
    assert "keeps failing" in answers[-1].degradations[0].message
    stub.reset()
    wait_until(lambda: not recommend(max_results=1).degradations, what="retrieval used again")


def test_a_request_that_retrieval_finds_wrong_does_not_take_it_away_from_others(
    stub: StubRetrieval, recommend: Recommend, kinds_of: Callable[..., set[str]]
) -> None:
    stub.fail(grpc.StatusCode.INVALID_ARGUMENT)
    answers = [recommend(max_results=1) for _ in range(2 * THRESHOLD)]
    assert all(kinds_of(answer) == {"RETRIEVAL_UNAVAILABLE"} for answer in answers)
    assert len(stub.requests) == 2 * THRESHOLD


@pytest.mark.parametrize("how", ["refused", "another bundle answers"])
def test_a_bundle_that_both_do_not_have_is_declared(
    stub: StubRetrieval, recommend: Recommend, kinds_of: Callable[..., set[str]], bundle: Bundle, how: str
) -> None:
    if how == "refused":
        stub.fail(grpc.StatusCode.FAILED_PRECONDITION, "none of these is loaded")
    else:
        stub.answer_with(retrieval_pb2.RetrieveResponse(bundle_id="another", candidates={"rows": [1]}, regime=4))
    for _ in range(2 * THRESHOLD):  # a roll-out takes a while: retrieval must be asked all the time
        response = recommend()
        assert kinds_of(response) == {"BUNDLE_MISMATCH"}
        assert len(response.items) == 20
        assert response.bundle_id == bundle.id
    assert len(stub.requests) == 2 * THRESHOLD


MALFORMED: dict[str, dict[str, Any]] = {
    "a row outside": {"rows": [1, 300]},
    "a row twice": {"rows": [1, 2, 1]},
    "too few scores": {"rows": [1, 2], "scores": [1.0]},
    "a score that is no number": {"rows": [1, 2], "scores": [1.0, math.nan]},
    "an infinite score": {"rows": [1, 2], "scores": [1.0, math.inf]},
    "too many masks": {"rows": [1, 2], "source_masks": [1, 1, 1]},
    "too few ranks": {"rows": [1, 2], "source_columns": [{"source": "als", "ranks": [1]}]},
    "a source score that is no number": {"rows": [1], "source_columns": [{"source": "als", "scores": [math.nan]}]},
    "a nameless source": {"rows": [1], "source_columns": [{"ranks": [1]}]},
    "a source twice": {"rows": [1], "source_columns": [{"source": "als"}, {"source": "als"}]},
    "too many sources": {"rows": [1], "source_columns": [{"source": f"s{i}"} for i in range(33)]},
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_answer_is_declared_and_never_an_internal_error(
    stub: StubRetrieval, recommend: Recommend, kinds_of: Callable[..., set[str]], bundle: Bundle, what: str
) -> None:
    answer = retrieval_pb2.RetrieveResponse(candidates=MALFORMED[what], bundle_id=bundle.id, regime=4)
    answer.candidates.bundle_id = bundle.id
    stub.answer_with(answer)
    response = recommend()
    assert kinds_of(response) == {"RETRIEVAL_UNAVAILABLE"}
    assert "malformed" in response.degradations[0].message
    assert len(response.items) == 20


def test_the_stubs_own_malformed_answer_is_declared(
    stub: StubRetrieval, recommend: Recommend, kinds_of: Callable[..., set[str]]
) -> None:
    stub.malformed()
    assert kinds_of(recommend()) == {"RETRIEVAL_UNAVAILABLE"}


@pytest.mark.parametrize(
    ("fields", "n"),
    [
        ({"regime": 0}, 2),
        ({"regime": 99}, 2),
        ({"degradations": [{"kind": 99, "component": "new"}]}, 2),
        ({"empty_reason": "although it is not empty"}, 2),
        ({"candidates": {}}, 0),
        ({"candidates": {"item_ids": ["i001", "unheard of"]}}, 1),
        ({"candidates": {"rows": [3, 1], "source_columns": [{"source": "of tomorrow", "ranks": [1, 2]}]}}, 2),
    ],
)
def test_an_answer_of_another_version_is_put_up_with(
    stub: StubRetrieval, recommend: Recommend, bundle: Bundle, fields: dict[str, Any], n: int
) -> None:
    stub.answer_with(
        retrieval_pb2.RetrieveResponse(**({"candidates": {"rows": [1, 2]}, "bundle_id": bundle.id} | fields))
    )
    response = recommend()
    assert len(response.items) == n
    assert not response.degradations


def test_what_retrieval_left_out_is_passed_on(
    stub: StubRetrieval, recommend: Recommend, kinds_of: Callable[..., set[str]]
) -> None:
    late = degradation_pb2.Degradation(
        kind=degradation_pb2.DEGRADATION_KIND_SOURCE_LATE, component="als", message="no time left"
    )
    failed = degradation_pb2.Degradation(
        kind=degradation_pb2.DEGRADATION_KIND_SOURCE_FAILED, component="two_tower", message="see the log"
    )
    stub.degrade(late, failed)
    response = recommend()
    assert list(response.degradations) == [late, failed]


def test_why_retrieval_found_nothing_is_passed_on(stub: StubRetrieval, recommend: Recommend) -> None:
    stub.empty()
    response = recommend()
    assert not response.items
    assert response.empty_reason == "the test's script says so"
    assert not response.degradations


def test_a_retrieval_that_says_it_is_not_serving_is_not_called(
    stub: StubRetrieval,
    stub_server: tuple[StubRetrieval, RunningServer],
    recommend: Recommend,
    kinds_of: Callable[..., set[str]],
    wait_until: Callable[..., Any],
) -> None:
    stub_server[1].set_health(False)
    try:
        wait_until(lambda: kinds_of(recommend(max_results=1)) == {"RETRIEVAL_UNAVAILABLE"})
        heard = len(stub.requests)
        recommend(max_results=1)
        assert len(stub.requests) == heard
    finally:
        stub_server[1].set_health(True)


def test_a_callers_deadline_bounds_the_wait_for_retrieval(
    stub: StubRetrieval, ranking: Any, kinds_of: Callable[..., set[str]]
) -> None:
    stub.delay(HANGS_S)
    # Below the service's own timeout for retrieval: a share of what the caller has is used, the rest is for the answer.
    response = ranking.stub.Recommend(ranking_pb2.RecommendRequest(context={"placement": "plain"}), timeout=1.4)
    assert "RETRIEVAL_UNAVAILABLE" in kinds_of(response)
    assert len(response.items) == 20


def test_a_hung_retrieval_does_not_hold_up_many_callers(
    stub: StubRetrieval, ranking: Any, kinds_of: Callable[..., set[str]]
) -> None:
    stub.delay(HANGS_S)
    started = time.monotonic()
    calls = [ranking.stub.Recommend.future(ranking_pb2.RecommendRequest(), timeout=10) for _ in range(24)]
    assert all("RETRIEVAL_UNAVAILABLE" in kinds_of(call.result()) for call in calls)
    # Four threads wait for their timeouts until the breaker opens; 24 timeouts in a row would be longer.
    assert time.monotonic() - started < 24 * TIMEOUT_MS / 1000


def test_ranks_own_checks_still_hold_when_retrieval_is_gone(stub: StubRetrieval, ranking: Any) -> None:
    stub.fail(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(grpc.RpcError) as caught:
        ranking.stub.Recommend(ranking_pb2.RecommendRequest(filter={"exists": {"column": "colour"}}))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not stub.requests
