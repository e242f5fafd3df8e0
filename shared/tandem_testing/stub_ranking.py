"""A RankingService without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc

from tandem.common.v1 import attribute_pb2, candidates_pb2, context_pb2, degradation_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_testing import limits
from tandem_testing.refusal import Refusal, Violation, bundle_mismatch
from tandem_testing.script import SCRIPTED_EMPTY, Script, ScriptedStub
from tandem_testing.seeded import (
    BACKFILL,
    BUNDLE_ID,
    SOURCES,
    Candidate,
    Plan,
    SeededCatalogue,
    interacted_ids,
    readable_ids,
    regime_of,
    request_id_of,
    seed_of,
    taste_of,
    title_of,
)
from tandem_testing.stub_retrieval import serving_state

_KIND_OF_SOURCE = {
    "two_tower": ranking_pb2.REASON_KIND_MATCHES_TASTE,
    "als": ranking_pb2.REASON_KIND_SIMILAR_USERS,
    "popularity": ranking_pb2.REASON_KIND_POPULAR,
    BACKFILL: ranking_pb2.REASON_KIND_BACKFILL,
}
_BECAUSE_OF_SHARE = 0.3  # of the items are explained by one of the user's own, where there is any


class StubRanking(
    ScriptedStub[
        ranking_pb2.RecommendRequest | ranking_pb2.RankRequest | ranking_pb2.ExplainItemRequest,
        ranking_pb2.RecommendResponse | ranking_pb2.RankResponse | ranking_pb2.ExplainItemResponse,
    ],
    ranking_pb2_grpc.RankingServiceServicer,
):
    """Plays every call of RankingService.

    Answers obey the contract and repeat: a user gets the same list at the same placement each time, whatever the
    request_id. Requests beyond the contract's limits are refused as by the real service. A stub has no item columns:
    filters are not applied, and of return_attributes only item_id and title have values. Every placement is known.
    """

    def __init__(self, catalogue: Sequence[str] | None = None, bundle_id: str = BUNDLE_ID) -> None:
        """catalogue: item ids, row by row; None means 1000 readable ones. Raises ValueError for doubled ids."""
        super().__init__()
        self._catalogue = SeededCatalogue(readable_ids() if catalogue is None else catalogue, bundle_id)

    @property
    def catalogue(self) -> Sequence[str]:
        """Item ids, row by row."""
        return self._catalogue.item_ids

    @property
    def bundle_id(self) -> str:
        """The bundle that answers."""
        return self._catalogue.bundle_id

    def Recommend(
        self, request: ranking_pb2.RecommendRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.RecommendResponse:
        return self._reply(context, [request], lambda: self._recommend(request))

    def BatchRecommend(
        self, request: ranking_pb2.BatchRecommendRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.BatchRecommendResponse:
        return self._reply(context, request.requests, lambda: self._batch(request))

    def Rank(self, request: ranking_pb2.RankRequest, context: grpc.ServicerContext) -> ranking_pb2.RankResponse:
        return self._reply(
            context, [request], lambda: self._follow(request, ranking_pb2.RankResponse, self._seeded_ranking)
        )

    def ExplainItem(
        self, request: ranking_pb2.ExplainItemRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.ExplainItemResponse:
        return self._reply(
            context, [request], lambda: self._follow(request, ranking_pb2.ExplainItemResponse, self._explain)
        )

    def GetServingState(
        self, request: ranking_pb2.GetServingStateRequest, context: grpc.ServicerContext
    ) -> ranking_pb2.GetServingStateResponse:
        return ranking_pb2.GetServingStateResponse(
            state=serving_state(self._catalogue), placements=["default"], retrieval_connection="ready"
        )

    def _batch(self, request: ranking_pb2.BatchRecommendRequest) -> ranking_pb2.BatchRecommendResponse:
        limits.refuse_if(limits.length("requests", request.requests, limits.MOST_BATCHED, least=1))
        return ranking_pb2.BatchRecommendResponse(results=[self._result(each) for each in request.requests])

    def _result(self, request: ranking_pb2.RecommendRequest) -> ranking_pb2.BatchRecommendResult:
        try:
            return ranking_pb2.BatchRecommendResult(response=self._recommend(request))
        except Refusal as refusal:
            return ranking_pb2.BatchRecommendResult(error=refusal.call_error())

    def _recommend(self, request: ranking_pb2.RecommendRequest) -> ranking_pb2.RecommendResponse:
        return self._follow(request, ranking_pb2.RecommendResponse, self._seeded_slate)

    def _seeded_slate(self, request: ranking_pb2.RecommendRequest, script: Script) -> ranking_pb2.RecommendResponse:
        limits.refuse_if(_wrong_recommend(request))
        found = [] if script.empty else self._find(request)
        reason = SCRIPTED_EMPTY if script.empty else "the user has seen every item, or the request excludes it"
        request_id = request_id_of(request, request.context.request_id)
        return ranking_pb2.RecommendResponse(
            items=self._items(found, request.context, request.return_attributes),
            bundle_id=self.bundle_id,
            decision_id=self._decision_id(request_id),
            request_id=request_id,
            regime=regime_of(request.context),
            degradations=_declared(script, request.validate_only),
            experiments=request.context.experiments,
            empty_reason="" if found else reason,
        )

    def _explain(self, request: ranking_pb2.ExplainItemRequest, script: Script) -> ranking_pb2.ExplainItemResponse:
        """Tell where an item stands in the list that Recommend gives, or which part of the request took it out."""
        limits.refuse_if(limits.text("item_id", request.item_id, 256, least=1))
        slate = self._seeded_slate(request.request, script)
        if request.item_id not in self._catalogue.row_of:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"no item {request.item_id!r} in the catalogue")
        position = next((item.position for item in slate.items if item.item_id == request.item_id), 0)
        response = ranking_pb2.ExplainItemResponse(position=position, bundle_id=self.bundle_id)
        if position:
            item = slate.items[position - 1]
            response.parts.add(stage="ranker", after=item.score, position_after=position)
        elif request.item_id in request.request.exclude_item_ids:
            response.lost_at = "filter:exclude_item_ids"
        elif request.item_id in _seen(request.request):
            response.lost_at = "filter:seen"
        else:
            response.lost_at = "score"
        return response

    def _seeded_ranking(self, request: ranking_pb2.RankRequest, script: Script) -> ranking_pb2.RankResponse:
        limits.refuse_if(_wrong_rank(request))
        given = request.candidates
        if given.rows and given.bundle_id not in ("", self.bundle_id):
            raise bundle_mismatch(f"the candidates are rows of {given.bundle_id!r}; {self.bundle_id!r} is loaded")
        limits.refuse_if(limits.candidates(given, len(self.catalogue)))
        found = [] if script.empty else self._rank(request)
        reason = SCRIPTED_EMPTY if script.empty else "no candidate is in the catalogue and passes the seen policy"
        request_id = request_id_of(request, request.context.request_id)
        return ranking_pb2.RankResponse(
            items=self._items(found, request.context, request.return_attributes),
            bundle_id=self.bundle_id,
            decision_id=self._decision_id(request_id),
            request_id=request_id,
            degradations=_declared(script, request.validate_only),
            unknown_item_ids=[item_id for item_id in given.item_ids if item_id not in self._catalogue.row_of],
            experiments=request.context.experiments,
            empty_reason="" if found else reason,
        )

    def _find(self, request: ranking_pb2.RecommendRequest) -> list[Candidate]:
        wanted = request.max_results or limits.DEFAULT_RESULTS
        excluded = [*request.exclude_item_ids, *_seen(request)]
        taste = taste_of(request.context) + (request.context.placement or "default")
        plans = [Plan(source, limits.DEFAULT_CANDIDATES) for source in SOURCES]
        return self._catalogue.candidates(
            taste, self._catalogue.eligible(excluded), plans, wanted, filter_pb2.FILL_POLICY_BACKFILL
        )

    def _rank(self, request: ranking_pb2.RankRequest) -> list[Candidate]:
        """Order the caller's candidates by a seeded opinion on each: their own order does not matter."""
        given, row_of = request.candidates, self._catalogue.row_of
        # Negative rows are live items, which a stub has none of.
        rows = [max(row, -1) for row in given.rows] or [row_of.get(item_id, -1) for item_id in given.item_ids]
        gone = {-1}
        if request.seen_policy.interacted == filter_pb2.SEEN_MODE_EXCLUDE:
            gone |= {row_of[item_id] for item_id in interacted_ids(request.context) if item_id in row_of}
        opinion = self._catalogue.affinities("rank", taste_of(request.context))
        places = [place for place, row in enumerate(rows) if row not in gone]
        best = sorted(places, key=lambda place: (-opinion[rows[place]], rows[place]))
        return [
            Candidate(rows[place], opinion[rows[place]], _said(given, place))
            for place in best[: request.max_results or None]
        ]

    def _items(
        self, found: Sequence[Candidate], context: context_pb2.RequestContext, attributes: Sequence[str]
    ) -> list[ranking_pb2.RankedItem]:
        own = [item_id for item_id in interacted_ids(context) if item_id in self._catalogue.row_of]
        return [
            ranking_pb2.RankedItem(
                item_id=self.catalogue[candidate.row],
                position=position,
                score=candidate.score,
                reasons=_reasons(candidate, own),
                sources=[
                    ranking_pb2.SourceContribution(source=name, rank=rank, score=score)
                    for name, (rank, score) in candidate.said.items()
                ],
                attributes=_attributes(self.catalogue[candidate.row], attributes),
            )
            for position, candidate in enumerate(found, start=1)
        ]

    def _decision_id(self, request_id: str) -> str:
        return f"{seed_of(request_id, self.bundle_id):016x}"


def _seen(request: ranking_pb2.RecommendRequest) -> list[str]:
    """Return the items that the seen policy keeps out of the list."""
    out = request.seen_policy.interacted in (filter_pb2.SEEN_MODE_UNSPECIFIED, filter_pb2.SEEN_MODE_EXCLUDE)
    return interacted_ids(request.context) if out else []


def _declared(script: Script, validate_only: bool) -> list[degradation_pb2.Degradation]:
    """Return what the script declares, and that the items are a dummy where the request asks for one."""
    dummy = degradation_pb2.Degradation(kind=degradation_pb2.DEGRADATION_KIND_VALIDATE_ONLY)
    return [*script.degradations, *([dummy] if validate_only else ())]


def _said(given: candidates_pb2.CandidateList, place: int) -> Mapping[str, tuple[int, float]]:
    """Return what the sources in the caller's columns said of one candidate."""
    return {
        column.source: (column.ranks[place], column.scores[place] if column.scores else 0.0)
        for column in given.source_columns
        if column.ranks and column.ranks[place] > 0
    }


def _reasons(candidate: Candidate, own: Sequence[str]) -> list[ranking_pb2.Reason]:
    """Return the sources' reasons by the rank they gave, now and then led by one of the user's own items."""
    reasons = []
    chance = seed_of(str(candidate.row), *own) / 2**64
    if own and chance < _BECAUSE_OF_SHARE:
        because = own[candidate.row % len(own)]
        reasons.append(ranking_pb2.Reason(kind=ranking_pb2.REASON_KIND_BECAUSE_OF_ITEM, item_id=because))
    strongest = sorted(candidate.said, key=lambda name: candidate.said[name][0])
    reasons += [ranking_pb2.Reason(kind=_KIND_OF_SOURCE[name]) for name in strongest if name in _KIND_OF_SOURCE]
    return reasons[: limits.MOST_REASONS]


def _attributes(item_id: str, names: Sequence[str]) -> list[attribute_pb2.Attribute]:
    values = {"item_id": item_id, "title": title_of(item_id)}
    return [attribute_pb2.Attribute(name=name, string_value=values[name]) for name in names if name in values]


def _wrong_recommend(request: ranking_pb2.RecommendRequest) -> list[Violation]:
    return [
        *limits.context(request.context),
        *limits.filter_of(request),
        *limits.count("max_results", request.max_results, limits.DEFAULT_RESULTS, limits.MOST_RESULTS),
        *limits.known("fill_policy", request.fill_policy, filter_pb2.FillPolicy.values()),
        *limits.seen_policy(request.seen_policy),
        *limits.length("exclude_item_ids", request.exclude_item_ids, limits.MOST_EXCLUDED),
        *limits.ids("exclude_item_ids", request.exclude_item_ids),
        *limits.length("return_attributes", request.return_attributes, limits.MOST_ATTRIBUTES),
    ]


def _wrong_rank(request: ranking_pb2.RankRequest) -> list[Violation]:
    listed = len(request.candidates.rows) or len(request.candidates.item_ids)
    return [
        *limits.context(request.context),
        *limits.filter_of(request),
        *limits.count("max_results", request.max_results, listed, limits.MOST_RANKED),
        *limits.seen_policy(request.seen_policy),
        *limits.length("return_attributes", request.return_attributes, limits.MOST_ATTRIBUTES),
    ]
