"""One suite over the stubs and the real services: events, catalogue, bundles, explanations and states.

What a caller's tests meet at a stub must be what its program meets at the service: outcomes, statuses and the fields
that refusals name. `test_bad_requests.py` and `test_vectors.py` do the same for lists and vectors.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tandem.admin.v1 import bundle_pb2, bundle_pb2_grpc
from tandem.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tandem.common.v1 import degradation_pb2, filter_pb2
from tandem.events.v1 import events_pb2, events_pb2_grpc
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.bundle import Bundle
from tandem_core.grpc_admin import BundleServicer
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.live.encoder import ItemEncoder
from tandem_core.registry import Registry
from tandem_core.serving_bundles import ServingBundles
from tandem_core.stores.live_sqlite import SqliteLiveStore
from tandem_core.stores.sqlite import SqliteStore
from tandem_ranking.writer.catalog_servicer import CatalogServicer
from tandem_ranking.writer.event_servicer import EventServicer
from tandem_testing import StubBundles, StubCatalog, StubEvents, StubRanking, StubRetrieval, serve

Refused = Callable[..., Any]
STORED, DUPLICATE, REFUSED = 1, 2, 3
NOW_S = int(time.time())
DAY_S = 86_400
INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
BUNDLES = ("b1", "b2", "b3")


@pytest.fixture(scope="module", params=["service", "stub"])
def channel(
    request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[grpc.Channel]:
    """All services on one address: the real ones over a fresh store, or the stubs with the same catalogue."""
    if request.param == "stub":
        item_ids = bundle.catalog.item_ids
        ranking, retrieval = StubRanking(item_ids, "newer"), StubRetrieval(item_ids, "newer")
        with serve(ranking, retrieval, StubEvents(), StubCatalog(item_ids), StubBundles(BUNDLES[::-1])) as running:
            yield running.channel
        return
    path = tmp_path_factory.mktemp("written") / "store.db"
    users = SqliteStore(path)
    registry: Registry = request.getfixturevalue("three_bundles")
    encoders = ServingBundles(registry, lambda bundle_id: ItemEncoder.load(registry.path_of(bundle_id)))
    assert encoders.refresh()
    with serve(
        request.getfixturevalue("ranking_servicer"),
        request.getfixturevalue("retrieval_servicer"),
        EventServicer(users),
        CatalogServicer(encoders, SqliteLiveStore(path), users),
        BundleServicer(registry, lambda: None),
        interceptors=[ErrorInterceptor()],
    ) as running:
        yield running.channel
    users.close()


@pytest.fixture(scope="module")
def three_bundles(publish_copy: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry where the newest of three is current, and the one before it was so before."""
    registry = Registry(tmp_path_factory.mktemp("three-bundles"))
    for bundle_id in BUNDLES:
        publish_copy(registry, bundle_id)
    return registry


@pytest.fixture
def events(channel: grpc.Channel) -> events_pb2_grpc.EventServiceStub:
    return events_pb2_grpc.EventServiceStub(channel)


@pytest.fixture
def catalog(channel: grpc.Channel) -> catalog_pb2_grpc.CatalogServiceStub:
    return catalog_pb2_grpc.CatalogServiceStub(channel)


@pytest.fixture
def bundles(channel: grpc.Channel) -> bundle_pb2_grpc.BundleServiceStub:
    return bundle_pb2_grpc.BundleServiceStub(channel)


@pytest.fixture
def ranking(channel: grpc.Channel) -> ranking_pb2_grpc.RankingServiceStub:
    return ranking_pb2_grpc.RankingServiceStub(channel)


@pytest.fixture
def retrieval(channel: grpc.Channel) -> retrieval_pb2_grpc.RetrievalServiceStub:
    return retrieval_pb2_grpc.RetrievalServiceStub(channel)


# --- events


def event(**fields: Any) -> events_pb2.Event:
    return events_pb2.Event(**{"user_id": "ann", "item_id": "i1", "event_type": "click", **fields})


def write(events: Any, *given: events_pb2.Event) -> list[int]:
    answer = events.WriteEvents(events_pb2.WriteEventsRequest(events=given), timeout=60)
    return [result.outcome for result in answer.results]


def test_an_insert_id_is_stored_once_in_a_batch_and_over_batches(events: Any) -> None:
    assert write(events, event(insert_id="once-x"), event(insert_id="once-x")) == [STORED, DUPLICATE]
    assert write(events, event(insert_id="once-x"), event(insert_id="once-y")) == [DUPLICATE, STORED]
    assert write(events, event(insert_id="once-x", user_id="bob")) == [DUPLICATE]
    assert write(events, event(), event()) == [STORED, STORED]


WRONG_EVENTS: list[tuple[str, dict[str, Any]]] = [
    ("insert_id", {"insert_id": "x" * 129}),
    ("user_id", {"user_id": ""}),
    ("user_id", {"user_id": "u" * 257}),
    ("item_id", {"item_id": ""}),
    ("item_id", {"item_id": "i" * 257}),
    ("event_type", {"event_type": ""}),
    ("event_type", {"event_type": "t" * 65}),
    ("timestamp", {"timestamp": {"seconds": -1}}),
    ("timestamp", {"timestamp": {"seconds": NOW_S + DAY_S + 3600}}),
    ("timestamp", {"timestamp": {"seconds": 2**60}}),
    ("timestamp", {"timestamp": {"seconds": 5, "nanos": -7}}),
    ("value", {"value": math.nan}),
    ("value", {"value": math.inf}),
    ("value", {"value": 1.1e9}),
    ("value", {"value": -1.1e9}),
    ("decision_id", {"decision_id": "d" * 129}),
    ("position", {"position": -1}),
    ("session_id", {"session_id": "s" * 257}),
    ("context", {"context": [{"name": "n", "string_value": ""}] * 65}),
    ("context[0].name", {"context": [{"string_value": "tv"}]}),
    ("context[1].value", {"context": [{"name": "device", "string_value": "tv"}, {"name": "app"}]}),
    ("context[0].string_value", {"context": [{"name": "device", "string_value": "v" * 257}]}),
]


@pytest.mark.parametrize(("field", "wrong"), WRONG_EVENTS)
def test_an_event_that_is_wrong_is_refused_alone(events: Any, field: str, wrong: dict[str, Any]) -> None:
    batch = [event(), event(**wrong), event(timestamp={"seconds": NOW_S + 60})]
    results = events.WriteEvents(events_pb2.WriteEventsRequest(events=batch)).results
    assert [result.outcome for result in results] == [STORED, REFUSED, STORED]
    assert results[1].violation.field == f"events[1].{field}"
    assert results[1].violation.description


def test_the_longest_allowed_are_taken(events: Any) -> None:
    longest = event(
        insert_id="x" * 128,
        user_id="u" * 256,
        item_id="i" * 256,
        event_type="t" * 64,
        decision_id="d" * 128,
        session_id="s" * 256,
        context=[{"name": "n" * 64, "string_value": "v" * 256}] * 64,
        timestamp={"seconds": NOW_S + DAY_S - 3600},
    )
    assert write(events, longest, event(timestamp={"seconds": 0})) == [STORED, STORED]
    assert write(events, *[event(insert_id=f"many-{i}") for i in range(1000)]) == [STORED] * 1000


@pytest.mark.parametrize("number", [0, 1001])
def test_a_batch_of_events_of_a_wrong_size_is_a_bad_request(events: Any, refused: Refused, number: int) -> None:
    bad = refused(events.WriteEvents, events_pb2.WriteEventsRequest(events=[event()] * number))
    assert (bad.code, set(bad.violations), bad.reason) == (INVALID, {"events"}, "")


def test_forgetting_deletes_gives_a_receipt_and_keeps_out_what_comes_late(events: Any) -> None:
    own = [event(user_id="cleo", insert_id="cleo-1"), event(user_id="cleo")]
    write(events, *own, event(user_id="cleo", event_type="impression"), event(user_id="dora"))
    receipt = events.ForgetUser(events_pb2.ForgetUserRequest(user_id="cleo"))
    assert (receipt.deleted_events, receipt.deleted_impressions, receipt.deleted_decisions) == (2, 1, 0)
    assert receipt.receipt_id
    assert abs(receipt.forgotten.ToSeconds() - time.time()) < 3600
    again = events.ForgetUser(events_pb2.ForgetUserRequest(user_id="cleo"))
    assert (again.deleted_events, again.deleted_impressions) == (0, 0)
    assert again.receipt_id != receipt.receipt_id
    late = events.WriteEvents(
        events_pb2.WriteEventsRequest(events=[event(user_id="cleo", timestamp={"seconds": 5}), *own])
    ).results
    assert [result.outcome for result in late] == [REFUSED, STORED, STORED]
    assert late[0].violation.field == "events[0].timestamp"
    assert events.ForgetUser(events_pb2.ForgetUserRequest(user_id="never heard of")).deleted_events == 0


@pytest.mark.parametrize("user_id", ["", "u" * 257])
def test_nobody_in_particular_cannot_be_forgotten(events: Any, refused: Refused, user_id: str) -> None:
    bad = refused(events.ForgetUser, events_pb2.ForgetUserRequest(user_id=user_id))
    assert (bad.code, set(bad.violations)) == (INVALID, {"user_id"})


# --- catalogue


def texts(n: int) -> list[dict[str, str]]:
    return [{"name": f"a{i}", "string_value": "v"} for i in range(n)]


WRONG_ITEMS: list[tuple[str, dict[str, Any]]] = [
    ("item_id", {"item_id": ""}),
    ("item_id", {"item_id": "i" * 257}),
    ("title", {"title": "t" * 1001}),
    ("text", {"text": "t" * 20_001}),
    ("categories", {"categories": ["c"] * 65}),
    ("categories[1]", {"categories": ["c", ""]}),
    ("categories[0]", {"categories": ["c" * 257]}),
    ("creator", {"creator": "c" * 257}),
    ("created", {"created": {"seconds": 2**60}}),
    ("price", {"price": -0.01}),
    ("price", {"price": math.nan}),
    ("price", {"price": math.inf}),
    ("attributes", {"attributes": texts(65)}),
    *(
        ("attributes[0].name", {"attributes": [{"name": name, "string_value": "v"}]})
        for name in ("categories", "creator", "created_at", "price")
    ),
]
WRONG_USERS: list[tuple[str, dict[str, Any]]] = [
    ("user_id", {"user_id": ""}),
    ("user_id", {"user_id": "u" * 257}),
    ("attributes", {"attributes": texts(65)}),
    ("attributes[0].name", {"attributes": [{"string_value": "v"}]}),
    ("attributes[0].name", {"attributes": [{"name": "n" * 65, "string_value": "v"}]}),
    ("attributes[1].value", {"attributes": [*texts(1), {"name": "empty"}]}),
    ("attributes[0].string_value", {"attributes": [{"name": "a", "string_value": "v" * 257}]}),
    ("attributes[0].number_value", {"attributes": [{"name": "a", "number_value": math.nan}]}),
    ("attributes[0].strings_value", {"attributes": [{"name": "a", "strings_value": {"values": ["v"] * 65}}]}),
    ("attributes[0].strings_value", {"attributes": [{"name": "a", "strings_value": {"values": ["v" * 257]}}]}),
]


@pytest.mark.parametrize(("field", "wrong"), WRONG_ITEMS)
def test_an_item_that_is_wrong_is_refused_alone(catalog: Any, field: str, wrong: dict[str, Any]) -> None:
    items: Any = [{"item_id": "right"}, {"item_id": "wrong"} | wrong, {"item_id": "right-2"}]
    results = catalog.UpsertItems(catalog_pb2.UpsertItemsRequest(items=items)).results
    assert [result.stored for result in results] == [True, False, True]
    assert results[1].violation.field == f"items[1].{field}"
    assert results[1].violation.description


@pytest.mark.parametrize(("field", "wrong"), WRONG_USERS)
def test_a_user_that_is_wrong_is_refused_alone(catalog: Any, field: str, wrong: dict[str, Any]) -> None:
    users: Any = [{"user_id": "right"}, {"user_id": "wrong"} | wrong, {"user_id": "right-2"}]
    results = catalog.UpsertUsers(catalog_pb2.UpsertUsersRequest(users=users)).results
    assert [result.stored for result in results] == [True, False, True]
    assert results[1].violation.field == f"users[1].{field}"


def test_an_item_is_given_back_as_it_was_stored_until_it_is_deleted(catalog: Any, refused: Refused) -> None:
    first = catalog_pb2.Item(item_id="whole", title="t" * 1000, text="T", categories=["b", "a"], creator="Me", price=0)
    first.created.FromMilliseconds(1_700_000_000_123)
    second = catalog_pb2.Item(item_id="whole", title="The last of one id counts")

    def get() -> Any:
        return catalog.GetItem(catalog_pb2.GetItemRequest(item_id="whole")).item

    assert catalog.UpsertItems(catalog_pb2.UpsertItemsRequest(items=[first])).results[0].stored
    assert get() == first
    catalog.UpsertItems(catalog_pb2.UpsertItemsRequest(items=[first, second]))
    assert get() == second
    deletion = catalog_pb2.DeleteItemsRequest(item_ids=["whole", "", "unknown", "i" * 257])
    results = catalog.DeleteItems(deletion).results
    assert [result.stored for result in results] == [True, False, True, False]
    assert [result.violation.field for result in results] == ["", "item_ids[1]", "", "item_ids[3]"]
    bad = refused(catalog.GetItem, catalog_pb2.GetItemRequest(item_id="whole"))
    assert (bad.code, bad.violations, bad.reason) == (MISSING, {}, "")
    assert "'whole'" in bad.message


def test_an_item_of_the_bundle_is_there_until_it_is_deleted(catalog: Any, refused: Refused) -> None:
    asked = catalog_pb2.GetItemRequest(item_id="i077")
    item = catalog.GetItem(asked).item
    assert item.item_id == "i077"
    assert item.title
    assert not item.text
    catalog.DeleteItems(catalog_pb2.DeleteItemsRequest(item_ids=["i077"]))
    assert refused(catalog.GetItem, asked).code is MISSING
    catalog.UpsertItems(catalog_pb2.UpsertItemsRequest(items=[item]))
    assert catalog.GetItem(asked).item.item_id == "i077"


@pytest.mark.parametrize("item_id", ["", "i" * 257])
def test_an_item_must_be_named_to_be_read(catalog: Any, refused: Refused, item_id: str) -> None:
    bad = refused(catalog.GetItem, catalog_pb2.GetItemRequest(item_id=item_id))
    assert (bad.code, set(bad.violations)) == (INVALID, {"item_id"})


@pytest.mark.parametrize("count", [0, 501])
def test_too_much_or_nothing_at_once_is_refused(catalog: Any, refused: Refused, count: int) -> None:
    for call, request, field in (
        (catalog.UpsertItems, catalog_pb2.UpsertItemsRequest(items=[catalog_pb2.Item(item_id="i")] * count), "items"),
        (catalog.DeleteItems, catalog_pb2.DeleteItemsRequest(item_ids=["i"] * count), "item_ids"),
        (catalog.UpsertUsers, catalog_pb2.UpsertUsersRequest(users=[catalog_pb2.User(user_id="u")] * count), "users"),
    ):
        bad = refused(call, request)
        assert (bad.code, bad.violations) == (INVALID, {field: f"has {count} entries, 1 to 500 are allowed"})


# --- bundles


def test_bundles_are_listed_newest_first_by_page_and_one_is_current(bundles: Any) -> None:
    everything = bundles.ListBundles(bundle_pb2.ListBundlesRequest())
    assert [each.bundle_id for each in everything.bundles] == ["b3", "b2", "b1"]
    assert [each.current for each in everything.bundles] == [True, False, False]
    assert not everything.next_page_token
    assert all(each.size_bytes > 0 and each.created.seconds > 0 for each in everything.bundles)
    token, seen = "", []
    for _ in range(3):
        page = bundles.ListBundles(bundle_pb2.ListBundlesRequest(page_size=1, page_token=token))
        seen += [each.bundle_id for each in page.bundles]
        token = page.next_page_token
    assert (seen, token) == (["b3", "b2", "b1"], "")


def test_a_bundle_is_activated_and_taken_back(bundles: Any, refused: Refused) -> None:
    def current() -> list[str]:
        listed = bundles.ListBundles(bundle_pb2.ListBundlesRequest()).bundles
        return [each.bundle_id for each in listed if each.current]

    assert bundles.RollbackBundle(bundle_pb2.RollbackBundleRequest()).bundle_id == "b2"
    assert bundles.RollbackBundle(bundle_pb2.RollbackBundleRequest()).bundle_id == "b3"
    activate = bundle_pb2.ActivateBundleRequest
    assert bundles.ActivateBundle(activate(bundle_id="b1")).previous_bundle_id == "b3"
    assert bundles.ActivateBundle(activate(bundle_id="b1")).previous_bundle_id == "b1"
    assert current() == ["b1"]
    assert bundles.RollbackBundle(bundle_pb2.RollbackBundleRequest()).bundle_id == "b3"
    for unknown in ("b9", "../b3", "b" * 129):
        bad = refused(bundles.ActivateBundle, activate(bundle_id=unknown))
        assert (bad.code, bad.violations, bad.reason) == (MISSING, {}, "")
    assert current() == ["b3"]


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("ListBundles", bundle_pb2.ListBundlesRequest(page_size=-1), "page_size"),
        ("ListBundles", bundle_pb2.ListBundlesRequest(page_size=201), "page_size"),
        ("ListBundles", bundle_pb2.ListBundlesRequest(page_token="no page"), "page_token"),  # noqa: S106
        ("ActivateBundle", bundle_pb2.ActivateBundleRequest(), "bundle_id"),
    ],
)
def test_what_is_wrong_with_a_request_for_bundles_is_named(
    bundles: Any, refused: Refused, method: str, request_: Any, field: str
) -> None:
    bad = refused(getattr(bundles, method), request_)
    assert (bad.code, set(bad.violations)) == (INVALID, {field})


def test_where_no_bundle_was_before_there_is_none_to_go_back_to(
    refused: Refused, tmp_path: Path, publish_copy: Callable[..., Path]
) -> None:
    registry = Registry(tmp_path)
    publish_copy(registry, "only")
    for servicer in (StubBundles(["only"]), BundleServicer(registry, pytest.fail)):
        with serve(servicer, interceptors=[ErrorInterceptor()]) as running:
            stub = bundle_pb2_grpc.BundleServiceStub(running.channel)
            assert refused(stub.RollbackBundle, bundle_pb2.RollbackBundleRequest()).code is MISSING


# --- explanations, batches, states


def asking(**fields: Any) -> ranking_pb2.RecommendRequest:
    context = {"request_id": "same", "user_id": "warm", "event_time": {"seconds": 1_752_000_000}}
    return ranking_pb2.RecommendRequest(context=context | fields.pop("context", {}), max_results=10, **fields)


def explain(ranking: Any, item_id: str, request: ranking_pb2.RecommendRequest) -> ranking_pb2.ExplainItemResponse:
    answer: ranking_pb2.ExplainItemResponse = ranking.ExplainItem(
        ranking_pb2.ExplainItemRequest(request=request, item_id=item_id)
    )
    return answer


def test_an_explanation_agrees_with_the_list(ranking: Any) -> None:
    request = asking()
    response = ranking.Recommend(request)
    for item in response.items[:3]:
        found = explain(ranking, item.item_id, request)
        assert (found.position, found.lost_at, found.bundle_id) == (item.position, "", response.bundle_id)
        assert found.parts[-1].position_after == item.position
    shown = {item.item_id for item in response.items}
    others = itertools.islice((item_id for item_id in (f"i{i:03}" for i in range(1, 301)) if item_id not in shown), 3)
    for item_id in others:
        found = explain(ranking, item_id, request)
        assert found.position == 0
        assert found.lost_at.partition(":")[0] in ("filter", "policy", "source", "merge", "rule", "score")


def test_an_explanation_names_what_the_request_took_out(ranking: Any) -> None:
    assert explain(ranking, "i005", asking(exclude_item_ids=["i005"])).lost_at == "filter:exclude_item_ids"
    just_seen = {"recent_events": [{"item_id": "i006", "event_type": "click"}]}
    assert explain(ranking, "i006", asking(context=just_seen)).lost_at == "filter:seen"


@pytest.mark.parametrize("item_id", ["", "i" * 257])
def test_an_explanation_needs_an_item(ranking: Any, refused: Refused, item_id: str) -> None:
    bad = refused(ranking.ExplainItem, ranking_pb2.ExplainItemRequest(request=asking(), item_id=item_id))
    assert (bad.code, set(bad.violations)) == (INVALID, {"item_id"})


def test_an_explanation_refuses_a_wrong_request_before_it_misses_the_item(ranking: Any, refused: Refused) -> None:
    wrong = asking()
    wrong.max_results = 501
    wrong.context.user_id = "u" * 257
    bad = refused(ranking.ExplainItem, ranking_pb2.ExplainItemRequest(request=wrong, item_id="unheard-of"))
    assert (bad.code, set(bad.violations)) == (INVALID, {"max_results", "context.user_id"})
    bad = refused(ranking.ExplainItem, ranking_pb2.ExplainItemRequest(request=asking(), item_id="unheard-of"))
    assert (bad.code, bad.violations) == (MISSING, {})


SIMILAR: list[tuple[str, dict[str, Any]]] = [
    ("filter.condition", {"filter": {}}),
    ("filter.in_range", {"filter": {"in_range": {"column": "price"}}}),
    ("filter.in_set.values", {"filter": {"in_set": {"column": "creator"}}}),
    ("max_results", {"max_results": 501}),
]


@pytest.mark.parametrize(("field", "fields"), SIMILAR)
def test_what_is_wrong_is_named_before_an_unknown_item_is_missed(
    retrieval: Any, refused: Refused, field: str, fields: dict[str, Any]
) -> None:
    bad = refused(retrieval.SimilarItems, retrieval_pb2.SimilarItemsRequest(item_ids=["lost"], **fields))
    assert (bad.code, set(bad.violations)) == (INVALID, {field})


@pytest.mark.parametrize("number", [0, 65])
def test_a_batch_of_requests_of_a_wrong_size_is_refused(
    ranking: Any, retrieval: Any, refused: Refused, number: int
) -> None:
    for call, request in (
        (ranking.BatchRecommend, ranking_pb2.BatchRecommendRequest(requests=[asking()] * number)),
        (
            retrieval.BatchRetrieve,
            retrieval_pb2.BatchRetrieveRequest(requests=[retrieval_pb2.RetrieveRequest()] * number),
        ),
    ):
        bad = refused(call, request)
        assert (bad.code, set(bad.violations)) == (INVALID, {"requests"})


def test_what_is_wrong_with_one_request_of_a_batch_is_no_error_of_the_others(ranking: Any, retrieval: Any) -> None:
    many = ranking_pb2.BatchRecommendRequest(requests=[asking(), asking(fill_policy=99), asking()])
    few = retrieval_pb2.RetrieveRequest(max_candidates=-1)
    unloaded = retrieval_pb2.RetrieveRequest(acceptable_bundle_ids=["gone"])
    some = retrieval_pb2.BatchRetrieveRequest(requests=[retrieval_pb2.RetrieveRequest(), few, unloaded])
    slates = ranking.BatchRecommend(many).results
    lists = retrieval.BatchRetrieve(some).results
    assert [each.WhichOneof("outcome") for each in slates] == ["response", "error", "response"]
    assert [each.WhichOneof("outcome") for each in lists] == ["response", "error", "error"]
    codes = [each.error.code for each in (slates[1], lists[1], lists[2])]
    assert codes == [code.value[0] for code in (INVALID, INVALID, grpc.StatusCode.FAILED_PRECONDITION)]
    assert [violation.field for violation in slates[1].error.field_violations] == ["fill_policy"]
    assert [violation.field for violation in lists[1].error.field_violations] == ["max_candidates"]


def test_a_bundle_that_is_not_loaded_is_a_mismatch(ranking: Any, retrieval: Any, refused: Refused) -> None:
    rows: Any = {"rows": [1, 2], "bundle_id": "gone"}
    for call, request in (
        (ranking.Rank, ranking_pb2.RankRequest(candidates=rows)),
        (retrieval.Retrieve, retrieval_pb2.RetrieveRequest(acceptable_bundle_ids=["gone"])),
    ):
        bad = refused(call, request)
        assert bad.code is grpc.StatusCode.FAILED_PRECONDITION
        assert (bad.reason, bad.domain) == ("BUNDLE_MISMATCH", "tandem")


def test_a_dummy_is_declared_and_checked_as_the_real_thing(ranking: Any, retrieval: Any, refused: Refused) -> None:
    candidates: Any = {"item_ids": ["i001", "unheard-of", "i002"]}
    asked = ranking_pb2.RankRequest(candidates=candidates, validate_only=True)
    ranked = ranking.Rank(asked)
    assert {item.item_id for item in ranked.items} == {"i001", "i002"}
    assert list(ranked.unknown_item_ids) == ["unheard-of"]
    for response in (
        ranked,
        ranking.Recommend(asking(validate_only=True)),
        retrieval.Retrieve(retrieval_pb2.RetrieveRequest(validate_only=True)),
    ):
        kinds = [degradation.kind for degradation in response.degradations]
        assert kinds.count(degradation_pb2.DEGRADATION_KIND_VALIDATE_ONLY) == 1
    wrong = asking(validate_only=True, seen_policy=filter_pb2.SeenPolicy(interacted=99))  # type: ignore[arg-type]
    assert set(refused(ranking.Recommend, wrong).violations) == {"seen_policy.interacted"}


def test_the_serving_state_names_the_bundle_that_answers(ranking: Any, retrieval: Any) -> None:
    of_ranking = ranking.GetServingState(ranking_pb2.GetServingStateRequest())
    of_retrieval = retrieval.GetServingState(retrieval_pb2.GetServingStateRequest())
    for state in (of_ranking.state, of_retrieval.state):
        assert state.serving
        assert state.bundle_id == ranking.Recommend(asking()).bundle_id
        assert state.catalogue_size == 300
        assert state.bundle_created.seconds > 0
        assert state.started.seconds > 0
    assert "default" in of_ranking.placements
    assert of_ranking.retrieval_connection
    assert {"two_tower", "popularity"} <= set(of_retrieval.sources)
