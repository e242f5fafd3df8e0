"""The caller's request in a decision record, as it was on the wire."""

from __future__ import annotations

from dataclasses import replace

from google.protobuf.message import DecodeError

from tandem.ranking.v1 import ranking_pb2
from tandem_core.decisions import Decision, DecisionUnreadable
from tandem_core.errors import InvalidRequest
from tandem_core.grpc_parse_ranking import parse_recommend


def with_filters(decision: Decision) -> Decision:
    """Return a whole decision with the filter and the excluded items of its request, which its query is kept without.

    Raises DecisionUnreadable where the request cannot be read.
    """
    if decision.query is None:
        return decision
    try:
        asked = parse_recommend(ranking_pb2.RecommendRequest.FromString(decision.request), decision.time_ms)
    except (DecodeError, InvalidRequest) as error:
        raise DecisionUnreadable(f"{decision.decision_id}: its request cannot be read: {error}") from error
    query = replace(decision.query, condition=asked.condition, exclude_item_ids=asked.exclude_item_ids, fill=asked.fill)
    return replace(decision, query=query)
