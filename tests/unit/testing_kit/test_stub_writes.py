"""StubEvents, StubCatalog and StubBundles through a real socket; StubRanking's explanations."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem_testing import StubBundles, StubCatalog, StubEvents, serve
from tandem_testing.plugin import StubServer

OUTCOMES = events_pb2.EventOutcome


def event(**fields: Any) -> events_pb2.Event:
    return events_pb2.Event(**{"user_id": "ann", "item_id": "shoe", "event_type": "click", **fields})


def write(served: StubServer[StubEvents], *events: events_pb2.Event) -> list[str]:
    answer = events_pb2_grpc.EventServiceStub(served.channel).WriteEvents(events_pb2.WriteEventsRequest(events=events))
    return [OUTCOMES.Name(result.outcome).removeprefix("EVENT_OUTCOME_") for result in answer.results]


def test_an_event_is_stored_once_by_its_insert_id(tandem_events_stub: StubServer[StubEvents]) -> None:
    assert write(tandem_events_stub, event(insert_id="a"), event(insert_id="a"), event(), event()) == [
        "STORED",
        "DUPLICATE",
        "STORED",
        "STORED",
    ]
    assert write(tandem_events_stub, event(insert_id="a")) == ["DUPLICATE"]
    assert len(tandem_events_stub.stub.events) == 3
    assert all(each.HasField("timestamp") for each in tandem_events_stub.stub.events)


def test_a_failing_store_keeps_nothing_and_reset_forgets(tandem_events_stub: StubServer[StubEvents]) -> None:
    tandem_events_stub.stub.fail(grpc.StatusCode.UNAVAILABLE, times=1)
    with pytest.raises(grpc.RpcError):
        write(tandem_events_stub, event())
    assert not tandem_events_stub.stub.events
    write(tandem_events_stub, event())
    tandem_events_stub.stub.reset()
    assert not tandem_events_stub.stub.events


def test_a_forgotten_user_has_no_events_and_a_receipt(tandem_events_stub: StubServer[StubEvents]) -> None:
    write(tandem_events_stub, event(), event(), event(user_id="bob"))
    answer = events_pb2_grpc.EventServiceStub(tandem_events_stub.channel).ForgetUser(
        events_pb2.ForgetUserRequest(user_id="ann")
    )
    assert answer.deleted_events == 2
    assert answer.receipt_id
    assert {each.user_id for each in tandem_events_stub.stub.events} == {"bob"}


def test_items_are_stored_read_and_deleted(tandem_catalog_stub: StubServer[StubCatalog]) -> None:
    catalog = catalog_pb2_grpc.CatalogServiceStub(tandem_catalog_stub.channel)
    items = [{"item_id": "shoe", "title": "A shoe"}, {"item_id": "", "title": "none"}, {"item_id": "hat", "price": -1}]
    results = catalog.UpsertItems(catalog_pb2.UpsertItemsRequest(items=items)).results  # type: ignore[arg-type]
    assert [(r.stored, r.violation.field) for r in results] == [
        (True, ""),
        (False, "items[1].item_id"),
        (False, "items[2].price"),
    ]
    assert catalog.GetItem(catalog_pb2.GetItemRequest(item_id="shoe")).item.title == "A shoe"
    assert catalog.DeleteItems(catalog_pb2.DeleteItemsRequest(item_ids=["shoe", "unknown"])).results[1].stored
    assert not tandem_catalog_stub.stub.items
    with pytest.raises(grpc.RpcError) as caught:
        catalog.GetItem(catalog_pb2.GetItemRequest(item_id="shoe"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_users_are_stored(tandem_catalog_stub: StubServer[StubCatalog]) -> None:
    catalog = catalog_pb2_grpc.CatalogServiceStub(tandem_catalog_stub.channel)
    users = [{"user_id": "ann", "attributes": [{"name": "country", "string_value": "DE"}]}]
    assert catalog.UpsertUsers(catalog_pb2.UpsertUsersRequest(users=users)).results[0].stored  # type: ignore[arg-type]
    assert tandem_catalog_stub.stub.users["ann"].attributes[0].string_value == "DE"


def test_bundles_are_listed_by_page_activated_and_rolled_back() -> None:
    stub = StubBundles(["b3", "b2", "b1"])
    with serve(stub) as running:
        bundles = bundle_pb2_grpc.BundleServiceStub(running.channel)
        first = bundles.ListBundles(bundle_pb2.ListBundlesRequest(page_size=2))
        rest = bundles.ListBundles(bundle_pb2.ListBundlesRequest(page_size=2, page_token=first.next_page_token))
        assert [b.bundle_id for b in (*first.bundles, *rest.bundles)] == ["b3", "b2", "b1"]
        assert not rest.next_page_token
        assert bundles.ActivateBundle(bundle_pb2.ActivateBundleRequest(bundle_id="b1")).previous_bundle_id == "b3"
        assert stub.current == "b1"
        assert bundles.RollbackBundle(bundle_pb2.RollbackBundleRequest()).bundle_id == "b3"
        with pytest.raises(grpc.RpcError) as caught:
            bundles.ActivateBundle(bundle_pb2.ActivateBundleRequest(bundle_id="b9"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
