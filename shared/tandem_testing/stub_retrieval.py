"""A RetrievalService without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import grpc
from google.protobuf import timestamp_pb2

from tandem.common.v1 import candidates_pb2, degradation_pb2, filter_pb2, serving_state_pb2
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
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
    taste_of,
)

_DUMMY = degradation_pb2.Degradation(kind=degradation_pb2.DEGRADATION_KIND_VALIDATE_ONLY)


class StubRetrieval(
    ScriptedStub[
        retrieval_pb2.RetrieveRequest | retrieval_pb2.SimilarItemsRequest | retrieval_pb2.GetEmbeddingsRequest,
        retrieval_pb2.RetrieveResponse | retrieval_pb2.SimilarItemsResponse | retrieval_pb2.GetEmbeddingsResponse,
    ],
    retrieval_pb2_grpc.RetrievalServiceServicer,
):
    """Plays every call of RetrievalService.

    Answers obey the contract and repeat: a user gets the same list each time, whatever the request_id. Requests beyond
    the contract's limits are refused as by the real service. Filters are not applied: a stub has no item columns.
    SimilarItems compares the vectors that GetEmbeddings gives; the lists of Retrieve know nothing of them.
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

    def malformed(self) -> None:
        """Answer with one score too many (or, in each vector, one value), which a client must not accept."""
        self._change(malformed=True)

    def Retrieve(
        self, request: retrieval_pb2.RetrieveRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.RetrieveResponse:
        return self._reply(context, [request], lambda: self._answer(request))

    def BatchRetrieve(
        self, request: retrieval_pb2.BatchRetrieveRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.BatchRetrieveResponse:
        return self._reply(context, request.requests, lambda: self._batch(request))

    def SimilarItems(
        self, request: retrieval_pb2.SimilarItemsRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.SimilarItemsResponse:
        answer = partial(self._follow, request, retrieval_pb2.SimilarItemsResponse, self._similar)
        return self._reply(context, [request], answer)

    def GetEmbeddings(
        self, request: retrieval_pb2.GetEmbeddingsRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.GetEmbeddingsResponse:
        answer = partial(self._follow, request, retrieval_pb2.GetEmbeddingsResponse, self._embeddings)
        return self._reply(context, [request], answer)

    def GetServingState(
        self, request: retrieval_pb2.GetServingStateRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.GetServingStateResponse:
        return retrieval_pb2.GetServingStateResponse(state=serving_state(self._catalogue), sources=SOURCES)

    def _batch(self, request: retrieval_pb2.BatchRetrieveRequest) -> retrieval_pb2.BatchRetrieveResponse:
        limits.refuse_if(limits.length("requests", request.requests, limits.MOST_BATCHED, least=1))
        return retrieval_pb2.BatchRetrieveResponse(results=[self._result(each) for each in request.requests])

    def _result(self, request: retrieval_pb2.RetrieveRequest) -> retrieval_pb2.BatchRetrieveResult:
        try:
            return retrieval_pb2.BatchRetrieveResult(response=self._answer(request))
        except Refusal as refusal:
            return retrieval_pb2.BatchRetrieveResult(error=refusal.call_error())

    def _answer(self, request: retrieval_pb2.RetrieveRequest) -> retrieval_pb2.RetrieveResponse:
        return self._follow(request, retrieval_pb2.RetrieveResponse, self._seeded)

    def _seeded(self, request: retrieval_pb2.RetrieveRequest, script: Script) -> retrieval_pb2.RetrieveResponse:
        limits.refuse_if(_wrong(request))
        acceptable = request.acceptable_bundle_ids
        if acceptable and self.bundle_id not in acceptable:
            raise bundle_mismatch(f"none of {list(acceptable)} is loaded; {self.bundle_id!r} is")
        found = [] if script.empty else self._find(request)
        reason = SCRIPTED_EMPTY if script.empty else "the user has seen every item, or the request excludes it"
        response = retrieval_pb2.RetrieveResponse(
            candidates=self._columns(found, by_row=request.item_form == retrieval_pb2.ITEM_FORM_ROWS),
            bundle_id=self.bundle_id,
            request_id=request_id_of(request, request.context.request_id),
            regime=regime_of(request.context),
            degradations=[*script.degradations, *([_DUMMY] if request.validate_only else ())],
            empty_reason="" if found else reason,
        )
        if script.malformed:
            response.candidates.scores.append(0.0)
        return response

    def _similar(
        self, request: retrieval_pb2.SimilarItemsRequest, script: Script
    ) -> retrieval_pb2.SimilarItemsResponse:
        limits.refuse_if(
            limits.length("item_ids", request.item_ids, limits.MOST_GIVEN_ITEMS, least=1),
            limits.ids("item_ids", request.item_ids),
            limits.filter_of(request),
            limits.count("max_results", request.max_results, limits.DEFAULT_RESULTS, limits.MOST_RESULTS),
        )
        if unknown := [item_id for item_id in request.item_ids if item_id not in self._catalogue.row_of]:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"no item {unknown[0]!r} in the catalogue")
        wanted = request.max_results or limits.DEFAULT_RESULTS
        found = [] if script.empty else self._catalogue.similar(request.item_ids)[:wanted]
        response = retrieval_pb2.SimilarItemsResponse(
            candidates=self._columns(found, by_row=False), bundle_id=self.bundle_id
        )
        if script.malformed:
            response.candidates.scores.append(0.0)
        return response

    def _embeddings(
        self, request: retrieval_pb2.GetEmbeddingsRequest, script: Script
    ) -> retrieval_pb2.GetEmbeddingsResponse:
        limits.refuse_if(
            limits.length("item_ids", request.item_ids, limits.MOST_EMBEDDED_ITEMS),
            limits.ids("item_ids", request.item_ids),
            limits.length("users", request.users, limits.MOST_BATCHED),
            *(limits.context(user, f"users[{i}]") for i, user in enumerate(request.users)),
        )
        known = [] if script.empty else [i for i in request.item_ids if i in self._catalogue.row_of]
        items = [(item_id, self._catalogue.vectors[self._catalogue.row_of[item_id]]) for item_id in known]
        users = [(user.user_id, self._catalogue.vector("user", taste_of(user))) for user in request.users]
        extra = [0.0] if script.malformed else []
        return retrieval_pb2.GetEmbeddingsResponse(
            items=[retrieval_pb2.Embedding(id=name, values=[*vector, *extra]) for name, vector in items],
            users=[retrieval_pb2.Embedding(id=name, values=[*vector, *extra]) for name, vector in users],
            bundle_id=self.bundle_id,
        )

    def _find(self, request: retrieval_pb2.RetrieveRequest) -> list[Candidate]:
        wanted = request.max_candidates or limits.DEFAULT_CANDIDATES
        excluded = [*request.exclude_item_ids]
        if request.seen_policy.interacted in (filter_pb2.SEEN_MODE_UNSPECIFIED, filter_pb2.SEEN_MODE_EXCLUDE):
            excluded += interacted_ids(request.context)
        plans = [
            Plan(plan.source, plan.limit or wanted, plan.weight if plan.HasField("weight") else 1.0)
            for plan in request.sources
        ] or [Plan(source, wanted) for source in SOURCES]
        eligible = self._catalogue.eligible(excluded)
        return self._catalogue.candidates(taste_of(request.context), eligible, plans, wanted, request.fill_policy)

    def _columns(self, found: Sequence[Candidate], *, by_row: bool) -> candidates_pb2.CandidateList:
        names = [name for name in (*SOURCES, BACKFILL) if any(name in candidate.said for candidate in found)]
        said = [[candidate.said.get(name, (0, 0.0)) for candidate in found] for name in names]
        return candidates_pb2.CandidateList(
            bundle_id=self.bundle_id,
            rows=[candidate.row for candidate in found] if by_row else None,
            item_ids=None if by_row else [self.catalogue[candidate.row] for candidate in found],
            scores=[candidate.score for candidate in found],
            source_masks=[sum(1 << bit for bit, name in enumerate(names) if name in c.said) for c in found],
            source_columns=[
                candidates_pb2.SourceColumn(source=name, ranks=[r for r, _ in column], scores=[s for _, s in column])
                for name, column in zip(names, said, strict=True)
            ],
        )


def serving_state(catalogue: SeededCatalogue) -> serving_state_pb2.ServingState:
    """Return the state of a stub, which always serves."""
    return serving_state_pb2.ServingState(
        serving=True,
        bundle_id=catalogue.bundle_id,
        bundle_created=timestamp_pb2.Timestamp(seconds=1_735_689_600),  # 2025-01-01: answers repeat
        catalogue_size=len(catalogue.item_ids),
        started=timestamp_pb2.Timestamp(seconds=1_735_689_600),
    )


def _wrong(request: retrieval_pb2.RetrieveRequest) -> list[Violation]:
    wrong = [
        *limits.context(request.context),
        *limits.filter_of(request),
        *limits.known("fill_policy", request.fill_policy, filter_pb2.FillPolicy.values()),
        *limits.known("item_form", request.item_form, retrieval_pb2.ItemForm.values()),
        *limits.count("max_candidates", request.max_candidates, limits.DEFAULT_CANDIDATES, limits.MOST_CANDIDATES),
        *limits.seen_policy(request.seen_policy),
        *limits.length("exclude_item_ids", request.exclude_item_ids, limits.MOST_EXCLUDED),
        *limits.ids("exclude_item_ids", request.exclude_item_ids),
        *limits.length("acceptable_bundle_ids", request.acceptable_bundle_ids, limits.MOST_BUNDLES),
        *limits.ids("acceptable_bundle_ids", request.acceptable_bundle_ids),
        *limits.length("sources", request.sources, limits.MOST_SOURCES),
    ]
    if len({plan.source for plan in request.sources}) < len(request.sources):
        wrong.append(("sources", "names a source twice"))
    for i, plan in enumerate(request.sources):
        all_wanted = request.max_candidates or limits.DEFAULT_CANDIDATES
        wrong += limits.count(f"sources[{i}].limit", plan.limit, all_wanted, limits.MOST_CANDIDATES)
        if plan.source not in SOURCES:
            wrong.append((f"sources[{i}].source", f"no source {plan.source!r}; there are {', '.join(SOURCES)}"))
        if plan.HasField("weight") and not 0 < plan.weight < math.inf:
            wrong.append((f"sources[{i}].weight", "is not a finite number above 0"))
    return wrong
