"""Answers of stub and service obey the contract: the pattern for tests with pytest-grpc, sync, on its real server.

pytest-grpc's own fixtures start the server (`grpc_server`) and connect (`grpc_channel`); a module gives them the
servicer and its registering function. Its --grpc-fake-server does not work with grpcio 1.85.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from tandem.common.v1 import context_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.bundle import Bundle
from tandem_testing import StubRanking, StubRetrieval, assert_valid_candidates, assert_valid_slate, serve

CONTEXTS = [
    context_pb2.RequestContext(),
    context_pb2.RequestContext(request_id="r-1", user_id="warm"),
    context_pb2.RequestContext(request_id="r-2", anonymous=True, seed_item_ids=["i007", "not-in-the-catalogue"]),
    context_pb2.RequestContext(request_id="r-3", user_id="bob", experiments=[{"experiment": "e", "variant": "v"}]),  # type: ignore[list-item]
]


REPEATABLE = CONTEXTS[1:]  # without a request_id the service makes one, and each answer is for another request
for _context in REPEATABLE:
    _context.event_time.FromSeconds(1_752_000_000)


@pytest.fixture(scope="module")
def grpc_servicer(retrieval_servicer: Any, ranking_servicer: Any) -> tuple[Any, Any]:
    return retrieval_servicer, ranking_servicer


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[[tuple[Any, Any], grpc.Server], None]:
    def add(servicers: tuple[Any, Any], server: grpc.Server) -> None:
        retrieval, ranking = servicers
        retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(retrieval, server)
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(ranking, server)

    return add


@pytest.fixture(scope="module", params=["service", "stub"])
def channel(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[grpc.Channel]:
    """The services by pytest-grpc, and the stubs with the same catalogue as a caller starts them without it.

    Its own server is made once per module, so that its fixtures cannot have parameters.
    """
    if request.param == "service":
        yield request.getfixturevalue("grpc_channel")
        return
    item_ids = bundle.catalog.item_ids
    with serve(StubRetrieval(item_ids, "newer"), StubRanking(item_ids, "newer")) as running:
        yield running.channel


@pytest.fixture(scope="module")
def retrieval(channel: grpc.Channel) -> retrieval_pb2_grpc.RetrievalServiceStub:
    return retrieval_pb2_grpc.RetrievalServiceStub(channel)


@pytest.fixture(scope="module")
def ranking(channel: grpc.Channel) -> ranking_pb2_grpc.RankingServiceStub:
    return ranking_pb2_grpc.RankingServiceStub(channel)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("item_form", [retrieval_pb2.ITEM_FORM_IDS, retrieval_pb2.ITEM_FORM_ROWS])
@pytest.mark.parametrize("max_candidates", [0, 1, 2000])
def test_retrieve_keeps_every_promise(
    retrieval: retrieval_pb2_grpc.RetrievalServiceStub,
    context: context_pb2.RequestContext,
    item_form: retrieval_pb2.ItemForm.ValueType,
    max_candidates: int,
) -> None:
    request = retrieval_pb2.RetrieveRequest(context=context, item_form=item_form, max_candidates=max_candidates)
    request.exclude_item_ids.append("i001")
    assert_valid_candidates(retrieval.Retrieve(request), request)


@pytest.mark.parametrize("fill", [filter_pb2.FILL_POLICY_STRICT, filter_pb2.FILL_POLICY_BACKFILL])
def test_retrieve_keeps_every_promise_with_sources_named(
    retrieval: retrieval_pb2_grpc.RetrievalServiceStub, fill: filter_pb2.FillPolicy.ValueType
) -> None:
    request = retrieval_pb2.RetrieveRequest(fill_policy=fill, acceptable_bundle_ids=["other", "newer"])
    request.sources.add(source="popularity", limit=30, weight=0.5)
    request.sources.add(source="two_tower", limit=60)
    assert_valid_candidates(retrieval.Retrieve(request), request)


def test_batch_retrieve_equals_single_calls(retrieval: retrieval_pb2_grpc.RetrievalServiceStub) -> None:
    requests = [retrieval_pb2.RetrieveRequest(context=context) for context in REPEATABLE]
    batch = retrieval.BatchRetrieve(retrieval_pb2.BatchRetrieveRequest(requests=requests))
    assert [result.response for result in batch.results] == [retrieval.Retrieve(request) for request in requests]


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("max_results", [0, 1, 500])
def test_recommend_keeps_every_promise(
    ranking: ranking_pb2_grpc.RankingServiceStub, context: context_pb2.RequestContext, max_results: int
) -> None:
    request = ranking_pb2.RecommendRequest(context=context, max_results=max_results, return_attributes=["title"])
    request.exclude_item_ids.append("i001")
    assert_valid_slate(ranking.Recommend(request), request)


def test_batch_recommend_equals_single_calls(ranking: ranking_pb2_grpc.RankingServiceStub) -> None:
    requests = [ranking_pb2.RecommendRequest(context=context) for context in REPEATABLE]
    batch = ranking.BatchRecommend(ranking_pb2.BatchRecommendRequest(requests=requests))
    assert [result.response for result in batch.results] == [ranking.Recommend(request) for request in requests]
