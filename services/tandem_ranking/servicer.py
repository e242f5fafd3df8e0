"""RankingService on the wire."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import grpc

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_core import observe
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.degradation import Degradation
from tandem_core.dummy import dummy_slate
from tandem_core.errors import FieldViolation, InvalidRequest, NotFound, TandemError
from tandem_core.experiments import Experiments
from tandem_core.explain import explain
from tandem_core.grpc_errors import to_call_error
from tandem_core.grpc_parse import LONGEST_ID, MOST_BATCHED
from tandem_core.grpc_parse_ranking import check_returned_attributes, parse_candidates, parse_rank, parse_recommend
from tandem_core.grpc_render import (
    check_size,
    degradations,
    experiment_assignments,
    ranked_items,
    score_parts,
    serving_state,
)
from tandem_core.grpc_retrieval_client import RetrievalClient
from tandem_core.interleaving import once, shown
from tandem_core.query import Query, decision_id_of
from tandem_core.ranking_pipeline import RankingPipeline, Retrieve, Slate
from tandem_core.serving_bundles import HoldsBundles
from tandem_core.stores.base import UserStore
from tandem_core.user_state import with_stored
from tandem_ranking.answering import Answering
from tandem_ranking.decision_notes import DecisionNotes, Made


class RankingServicer(ranking_pb2_grpc.RankingServiceServicer):
    """Answers from the bundles it is given; raises `tandem_core.errors`, which the interceptor translates."""

    def __init__(
        self,
        bundles: HoldsBundles[RankingPipeline],
        store: UserStore,
        retrieval: RetrievalClient,
        experiments: Experiments,
        decisions: DecisionNotes | None = None,
    ) -> None:
        self._bundles = bundles
        self._store = store
        self._retrieval = retrieval
        self._experiments = experiments
        self._decisions = decisions
        self._started_ms = time.time_ns() // 1_000_000

    def Recommend(
        self, request: ranking_pb2.RecommendRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.RecommendResponse:
        return self._recommend(request, Budget.of(context.time_remaining()))

    def BatchRecommend(
        self, request: ranking_pb2.BatchRecommendRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.BatchRecommendResponse:
        if not 0 < len(request.requests) <= MOST_BATCHED:
            raise InvalidRequest(
                FieldViolation("requests", f"has {len(request.requests)}, 1 to {MOST_BATCHED} are allowed")
            )
        budget = Budget.of(context.time_remaining())
        results = [self._result(each, budget) for each in request.requests]
        budget.check()  # too late for the batch is not a fault of its requests
        response = ranking_pb2.BatchRecommendResponse(results=results)
        check_size(response, len(results))
        return response

    def Rank(self, request: ranking_pb2.RankRequest, context: grpc.ServicerContext) -> ranking_pb2.RankResponse:
        with observe.stage("parse"):
            assigned = self._experiments.assign(parse_rank(request, _now_ms()))
        budget = Budget.of(context.time_remaining())
        wanted = request.candidates.bundle_id if request.candidates.rows else ""
        pipeline = self._bundles.held.choose([wanted] if wanted else ())
        check_returned_attributes(request.return_attributes, pipeline.bundle.catalog)
        candidates, unknown = parse_candidates(request.candidates, pipeline.bundle.catalog)
        query = assigned.query
        missing: Sequence[Degradation] = ()
        if request.validate_only:
            pipeline.check(query)
            slate = dummy_slate(pipeline.bundle, query, candidates)
        else:
            query, missing = with_stored(query, self._store)
            slate = shown(query, assigned.teams, lambda each: pipeline.rank(each, candidates, budget))
            observe.shown(slate.bundle_id, slate.items.rows)
        return ranking_pb2.RankResponse(
            items=ranked_items(slate, pipeline.bundle.catalog, request.return_attributes),
            bundle_id=slate.bundle_id,
            decision_id=decision_id_of(query.request_id),
            request_id=query.request_id,
            degradations=degradations([*missing, *slate.degradations]),
            unknown_item_ids=unknown,
            experiments=experiment_assignments(query),
            empty_reason=slate.empty_reason,
        )

    def ExplainItem(
        self, request: ranking_pb2.ExplainItemRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.ExplainItemResponse:
        if not 0 < len(request.item_id) <= LONGEST_ID:
            raise InvalidRequest(FieldViolation("item_id", f"is required, at most {LONGEST_ID} characters"))
        budget = Budget.of(context.time_remaining())
        query = self._experiments.assign(parse_recommend(request.request, _now_ms())).query
        held = self._bundles.held
        current = held.choose()
        query, _ = with_stored(query, self._store)
        answering = Answering(self._bundles, held)
        retrieve = self._way_to_retrieval(request.request, answering)
        retrieved = current.candidates(query, budget, retrieve)
        pipeline = answering.pipeline(retrieved.bundle_id)
        catalog = pipeline.bundle.catalog
        if (row := catalog.row_of.get(request.item_id)) is None:
            if catalog.find([request.item_id])[0] >= 0:  # kept for the histories that it is in
                return ranking_pb2.ExplainItemResponse(lost_at="deleted", bundle_id=pipeline.bundle.id)
            raise NotFound(f"no item {request.item_id!r} in the catalogue of bundle {pipeline.bundle.id}")
        slate = pipeline.arrange(query, retrieved, budget, trace=True)
        found = explain(pipeline, query, retrieved, slate, row, retrieve)
        return ranking_pb2.ExplainItemResponse(
            position=found.position,
            lost_at=found.lost_at,
            parts=score_parts(found.parts),
            bundle_id=found.bundle_id,
        )

    def GetServingState(
        self, request: ranking_pb2.GetServingStateRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.GetServingStateResponse:
        held = self._bundles.held
        bundle = held.loaded[0][1].bundle if held.loaded else None
        return ranking_pb2.GetServingStateResponse(
            state=serving_state(held, bundle, self._started_ms),
            placements=self._experiments.placements,
            retrieval_connection=self._retrieval.state,
        )

    def _recommend(self, request: ranking_pb2.RecommendRequest, budget: Budget) -> ranking_pb2.RecommendResponse:
        with observe.stage("parse"):
            assigned = self._experiments.assign(parse_recommend(request, _now_ms()))
        budget.check()
        held = self._bundles.held  # one look for the whole request: versions never mix
        current = held.choose()
        check_returned_attributes(request.return_attributes, current.bundle.catalog)
        if request.validate_only:
            current.check(assigned.query)
            return _response(request, assigned.query, current.bundle, dummy_slate(current.bundle, assigned.query))
        query, missing = with_stored(assigned.query, self._store)
        answering = Answering(self._bundles, held)
        way = self._way_to_retrieval(request, answering)
        retrieve = once(way) if assigned.teams else way

        teams = iter(assigned.teams or ("",))  # lists are made in the order of teams
        made: dict[str, Made] = {}

        def recommend(query: Query) -> Slate:
            retrieved = current.candidates(query, budget, retrieve)
            pipeline = answering.pipeline(retrieved.bundle_id)
            slate = pipeline.arrange(query, retrieved, budget, trace=request.explain)
            made[next(teams)] = Made(query, retrieved, slate)
            return slate

        slate = shown(query, assigned.teams, recommend)
        observe.shown(slate.bundle_id, slate.items.rows)
        bundle = answering.pipeline(slate.bundle_id).bundle
        with observe.stage("render"):
            response = _response(request, query, bundle, slate, missing)
        if self._decisions is not None:
            declared = replace(slate, degradations=(*missing, *slate.degradations))
            with observe.stage("decisions"):
                self._decisions.note(request, query, made, declared, bundle)
        return response

    def _way_to_retrieval(self, request: ranking_pb2.RecommendRequest, bundles: Mapping[str, Bundle]) -> Retrieve:
        """Return the pipeline's way to candidates: the caller's context goes on to retrieval as it came."""
        return lambda query, budget: self._retrieval.retrieve(request.context, query, budget, bundles)

    def _result(self, request: ranking_pb2.RecommendRequest, budget: Budget) -> ranking_pb2.BatchRecommendResult:
        """Return one answer of a batch: what is wrong with one request is no error of the others."""
        try:
            return ranking_pb2.BatchRecommendResult(response=self._recommend(request, budget))
        except TandemError as error:
            return ranking_pb2.BatchRecommendResult(error=to_call_error(error))


def _response(
    request: ranking_pb2.RecommendRequest,
    query: Query,
    bundle: Bundle,
    slate: Slate,
    missing: Sequence[Degradation] = (),
) -> ranking_pb2.RecommendResponse:
    """Return the answer of Recommend. missing: degradations from before the pipeline."""
    return ranking_pb2.RecommendResponse(
        items=ranked_items(slate, bundle.catalog, request.return_attributes),
        bundle_id=slate.bundle_id,
        decision_id=decision_id_of(query.request_id),
        request_id=query.request_id,
        regime=slate.regime.value,  # type: ignore[arg-type]  # the numbers are the contract's
        degradations=degradations([*missing, *slate.degradations]),
        experiments=experiment_assignments(query),
        empty_reason=slate.empty_reason,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
