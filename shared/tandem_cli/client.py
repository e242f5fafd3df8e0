"""Asking the services, as a backend would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem.common.v1 import attribute_pb2, context_pb2
from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc


class NotAnswered(Exception):  # noqa: N818
    """The service did not answer: says where it was looked for and what it said."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What to ask. events: item ids, oldest first. now_ms: 0 for the server's clock."""

    user_id: str
    max_results: int
    attributes: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[str] = ()
    placement: str = ""
    now_ms: int = 0

    def request(self) -> ranking_pb2.RecommendRequest:
        """Return the request; titles are asked for, since people will read the list."""
        context = context_pb2.RequestContext(
            user_id=self.user_id,
            placement=self.placement,
            user_attributes=[
                attribute_pb2.Attribute(name=name, string_value=value) for name, value in self.attributes.items()
            ],
            recent_events=[context_pb2.UserEvent(item_id=item_id) for item_id in self.events],
        )
        if self.now_ms:
            context.event_time.FromMilliseconds(self.now_ms)
            for place, event in enumerate(reversed(context.recent_events), start=1):
                event.timestamp.FromMilliseconds(self.now_ms - 60_000 * place)
        return ranking_pb2.RecommendRequest(context=context, max_results=self.max_results, return_attributes=["title"])


def ask(target: str, asking: Asking, timeout_s: float) -> ranking_pb2.RecommendResponse:
    """Return the answer of the ranking service at `target`; raises NotAnswered."""
    with _channel_to(target) as channel:
        return ask_over(channel, target, asking, timeout_s)


def ask_over(channel: grpc.Channel, target: str, asking: Asking, timeout_s: float) -> ranking_pb2.RecommendResponse:
    """As `ask`, over an open channel."""
    stub = ranking_pb2_grpc.RankingServiceStub(channel)
    with _refusals_named(target):
        return stub.Recommend(asking.request(), timeout=timeout_s)


def ask_explanation(
    target: str, request: ranking_pb2.ExplainItemRequest, timeout_s: float
) -> ranking_pb2.ExplainItemResponse:
    """Return the answer of the ranking service at `target`; raises NotAnswered."""
    with _channel_to(target) as channel, _refusals_named(target):
        return ranking_pb2_grpc.RankingServiceStub(channel).ExplainItem(request, timeout=timeout_s)


def ask_similar(
    target: str, request: retrieval_pb2.SimilarItemsRequest, timeout_s: float
) -> retrieval_pb2.SimilarItemsResponse:
    """Return the answer of the retrieval service at `target`; raises NotAnswered."""
    with _channel_to(target) as channel, _refusals_named(target):
        return retrieval_pb2_grpc.RetrievalServiceStub(channel).SimilarItems(request, timeout=timeout_s)


def ask_embeddings(
    target: str, request: retrieval_pb2.GetEmbeddingsRequest, timeout_s: float
) -> retrieval_pb2.GetEmbeddingsResponse:
    """Return the answer of the retrieval service at `target`; raises NotAnswered."""
    with _channel_to(target) as channel, _refusals_named(target):
        return retrieval_pb2_grpc.RetrievalServiceStub(channel).GetEmbeddings(request, timeout=timeout_s)


def write_events(
    target: str, request: events_pb2.WriteEventsRequest, timeout_s: float
) -> events_pb2.WriteEventsResponse:
    """Return the answer of the writer process at `target`; raises NotAnswered."""
    with _channel_to(target) as channel, _refusals_named(target):
        return events_pb2_grpc.EventServiceStub(channel).WriteEvents(request, timeout=timeout_s)


def forget_user(target: str, request: events_pb2.ForgetUserRequest, timeout_s: float) -> events_pb2.ForgetUserResponse:
    """Return the answer of the writer process at `target`; raises NotAnswered."""
    with _channel_to(target) as channel, _refusals_named(target):
        return events_pb2_grpc.EventServiceStub(channel).ForgetUser(request, timeout=timeout_s)


def ask_admin(target: str, method: str, timeout_s: float, **fields: Any) -> Any:
    """Return the answer of BundleService at an admin address; raises NotAnswered."""
    with _channel_to(target) as channel, _refusals_named(target):
        call = getattr(bundle_pb2_grpc.BundleServiceStub(channel), method)
        return call(getattr(bundle_pb2, f"{method}Request")(**fields), timeout=timeout_s)


def _channel_to(target: str) -> grpc.Channel:
    return grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])


@contextmanager
def _refusals_named(target: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise NotAnswered(f"{target} answered {error.code().name}: {error.details()}") from error
