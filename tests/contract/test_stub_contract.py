"""The stub's answers obey the contract: the pattern for contract tests with pytest-grpc, sync, on its real server.

pytest-grpc's own fixtures start the server (`grpc_server`) and connect (`grpc_channel`, `grpc_stub`); a module gives
them the servicer, its registering function and the client class. Its --grpc-fake-server does not work with grpcio 1.85.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest

from tandem.common.v1 import context_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_testing import StubRanking, StubRetrieval, assert_valid_candidates, assert_valid_slate

CONTEXTS = [
    context_pb2.RequestContext(),
    context_pb2.RequestContext(request_id="r-1", user_id="ann"),
    context_pb2.RequestContext(anonymous=True, seed_item_ids=["quiet-river", "not-in-the-catalogue"]),
    context_pb2.RequestContext(user_id="bob", experiments=[{"experiment": "e", "variant": "v"}]),  # type: ignore[list-item]
]


@pytest.fixture(scope="module")
def grpc_servicer() -> tuple[StubRetrieval, StubRanking]:
    return StubRetrieval(), StubRanking()


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[[tuple[StubRetrieval, StubRanking], grpc.Server], None]:
    def add(servicers: tuple[StubRetrieval, StubRanking], server: grpc.Server) -> None:
        retrieval, ranking = servicers
        retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(retrieval, server)
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(ranking, server)

    return add


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type[retrieval_pb2_grpc.RetrievalServiceStub]:
    return retrieval_pb2_grpc.RetrievalServiceStub


@pytest.fixture(scope="module")
def ranking(grpc_channel: grpc.Channel) -> ranking_pb2_grpc.RankingServiceStub:
    """The second service on the same channel: pytest-grpc knows one client class per module."""
    return ranking_pb2_grpc.RankingServiceStub(grpc_channel)


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("item_form", [retrieval_pb2.ITEM_FORM_IDS, retrieval_pb2.ITEM_FORM_ROWS])
@pytest.mark.parametrize("max_candidates", [0, 1, 2000])
def test_retrieve_keeps_every_promise(
    grpc_stub: retrieval_pb2_grpc.RetrievalServiceStub,
    context: context_pb2.RequestContext,
    item_form: retrieval_pb2.ItemForm.ValueType,
    max_candidates: int,
) -> None:
    request = retrieval_pb2.RetrieveRequest(context=context, item_form=item_form, max_candidates=max_candidates)
    request.exclude_item_ids.append("silver-otter")
    assert_valid_candidates(grpc_stub.Retrieve(request), request)


@pytest.mark.parametrize("fill", [filter_pb2.FILL_POLICY_STRICT, filter_pb2.FILL_POLICY_BACKFILL])
def test_retrieve_keeps_every_promise_with_sources_named(
    grpc_stub: retrieval_pb2_grpc.RetrievalServiceStub, fill: filter_pb2.FillPolicy.ValueType
) -> None:
    request = retrieval_pb2.RetrieveRequest(fill_policy=fill, acceptable_bundle_ids=["other", "stub-bundle"])
    request.sources.add(source="popularity", limit=30, weight=0.5)
    request.sources.add(source="two_tower", limit=60)
    assert_valid_candidates(grpc_stub.Retrieve(request), request)


def test_batch_retrieve_equals_single_calls(grpc_stub: retrieval_pb2_grpc.RetrievalServiceStub) -> None:
    requests = [retrieval_pb2.RetrieveRequest(context=context) for context in CONTEXTS]
    batch = grpc_stub.BatchRetrieve(retrieval_pb2.BatchRetrieveRequest(requests=requests))
    assert [result.response for result in batch.results] == [grpc_stub.Retrieve(request) for request in requests]


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("max_results", [0, 1, 500])
def test_recommend_keeps_every_promise(
    ranking: ranking_pb2_grpc.RankingServiceStub, context: context_pb2.RequestContext, max_results: int
) -> None:
    request = ranking_pb2.RecommendRequest(context=context, max_results=max_results, return_attributes=["title"])
    request.exclude_item_ids.append("silver-otter")
    assert_valid_slate(ranking.Recommend(request), request)


def test_batch_recommend_equals_single_calls(ranking: ranking_pb2_grpc.RankingServiceStub) -> None:
    requests = [ranking_pb2.RecommendRequest(context=context) for context in CONTEXTS]
    batch = ranking.BatchRecommend(ranking_pb2.BatchRecommendRequest(requests=requests))
    assert [result.response for result in batch.results] == [ranking.Recommend(request) for request in requests]
