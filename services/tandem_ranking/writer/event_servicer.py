"""EventService on the wire."""

from __future__ import annotations

import grpc

from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem_core.errors import Unimplemented
from tandem_core.stores.base import UserStore


class EventServicer(events_pb2_grpc.EventServiceServicer):
    """Writes what users do; raises `tandem_core.errors`, which the interceptor translates."""

    def __init__(self, store: UserStore) -> None:
        self._store = store

    def WriteEvents(
        self, request: events_pb2.WriteEventsRequest, context: grpc.ServicerContext
    ) -> events_pb2.WriteEventsResponse:
        raise Unimplemented("WriteEvents is not built yet; see protos/README.md")

    def ForgetUser(
        self, request: events_pb2.ForgetUserRequest, context: grpc.ServicerContext
    ) -> events_pb2.ForgetUserResponse:
        raise Unimplemented("ForgetUser is not built yet; see protos/README.md")
