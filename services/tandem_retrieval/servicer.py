"""RetrievalService on the wire."""

from __future__ import annotations

import time

import grpc

from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.budget import Budget
from tandem_core.errors import FieldViolation, InvalidRequest, TandemError, Unimplemented
from tandem_core.grpc_errors import to_call_error
from tandem_core.grpc_parse import MOST_BATCHED, parse_retrieve
from tandem_core.grpc_render import retrieve_response, serving_state
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.serving_bundles import ServingBundles
from tandem_core.stores.base import UserStore
from tandem_core.user_state import with_stored


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServiceServicer):
    """Answers from the bundles it is given; raises `tandem_core.errors`, which the interceptor translates."""

    def __init__(self, bundles: ServingBundles[RetrievalPipeline], store: UserStore) -> None:
        self._bundles = bundles
        self._store = store
        self._started_ms = time.time_ns() // 1_000_000

    def Retrieve(
        self, request: retrieval_pb2.RetrieveRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.RetrieveResponse:
        return self._retrieve(request, Budget.of(context.time_remaining()))

    def BatchRetrieve(
        self, request: retrieval_pb2.BatchRetrieveRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.BatchRetrieveResponse:
        if not 0 < len(request.requests) <= MOST_BATCHED:
            raise InvalidRequest(
                FieldViolation("requests", f"has {len(request.requests)}, 1 to {MOST_BATCHED} are allowed")
            )
        budget = Budget.of(context.time_remaining())
        return retrieval_pb2.BatchRetrieveResponse(results=[self._result(each, budget) for each in request.requests])

    def SimilarItems(
        self, request: retrieval_pb2.SimilarItemsRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.SimilarItemsResponse:
        raise Unimplemented("SimilarItems is not built yet; see protos/README.md")

    def GetEmbeddings(
        self, request: retrieval_pb2.GetEmbeddingsRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.GetEmbeddingsResponse:
        raise Unimplemented("GetEmbeddings is not built yet; see protos/README.md")

    def GetServingState(
        self, request: retrieval_pb2.GetServingStateRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.GetServingStateResponse:
        held = self._bundles.held
        bundle = held.loaded[0][1].bundle if held.loaded else None
        return retrieval_pb2.GetServingStateResponse(
            state=serving_state(held, bundle, self._started_ms), sources=list(bundle.sources) if bundle else ()
        )

    def _retrieve(self, request: retrieval_pb2.RetrieveRequest, budget: Budget) -> retrieval_pb2.RetrieveResponse:
        query = parse_retrieve(request, time.time_ns() // 1_000_000)
        budget.check()
        pipeline = self._bundles.held.choose(request.acceptable_bundle_ids)
        query, missing = with_stored(query, self._store)
        retrieved = pipeline.retrieve(query, budget)
        by_row = request.item_form == retrieval_pb2.ITEM_FORM_ROWS
        return retrieve_response(retrieved, query, pipeline.bundle, missing, by_row=by_row)

    def _result(self, request: retrieval_pb2.RetrieveRequest, budget: Budget) -> retrieval_pb2.BatchRetrieveResult:
        """Return one answer of a batch: what is wrong with one request is no error of the others."""
        try:
            return retrieval_pb2.BatchRetrieveResult(response=self._retrieve(request, budget))
        except TandemError as error:
            return retrieval_pb2.BatchRetrieveResult(error=to_call_error(error))
