"""RetrievalService on the wire."""

from __future__ import annotations

import time

import grpc

from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core import observe
from tandem_core.budget import Budget
from tandem_core.dummy import dummy_retrieved
from tandem_core.errors import FieldViolation, InvalidRequest, TandemError
from tandem_core.grpc_errors import to_call_error
from tandem_core.grpc_parse import MOST_BATCHED, parse_retrieve
from tandem_core.grpc_parse_vectors import parse_embeddings, parse_similar_items
from tandem_core.grpc_render import check_size, embeddings, retrieve_response, serving_state, similar_items_response
from tandem_core.query import Query
from tandem_core.retrieval_pipeline import RetrievalPipeline, check_query
from tandem_core.serving_bundles import HoldsBundles
from tandem_core.similar_items import similar_items
from tandem_core.stores.base import UserStore
from tandem_core.user_state import with_all_stored, with_stored
from tandem_core.vectors import item_vectors, user_vectors


class RetrievalServicer(retrieval_pb2_grpc.RetrievalServiceServicer):
    """Answers from the bundles it is given; raises `tandem_core.errors`, which the interceptor translates."""

    def __init__(self, bundles: HoldsBundles[RetrievalPipeline], store: UserStore) -> None:
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
        results = [self._result(each, budget) for each in request.requests]
        budget.check()  # too late for the batch is not a fault of its requests
        response = retrieval_pb2.BatchRetrieveResponse(results=results)
        check_size(response, len(results))
        return response

    def SimilarItems(
        self, request: retrieval_pb2.SimilarItemsRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.SimilarItemsResponse:
        query = parse_similar_items(request)
        Budget.of(context.time_remaining()).check()
        bundle = self._bundles.held.choose().bundle
        return similar_items_response(similar_items(bundle, query), bundle)

    def GetEmbeddings(
        self, request: retrieval_pb2.GetEmbeddingsRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.GetEmbeddingsResponse:
        users = parse_embeddings(request, time.time_ns() // 1_000_000)
        budget = Budget.of(context.time_remaining())
        bundle = self._bundles.held.choose().bundle
        known = [self._known(user, budget) for user in users]
        item_ids = [item_id for item_id in request.item_ids if item_id in bundle.catalog.row_of]
        return retrieval_pb2.GetEmbeddingsResponse(
            items=embeddings(item_ids, item_vectors(bundle, item_ids)),
            users=embeddings([user.user_id for user in known], user_vectors(bundle, known)),
            bundle_id=bundle.id,
        )

    def GetServingState(
        self, request: retrieval_pb2.GetServingStateRequest, context: grpc.ServicerContext
    ) -> retrieval_pb2.GetServingStateResponse:
        held = self._bundles.held
        bundle = held.loaded[0][1].bundle if held.loaded else None
        return retrieval_pb2.GetServingStateResponse(
            state=serving_state(held, bundle, self._started_ms), sources=list(bundle.sources) if bundle else ()
        )

    def _known(self, user: Query, budget: Budget) -> Query:
        budget.check()
        return with_all_stored(user, self._store)

    def _retrieve(self, request: retrieval_pb2.RetrieveRequest, budget: Budget) -> retrieval_pb2.RetrieveResponse:
        with observe.stage("parse"):
            query = parse_retrieve(request, time.time_ns() // 1_000_000)
        budget.check()
        pipeline = self._bundles.held.choose(request.acceptable_bundle_ids)
        by_row = request.item_form == retrieval_pb2.ITEM_FORM_ROWS
        if request.validate_only:
            check_query(pipeline.bundle, query)
            dummy = dummy_retrieved(pipeline.bundle, query)
            return retrieve_response(dummy, query, pipeline.bundle, (), by_row=by_row)
        query, missing = with_stored(query, self._store)
        retrieved = pipeline.retrieve(query, budget)
        with observe.stage("render"):
            return retrieve_response(retrieved, query, pipeline.bundle, missing, by_row=by_row)

    def _result(self, request: retrieval_pb2.RetrieveRequest, budget: Budget) -> retrieval_pb2.BatchRetrieveResult:
        """Return one answer of a batch: what is wrong with one request is no error of the others."""
        try:
            return retrieval_pb2.BatchRetrieveResult(response=self._retrieve(request, budget))
        except TandemError as error:
            return retrieval_pb2.BatchRetrieveResult(error=to_call_error(error))
