"""One contract, two ways to an answer: the pipelines in this process, and the services over real sockets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.grpc_parse import parse_retrieve
from tandem_core.grpc_parse_ranking import parse_recommend
from tandem_core.policy import PlacementPolicy
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.stores.sqlite import SqliteStore
from tandem_core.user_state import with_stored

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Answer:
    """What both ways give: items, best first, with scores; what each source ranked them; what was missing."""

    item_ids: list[str]
    scores: list[float]
    ranks: list[dict[str, int]]
    regime: int
    degradations: list[int]
    empty: bool


Recommend = Callable[[ranking_pb2.RecommendRequest], Answer]
Retrieve = Callable[[retrieval_pb2.RetrieveRequest], Answer]

CONTEXTS: dict[str, dict[str, Any]] = {
    "warm": {"user_id": "warm"},
    "few": {"user_id": "few", "recent_events": [{"item_id": "i011"}]},
    "profile": {"user_id": "profile"},
    "unknown": {"user_id": "nobody"},
    "onboarding": {"seed_item_ids": ["i001", "i002", "i003", "i004", "i005"]},
    "anonymous": {"user_id": "warm", "anonymous": True},
}
FIELDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "filtered": {"filter": {"in_range": {"column": "price", "max": 12}}, "exclude_item_ids": ["i020"]},
    "nothing left": {"filter": {"in_range": {"column": "price", "max": -1}}},
    "seen allowed": {"seen_policy": {"interacted": 3}},
    "strict": {"fill_policy": 1, "filter": {"in_set": {"column": "categories", "values": {"values": ["music"]}}}},
}


def context(now_s: int, who: str, placement: str = "default") -> dict[str, Any]:
    return {"request_id": who, "event_time": {"seconds": now_s}, "placement": placement} | CONTEXTS[who]


@pytest.fixture(scope="module")
def grpc_servicer(retrieval_servicer: Any, ranking_servicer: Any) -> tuple[Any, Any]:
    return retrieval_servicer, ranking_servicer


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Callable[..., None]:
    def add(servicers: tuple[Any, Any], server: grpc.Server) -> None:
        retrieval_pb2_grpc.add_RetrievalServiceServicer_to_server(servicers[0], server)
        ranking_pb2_grpc.add_RankingServiceServicer_to_server(servicers[1], server)

    return add


@pytest.fixture(scope="module")
def retrieve_here(bundle: Bundle, store: SqliteStore) -> Retrieve:
    pipeline = RetrievalPipeline(bundle)

    def retrieve(request: retrieval_pb2.RetrieveRequest) -> Answer:
        query, _ = with_stored(parse_retrieve(request, 0), store)
        found = pipeline.retrieve(query, Budget())
        return answer_of(found.candidates, bundle, found.regime, found.degradations)

    return retrieve


@pytest.fixture(scope="module")
def retrieve_over_grpc(grpc_channel: grpc.Channel) -> Retrieve:
    stub = retrieval_pb2_grpc.RetrievalServiceStub(grpc_channel)

    def retrieve(request: retrieval_pb2.RetrieveRequest) -> Answer:
        response = stub.Retrieve(request)
        found = response.candidates
        ranks = [
            {column.source: column.ranks[i] for column in found.source_columns if column.ranks[i]}
            for i in range(len(found.item_ids))
        ]
        kinds = [d.kind for d in response.degradations]
        return Answer(list(found.item_ids), list(found.scores), ranks, response.regime, kinds, not found.item_ids)

    return retrieve


@pytest.fixture(scope="module")
def recommend_here(bundle: Bundle, store: SqliteStore, policies: dict[str, PlacementPolicy]) -> Recommend:
    pipeline, retrieval = RankingPipeline(bundle, policies), RetrievalPipeline(bundle)

    def recommend(request: ranking_pb2.RecommendRequest) -> Answer:
        query, _ = with_stored(parse_recommend(request, 0), store)
        slate = pipeline.recommend(query, Budget(), retrieval.retrieve)
        return answer_of(slate.items, bundle, slate.regime, slate.degradations)

    return recommend


@pytest.fixture(scope="module")
def recommend_over_grpc(grpc_channel: grpc.Channel) -> Recommend:
    stub = ranking_pb2_grpc.RankingServiceStub(grpc_channel)

    def recommend(request: ranking_pb2.RecommendRequest) -> Answer:
        response = stub.Recommend(request)
        items = response.items
        return Answer(
            [item.item_id for item in items],
            [item.score for item in items],
            [{source.source: source.rank for source in item.sources} for item in items],
            response.regime,
            [d.kind for d in response.degradations],
            not items,
        )

    return recommend


def answer_of(batch: Any, bundle: Bundle, regime: Any, degradations: Any) -> Answer:
    ranks = [
        {source: int(rank) for source in batch.sources if (rank := batch.columns[f"rank:{source}"][i])}
        for i in range(len(batch))
    ]
    item_ids = [bundle.catalog.item_ids[row] for row in batch.rows]
    scores = [float(score) for score in batch.scores]
    return Answer(item_ids, scores, ranks, int(regime), [int(d.kind) for d in degradations], not item_ids)


class RecommendContract:
    """What every way to a recommendation must keep; a subclass gives `recommend`."""

    @pytest.fixture
    def recommend(self) -> Iterator[Recommend]:
        raise NotImplementedError

    @pytest.mark.parametrize("who", CONTEXTS)
    def test_a_list_is_full_ordered_and_without_doubles(self, recommend: Recommend, now_s: int, who: str) -> None:
        answer = recommend(ranking_pb2.RecommendRequest(context=context(now_s, who), max_results=30))
        assert len(answer.item_ids) == len(set(answer.item_ids)) == 30
        assert answer.scores == sorted(answer.scores, reverse=True)
        assert all(math.isfinite(score) for score in answer.scores)
        assert not answer.empty

    def test_excluded_items_are_absent(self, recommend: Recommend, now_s: int) -> None:
        first = recommend(ranking_pb2.RecommendRequest(context=context(now_s, "warm")))
        request = ranking_pb2.RecommendRequest(context=context(now_s, "warm"), exclude_item_ids=first.item_ids[:5])
        assert not set(recommend(request).item_ids) & set(first.item_ids[:5])

    def test_asking_twice_changes_nothing(self, recommend: Recommend, now_s: int) -> None:
        request = ranking_pb2.RecommendRequest(context=context(now_s, "few"))
        assert recommend(request) == recommend(request)

    def test_a_shorter_list_is_the_head_of_a_longer_one(self, recommend: Recommend, now_s: int) -> None:
        plain = context(now_s, "warm", "plain")
        short, long = (
            recommend(ranking_pb2.RecommendRequest(context=plain, max_results=n)).item_ids for n in (10, 100)
        )
        assert short == long[:10]


class TestRecommendInProcess(RecommendContract):
    @pytest.fixture
    def recommend(self, recommend_here: Recommend) -> Recommend:
        return recommend_here


class TestRecommendOverGrpc(RecommendContract):
    @pytest.fixture
    def recommend(self, recommend_over_grpc: Recommend) -> Recommend:
        return recommend_over_grpc


def assert_congruent(here: Answer, there: Answer) -> None:
    assert here.item_ids == there.item_ids
    assert here.scores == pytest.approx(there.scores, abs=TOLERANCE, rel=TOLERANCE)
    assert (here.ranks, here.regime, here.degradations) == (there.ranks, there.regime, there.degradations)


@pytest.mark.parametrize("placement", ["default", "plain", "capped", "seen_too"])
@pytest.mark.parametrize("who", CONTEXTS)
@pytest.mark.parametrize("fields", FIELDS)
def test_recommend_is_the_same_in_process_and_over_grpc(
    recommend_here: Recommend, recommend_over_grpc: Recommend, now_s: int, placement: str, who: str, fields: str
) -> None:
    request = ranking_pb2.RecommendRequest(context=context(now_s, who, placement), max_results=50, **FIELDS[fields])
    assert_congruent(recommend_here(request), recommend_over_grpc(request))


@pytest.mark.parametrize("who", CONTEXTS)
@pytest.mark.parametrize("fields", FIELDS)
def test_retrieve_is_the_same_in_process_and_over_grpc(
    retrieve_here: Retrieve, retrieve_over_grpc: Retrieve, now_s: int, who: str, fields: str
) -> None:
    request = retrieval_pb2.RetrieveRequest(context=context(now_s, who), **FIELDS[fields])
    assert_congruent(retrieve_here(request), retrieve_over_grpc(request))
