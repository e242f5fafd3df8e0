"""Asking the services, as a backend would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem.common.v1 import attribute_pb2, context_pb2
from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_cli.access import access_of_command
from tandem_core.grpc_access import Access, Authorized


class NotAnswered(Exception):  # noqa: N818
    """The service did not answer: says where it was looked for and what it said."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What to ask. events: item ids, oldest first. context: of the request. now_ms: 0 for the server's clock."""

    user_id: str
    max_results: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[str] = ()
    placement: str = ""
    now_ms: int = 0
    context: Mapping[str, str] = field(default_factory=dict)

    def request(self) -> ranking_pb2.RecommendRequest:
        """Return the request; titles are asked for, since people will read the list."""
        context = context_pb2.RequestContext(
            user_id=self.user_id,
            placement=self.placement,
            user_attributes=attributes_of(self.attributes),
            context=attributes_of(self.context),
            recent_events=[context_pb2.UserEvent(item_id=item_id) for item_id in self.events],
        )
        if self.now_ms:
            context.event_time.FromMilliseconds(self.now_ms)
            for place, event in enumerate(reversed(context.recent_events), start=1):
                event.timestamp.FromMilliseconds(self.now_ms - 60_000 * place)
        return ranking_pb2.RecommendRequest(context=context, max_results=self.max_results, return_attributes=["title"])


def attributes_of(texts: Mapping[str, str]) -> list[attribute_pb2.Attribute]:
    return [attribute_pb2.Attribute(name=name, string_value=value) for name, value in texts.items()]


def ask(target: str, asking: Asking, timeout_s: float) -> ranking_pb2.RecommendResponse:
    """Return the answer of the ranking service at `target`; raises NotAnswered, as all functions here do."""
    response: ranking_pb2.RecommendResponse = _asked(
        target, ranking_pb2_grpc.RankingServiceStub, "Recommend", asking.request(), timeout_s
    )
    return response


def ask_over(channel: grpc.Channel, target: str, asking: Asking, timeout_s: float) -> ranking_pb2.RecommendResponse:
    """As `ask`, over an open channel."""
    stub = ranking_pb2_grpc.RankingServiceStub(channel)
    response: ranking_pb2.RecommendResponse = _answered(
        target, stub.Recommend, asking.request(), timeout_s, access_of_command()
    )
    return response


def ask_explanation(
    target: str, request: ranking_pb2.ExplainItemRequest, timeout_s: float
) -> ranking_pb2.ExplainItemResponse:
    response: ranking_pb2.ExplainItemResponse = _asked(
        target, ranking_pb2_grpc.RankingServiceStub, "ExplainItem", request, timeout_s
    )
    return response


def ask_similar(
    target: str, request: retrieval_pb2.SimilarItemsRequest, timeout_s: float
) -> retrieval_pb2.SimilarItemsResponse:
    response: retrieval_pb2.SimilarItemsResponse = _asked(
        target, retrieval_pb2_grpc.RetrievalServiceStub, "SimilarItems", request, timeout_s
    )
    return response


def ask_embeddings(
    target: str, request: retrieval_pb2.GetEmbeddingsRequest, timeout_s: float
) -> retrieval_pb2.GetEmbeddingsResponse:
    response: retrieval_pb2.GetEmbeddingsResponse = _asked(
        target, retrieval_pb2_grpc.RetrievalServiceStub, "GetEmbeddings", request, timeout_s
    )
    return response


def write_events(
    target: str, request: events_pb2.WriteEventsRequest, timeout_s: float
) -> events_pb2.WriteEventsResponse:
    response: events_pb2.WriteEventsResponse = _asked(
        target, events_pb2_grpc.EventServiceStub, "WriteEvents", request, timeout_s
    )
    return response


def forget_user(target: str, request: events_pb2.ForgetUserRequest, timeout_s: float) -> events_pb2.ForgetUserResponse:
    response: events_pb2.ForgetUserResponse = _asked(
        target, events_pb2_grpc.EventServiceStub, "ForgetUser", request, timeout_s
    )
    return response


def ask_admin(target: str, method: str, timeout_s: float, **fields: Any) -> Any:
    """Return the answer of BundleService at an admin address. fields: of the method's request."""
    request = getattr(bundle_pb2, f"{method}Request")(**fields)
    return _asked(target, bundle_pb2_grpc.BundleServiceStub, method, request, timeout_s)


def _asked(target: str, stub: Callable[[grpc.Channel], Any], method: str, request: Any, timeout_s: float) -> Any:
    access = access_of_command()
    with access.open(target, [("grpc.enable_http_proxy", 0)]) as channel:
        return _answered(target, getattr(stub(channel), method), request, timeout_s, access)


def _answered(target: str, method: Any, request: Any, timeout_s: float, access: Access) -> Any:
    """Return what a stub's method answers to a call that carries the command's token, where there is one."""
    try:
        return Authorized(method, access.read_metadata())(request, timeout=timeout_s)
    except grpc.RpcError as error:
        raise NotAnswered(f"{target} answered {error.code().name}: {error.details()}") from error
