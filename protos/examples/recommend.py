"""Ask for recommendations, and say what the user did with them: the client of a backend that waits for its answers.

python recommend.py HOST:PORT [HOST:PORT of the event service, where it is another]
"""

from __future__ import annotations

import json
import sys
import uuid

import grpc

from tandem.common.v1 import context_pb2, degradation_pb2
from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc

# Several pods or workers behind one name: calls go round, and leave out those that say they are not serving.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "tandem.ranking.v1.RankingService"},
}


def main(ranking_target: str, events_target: str) -> None:
    options = [("grpc.service_config", json.dumps(SERVICE_CONFIG)), ("grpc.keepalive_time_ms", 30_000)]
    with grpc.insecure_channel(ranking_target, options) as ranking, grpc.insecure_channel(events_target) as events:
        slate = recommend(ranking_pb2_grpc.RankingServiceStub(ranking), "u17")
        for item in slate.items:
            print(item.position, item.item_id, round(item.score, 3))
        for missing in slate.degradations:  # the list is good, and something was left out: worth a metric
            print("degraded:", degradation_pb2.DegradationKind.Name(missing.kind), missing.component)
        if slate.items:
            click(events_pb2_grpc.EventServiceStub(events), "u17", slate)


def recommend(stub: ranking_pb2_grpc.RankingServiceStub, user_id: str) -> ranking_pb2.RecommendResponse:
    # One id for the request and its retries: they count as one decision.
    context = context_pb2.RequestContext(user_id=user_id, placement="default", request_id=uuid.uuid4().hex)
    request = ranking_pb2.RecommendRequest(context=context, max_results=5, return_attributes=["title"])
    return stub.Recommend(request, timeout=0.5, wait_for_ready=False)


def click(stub: events_pb2_grpc.EventServiceStub, user_id: str, slate: ranking_pb2.RecommendResponse) -> None:
    top = slate.items[0]
    event = events_pb2.Event(
        insert_id=uuid.uuid4().hex,  # sent again after an error, it is stored once
        user_id=user_id,
        item_id=top.item_id,
        event_type="click",
        decision_id=slate.decision_id,
        position=top.position,
    )
    (result,) = stub.WriteEvents(events_pb2.WriteEventsRequest(events=[event]), timeout=2).results
    print("event:", events_pb2.EventOutcome.Name(result.outcome))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[-1])
