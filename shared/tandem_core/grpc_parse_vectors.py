"""From requests for similar items and for vectors on the wire to queries."""

from __future__ import annotations

from typing import Any

from tandem.common.v1 import context_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.errors import FieldViolation
from tandem_core.grpc_parse import DEFAULT_RESULTS, MOST_BATCHED, MOST_RESULTS, Checks, parse_context, parse_filter
from tandem_core.query import Query
from tandem_core.similar_items import SimilarQuery

MOST_GIVEN_ITEMS = 50
MOST_EMBEDDED_ITEMS = 500


def parse_similar_items(request: retrieval_pb2.SimilarItemsRequest) -> SimilarQuery:
    """Return the query of a SimilarItemsRequest; raises InvalidRequest with every violation."""
    checks = Checks()
    checks.that(len(request.item_ids) > 0, "item_ids", f"is required, 1 to {MOST_GIVEN_ITEMS} ids")
    checks.ids(request.item_ids, MOST_GIVEN_ITEMS, "item_ids")
    wanted = checks.count(request.max_results, DEFAULT_RESULTS, MOST_RESULTS, "max_results")
    condition = parse_filter(checks, request)
    checks.done()
    return SimilarQuery(list(request.item_ids), wanted, condition)


def parse_embeddings(request: retrieval_pb2.GetEmbeddingsRequest, clock_ms: int) -> list[Query]:
    """Return a query for each user of a GetEmbeddingsRequest; raises InvalidRequest with every violation.

    clock_ms: the server's time, for users whose context carries none.
    """
    checks = Checks()
    checks.ids(request.item_ids, MOST_EMBEDDED_ITEMS, "item_ids")
    few = checks.at_most(request.users, MOST_BATCHED, "users")
    users = [_user(checks, user, i, clock_ms) for i, user in enumerate(request.users)] if few else []
    checks.done()
    return [Query(max_results=1, **fields) for fields in users]  # no list is made of it: any length would do


def _user(checks: Checks, user: context_pb2.RequestContext, i: int, clock_ms: int) -> dict[str, Any]:
    """Return the fields of one user's query; what is wrong with its context is noted under users[i]."""
    own = Checks()
    fields = parse_context(own, user, clock_ms)
    checks.violations += [
        FieldViolation(violation.field.replace("context", f"users[{i}]", 1), violation.description)
        for violation in own.violations
    ]
    return fields
