"""CatalogService on the wire."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import grpc

from tandem.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tandem.common.v1 import attribute_pb2, degradation_pb2
from tandem_core.catalog import Catalog
from tandem_core.errors import FieldViolation, InvalidRequest, NotFound
from tandem_core.grpc_parse_catalog import check_count, parse_id, parse_item, parse_user
from tandem_core.live.encoder import ItemEncoder
from tandem_core.serving_bundles import HoldsBundles
from tandem_core.stores.base import UserStore
from tandem_core.stores.live import LiveItem, LiveStore
from tandem_ranking.writer.store_refusal import store_named

M = TypeVar("M")
T = TypeVar("T")
_OWN_FIELDS = frozenset({"categories", "creator", "created_at", "price"})


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Writes items and users; raises `tandem_core.errors`, which the interceptor translates.

    What is wrong with one item or user is told in its result, and keeps none of the others from being written.
    """

    def __init__(self, encoders: HoldsBundles[ItemEncoder], items: LiveStore, users: UserStore) -> None:
        self._encoders = encoders
        self._items = items
        self._users = users

    def UpsertItems(
        self, request: catalog_pb2.UpsertItemsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.UpsertItemsResponse:
        check_count(request.items, "items")
        held = self._encoders.held
        catalog = held.choose().catalog
        parsed, results = _parsed(request.items, lambda item, field: parse_item(item, catalog, field), "items")
        if parsed:
            encodings = {bundle_id: encoder.encode(parsed) for bundle_id, encoder in held.loaded}
            with store_named():
                self._items.upsert(parsed, encodings)
        return catalog_pb2.UpsertItemsResponse(results=results)

    def DeleteItems(
        self, request: catalog_pb2.DeleteItemsRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.DeleteItemsResponse:
        check_count(request.item_ids, "item_ids")
        parsed, results = _parsed(request.item_ids, parse_id, "item_ids")
        if parsed:
            with store_named():
                self._items.delete(parsed)
        return catalog_pb2.DeleteItemsResponse(results=results)

    def GetItem(
        self, request: catalog_pb2.GetItemRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.GetItemResponse:
        item_id = parse_id(request.item_id, "item_id")
        with store_named():
            item = self._items.get(item_id)
            deleted = item is None and self._items.is_deleted(item_id)
        catalog = self._encoders.held.choose().catalog
        if item is None and not deleted:
            item = _of_bundle(catalog, item_id)
        if item is None:
            raise NotFound(f"no item {item_id!r}")
        return catalog_pb2.GetItemResponse(item=_message(item, catalog))

    def UpsertUsers(
        self, request: catalog_pb2.UpsertUsersRequest, context: grpc.ServicerContext
    ) -> catalog_pb2.UpsertUsersResponse:
        check_count(request.users, "users")
        parsed, results = _parsed(request.users, parse_user, "users")
        if parsed:
            with store_named():
                self._users.put_users(parsed)
        return catalog_pb2.UpsertUsersResponse(results=results)


def _parsed(
    messages: Sequence[M], parse: Callable[[M, str], T], field: str
) -> tuple[list[T], list[catalog_pb2.WriteResult]]:
    """Return what is to be stored, and a result for each message."""
    parsed, results = [], []
    for i, message in enumerate(messages):
        try:
            parsed.append(parse(message, f"{field}[{i}]"))
            results.append(catalog_pb2.WriteResult(stored=True))
        except InvalidRequest as error:
            results.append(catalog_pb2.WriteResult(violation=_violation(error.violations[0])))
    return parsed, results


def _violation(violation: FieldViolation) -> degradation_pb2.FieldViolation:
    return degradation_pb2.FieldViolation(field=violation.field, description=violation.description)


def _of_bundle(catalog: Catalog, item_id: str) -> LiveItem | None:
    row = catalog.row_of.get(item_id)
    if row is None:
        return None
    codes = {name: values for name, column in catalog.codes.items() if (values := column.values(row))}
    numbers = {name: float(column[row]) for name, column in catalog.numbers.items() if not math.isnan(column[row])}
    return LiveItem(item_id, catalog.titles[row], "", codes, numbers)


def _message(item: LiveItem, catalog: Catalog) -> catalog_pb2.Item:
    message = catalog_pb2.Item(
        item_id=item.item_id,
        title=item.title,
        text=item.text,
        categories=item.codes.get("categories", ()),
        creator=next(iter(item.codes.get("creator", ())), ""),
        price=item.numbers.get("price"),
    )
    if (created := item.numbers.get("created_at")) is not None:
        message.created.FromMilliseconds(round(created * 1000))
    for name, values in item.codes.items():
        if name not in _OWN_FIELDS:
            message.attributes.append(_attribute(name, values, catalog))
    for name, number in item.numbers.items():
        if name not in _OWN_FIELDS:
            message.attributes.append(attribute_pb2.Attribute(name=name, number_value=number))
    return message


def _attribute(name: str, values: Sequence[str], catalog: Catalog) -> attribute_pb2.Attribute:
    column = catalog.codes.get(name)
    if len(values) == 1 and (column is None or column.codes.shape[1] == 1):
        return attribute_pb2.Attribute(name=name, string_value=values[0])
    return attribute_pb2.Attribute(name=name, strings_value=attribute_pb2.StringList(values=values))
