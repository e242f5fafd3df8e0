"""A CatalogService that keeps items and users in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import grpc

from tandem.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tandem.common.v1 import degradation_pb2
from tandem_testing import limits
from tandem_testing.refusal import Refusal, Violation
from tandem_testing.script import Script, ScriptedStub
from tandem_testing.seeded import title_of

_OWN_FIELDS = ("categories", "creator", "created_at", "price")  # columns that are fields of an item, not attributes


class StubCatalog(
    ScriptedStub[
        catalog_pb2.UpsertItemsRequest
        | catalog_pb2.DeleteItemsRequest
        | catalog_pb2.GetItemRequest
        | catalog_pb2.UpsertUsersRequest,
        catalog_pb2.UpsertItemsResponse
        | catalog_pb2.DeleteItemsResponse
        | catalog_pb2.GetItemResponse
        | catalog_pb2.UpsertUsersResponse,
    ],
    catalog_pb2_grpc.CatalogServiceServicer,
):
    """Plays every call of CatalogService; what is stored stays here and does not reach other stubs.

    A call that the script fails stores nothing. Every attribute name counts as declared, of any kind. `reset` forgets
    all.
    """

    def __init__(self, catalogue: Sequence[str] = ()) -> None:
        """catalogue: ids of items that are there without having been upserted, as those of a bundle are."""
        super().__init__()
        self._bundled = frozenset(catalogue)
        self._deleted: set[str] = set()
        self._items: dict[str, catalog_pb2.Item] = {}
        self._users: dict[str, catalog_pb2.User] = {}

    @property
    def items(self) -> Mapping[str, catalog_pb2.Item]:
        """The stored items by id."""
        with self._lock:
            return dict(self._items)

    @property
    def users(self) -> Mapping[str, catalog_pb2.User]:
        """The stored users by id."""
        with self._lock:
            return dict(self._users)

    def reset(self) -> None:
        super().reset()
        with self._lock:
            self._items = {}
            self._users = {}
            self._deleted = set()

    def UpsertItems(
        self, request: catalog_pb2.UpsertItemsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.UpsertItemsResponse:
        answer = partial(self._follow, request, catalog_pb2.UpsertItemsResponse, self._upsert_items)
        return self._reply(context, [request], answer)

    def DeleteItems(
        self, request: catalog_pb2.DeleteItemsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.DeleteItemsResponse:
        answer = partial(self._follow, request, catalog_pb2.DeleteItemsResponse, self._delete_items)
        return self._reply(context, [request], answer)

    def GetItem(
        self, request: catalog_pb2.GetItemRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.GetItemResponse:
        return self._reply(
            context, [request], partial(self._follow, request, catalog_pb2.GetItemResponse, self._get_item)
        )

    def UpsertUsers(
        self, request: catalog_pb2.UpsertUsersRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.UpsertUsersResponse:
        answer = partial(self._follow, request, catalog_pb2.UpsertUsersResponse, self._upsert_users)
        return self._reply(context, [request], answer)

    def _upsert_items(self, request: catalog_pb2.UpsertItemsRequest, script: Script) -> catalog_pb2.UpsertItemsResponse:
        limits.refuse_if(limits.length("items", request.items, limits.MOST_WRITTEN, least=1))
        results = []
        for i, item in enumerate(request.items):
            results.append(_result(wrong := _wrong_item(item, f"items[{i}]")))
            if not wrong:
                with self._lock:
                    self._items[item.item_id] = item
                    self._deleted.discard(item.item_id)
        return catalog_pb2.UpsertItemsResponse(results=results)

    def _delete_items(self, request: catalog_pb2.DeleteItemsRequest, script: Script) -> catalog_pb2.DeleteItemsResponse:
        limits.refuse_if(limits.length("item_ids", request.item_ids, limits.MOST_WRITTEN, least=1))
        results = []
        for i, item_id in enumerate(request.item_ids):
            results.append(_result(wrong := limits.text(f"item_ids[{i}]", item_id, 256, least=1)))
            if not wrong:
                with self._lock:
                    self._items.pop(item_id, None)
                    self._deleted.add(item_id)
        return catalog_pb2.DeleteItemsResponse(results=results)

    def _get_item(self, request: catalog_pb2.GetItemRequest, script: Script) -> catalog_pb2.GetItemResponse:
        limits.refuse_if(limits.text("item_id", request.item_id, 256, least=1))
        with self._lock:
            item = self._items.get(request.item_id)
            if item is None and request.item_id in self._bundled - self._deleted:
                item = catalog_pb2.Item(item_id=request.item_id, title=title_of(request.item_id))
        if item is None:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"no item {request.item_id!r} in the catalogue")
        return catalog_pb2.GetItemResponse(item=item)

    def _upsert_users(self, request: catalog_pb2.UpsertUsersRequest, script: Script) -> catalog_pb2.UpsertUsersResponse:
        limits.refuse_if(limits.length("users", request.users, limits.MOST_WRITTEN, least=1))
        results = []
        for i, user in enumerate(request.users):
            wrong = limits.text(f"users[{i}].user_id", user.user_id, 256, least=1)
            wrong += limits.attributes(f"users[{i}].attributes", user.attributes)
            results.append(_result(wrong))
            if not wrong:
                with self._lock:
                    self._users[user.user_id] = user
        return catalog_pb2.UpsertUsersResponse(results=results)


def _result(wrong: list[Violation]) -> catalog_pb2.WriteResult:
    if not wrong:
        return catalog_pb2.WriteResult(stored=True)
    field, description = wrong[0]
    return catalog_pb2.WriteResult(violation=degradation_pb2.FieldViolation(field=field, description=description))


def _wrong_item(item: catalog_pb2.Item, field: str) -> list[Violation]:
    wrong = [
        *limits.text(f"{field}.item_id", item.item_id, 256, least=1),
        *limits.text(f"{field}.title", item.title, 1000),
        *limits.text(f"{field}.text", item.text, 20_000),
        *limits.length(f"{field}.categories", item.categories, 64),
        *limits.ids(f"{field}.categories", item.categories),
        *limits.text(f"{field}.creator", item.creator, 256),
    ]
    if item.HasField("price") and not 0 <= item.price < math.inf:
        wrong.append((f"{field}.price", "is no finite number of at least 0"))
    if item.HasField("created"):
        wrong += limits.time(f"{field}.created", item.created)
    wrong += limits.attributes(f"{field}.attributes", item.attributes)
    before = set()
    for i, attribute in enumerate(item.attributes):
        if attribute.name in _OWN_FIELDS:
            wrong.append((f"{field}.attributes[{i}].name", f"{attribute.name!r} is a field of the item: set it there"))
        if attribute.name in before:
            wrong.append((f"{field}.attributes[{i}].name", f"names {attribute.name!r} twice"))
        before.add(attribute.name)
    return wrong
