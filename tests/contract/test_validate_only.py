"""validate_only: a request is checked as any other and answered with a declared dummy, by services and stubs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from tandem.common.v1 import degradation_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.bundle import Bundle
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_testing import StubRanking, StubRetrieval, assert_valid_candidates, assert_valid_slate, serve

DUMMY = [degradation_pb2.DEGRADATION_KIND_VALIDATE_ONLY]


@pytest.fixture(scope="module", params=["service", "stub"])
def channel(
    request: pytest.FixtureRequest, bundle: Bundle, retrieval_servicer: Any, ranking_servicer: Any
) -> Iterator[grpc.Channel]:
    item_ids = bundle.catalog.item_ids
    stubs = (StubRetrieval(item_ids, "newer"), StubRanking(item_ids, "newer"))
    servicers = stubs if request.param == "stub" else (retrieval_servicer, ranking_servicer)
    interceptors = () if request.param == "stub" else (ErrorInterceptor(),)
    with serve(*servicers, interceptors=interceptors) as running:
        yield running.channel


def test_recommend_answers_with_a_declared_dummy_that_keeps_the_contract(channel: grpc.Channel) -> None:
    stub = ranking_pb2_grpc.RankingServiceStub(channel)
    request = ranking_pb2.RecommendRequest(
        validate_only=True, max_results=7, return_attributes=["title"], exclude_item_ids=["i001"]
    )
    request.context.user_id = "warm"
    response = stub.Recommend(request)
    assert_valid_slate(response, request)
    assert len(response.items) == 7
    assert [d.kind for d in response.degradations] == DUMMY
    request.validate_only = False
    assert DUMMY[0] not in [d.kind for d in stub.Recommend(request).degradations]


@pytest.mark.parametrize("form", [retrieval_pb2.ITEM_FORM_IDS, retrieval_pb2.ITEM_FORM_ROWS])
def test_retrieve_answers_with_a_declared_dummy_that_keeps_the_contract(channel: grpc.Channel, form: Any) -> None:
    request = retrieval_pb2.RetrieveRequest(validate_only=True, max_candidates=30, item_form=form)
    response = retrieval_pb2_grpc.RetrievalServiceStub(channel).Retrieve(request)
    assert_valid_candidates(response, request)
    assert len(response.candidates.scores) == 30
    assert [d.kind for d in response.degradations] == DUMMY


def test_rank_answers_with_the_candidates_and_names_unknown_ones(channel: grpc.Channel) -> None:
    request = ranking_pb2.RankRequest(validate_only=True)
    request.candidates.item_ids.extend(["i005", "not there", "i002"])
    response = ranking_pb2_grpc.RankingServiceStub(channel).Rank(request)
    assert {item.item_id for item in response.items} == {"i005", "i002"}
    assert list(response.unknown_item_ids) == ["not there"]
    assert [d.kind for d in response.degradations] == DUMMY


def test_what_is_wrong_is_refused_all_the_same(channel: grpc.Channel, refused: Callable[..., Any]) -> None:
    ranking = ranking_pb2_grpc.RankingServiceStub(channel)
    got = refused(ranking.Recommend, ranking_pb2.RecommendRequest(validate_only=True, max_results=501))
    assert got.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "max_results" in got.violations


def test_the_service_checks_placement_and_columns_too(
    ranking_servicer: Any, retrieval_servicer: Any, refused: Callable[..., Any]
) -> None:
    with serve(ranking_servicer, retrieval_servicer, interceptors=[ErrorInterceptor()]) as running:
        recommend = ranking_pb2_grpc.RankingServiceStub(running.channel).Recommend
        elsewhere = ranking_pb2.RecommendRequest(validate_only=True, context={"placement": "nowhere"})  # type: ignore[arg-type]
        assert "context.placement" in refused(recommend, elsewhere).violations
        unknown = {"exists": {"column": "colour"}}
        wrong = ranking_pb2.RecommendRequest(validate_only=True, filter=unknown)  # type: ignore[arg-type]
        assert "filter.exists.column" in refused(recommend, wrong).violations
        retrieve = retrieval_pb2_grpc.RetrievalServiceStub(running.channel).Retrieve
        oracle = retrieval_pb2.RetrieveRequest(validate_only=True, sources=[{"source": "oracle"}])  # type: ignore[list-item]
        assert "sources[0].source" in refused(retrieve, oracle).violations
