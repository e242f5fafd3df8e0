"""SimilarItems and GetEmbeddings over a real socket: what their protos promise, of the service and of the stub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from tandem.common.v1 import filter_pb2
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.bundle import Bundle, load_bundle
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.serving_bundles import ServingBundles
from tandem_core.stores.base import StoredUser, StoreUnavailable
from tandem_core.stores.sqlite import SqliteStore
from tandem_retrieval.servicer import RetrievalServicer
from tandem_testing import StubRetrieval, assert_valid_embeddings, assert_valid_similar_items, serve

Stub = retrieval_pb2_grpc.RetrievalServiceStub
Similar = retrieval_pb2.SimilarItemsRequest
Embeddings = retrieval_pb2.GetEmbeddingsRequest
Refused = Callable[..., Any]


@pytest.fixture(scope="module")
def real(retrieval_servicer: Any) -> Iterator[Stub]:
    with serve(retrieval_servicer, interceptors=[ErrorInterceptor()]) as running:
        yield Stub(running.channel)


@pytest.fixture(scope="module", params=["service", "stub"])
def client(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Stub]:
    """The real service and the stub, with the same catalogue."""
    if request.param == "service":
        yield request.getfixturevalue("real")
        return
    with serve(StubRetrieval(bundle.catalog.item_ids, "newer")) as running:
        yield Stub(running.channel)


def ids(n: int, start: int = 1) -> list[str]:
    """Return n items of the catalogue."""
    return [f"i{i:03}" for i in range(start, start + n)]


@pytest.mark.parametrize("item_ids", [ids(1), ["i020", "i003", "i020"], ids(50), ["i007"] * 50], ids=len)
@pytest.mark.parametrize(("max_results", "most"), [(0, 20), (1, 1), (20, 20), (500, 500)])
def test_similar_items_keeps_every_promise(client: Stub, item_ids: list[str], max_results: int, most: int) -> None:
    request = Similar(item_ids=item_ids, max_results=max_results)
    response = client.SimilarItems(request)
    assert_valid_similar_items(response, request)
    assert response.bundle_id == response.candidates.bundle_id == "newer"
    assert len(response.candidates.item_ids) == min(most, 300 - len(set(item_ids)))
    (column,) = response.candidates.source_columns
    assert list(column.ranks) == list(range(1, len(column.ranks) + 1))
    assert column.scores == response.candidates.scores


def test_neither_order_nor_repetition_of_the_items_matters(client: Stub) -> None:
    one = client.SimilarItems(Similar(item_ids=["i001", "i002", "i050"]))
    assert one == client.SimilarItems(Similar(item_ids=["i050", "i001", "i002", "i001", "i001"]))


@pytest.mark.parametrize("item_ids", [["i007"], ["i007", "i100", "i200"]])
def test_similar_items_are_the_ones_whose_vectors_are_near(client: Stub, bundle: Bundle, item_ids: list[str]) -> None:
    everything = client.GetEmbeddings(Embeddings(item_ids=bundle.catalog.item_ids)).items
    vectors = np.array([item.values for item in everything], np.float64)
    rows = bundle.catalog.rows(item_ids)
    mean = vectors[rows].mean(axis=0)
    cosine = vectors @ mean / np.linalg.norm(mean)
    expected = np.argsort(-cosine, kind="stable")
    expected = expected[~np.isin(expected, rows)]
    found = client.SimilarItems(Similar(item_ids=item_ids, max_results=500)).candidates
    np.testing.assert_allclose(found.scores, cosine[expected], atol=1e-5)
    np.testing.assert_allclose(found.scores, cosine[bundle.catalog.rows(found.item_ids)], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "item_ids"),
        ({"item_ids": ids(51)}, "item_ids"),
        ({"item_ids": ["i001"] * 51}, "item_ids"),
        ({"item_ids": ["i001", ""]}, "item_ids[1]"),
        ({"item_ids": ["i" * 257]}, "item_ids[0]"),
        ({"item_ids": ["i001"], "max_results": -1}, "max_results"),
        ({"item_ids": ["i001"], "max_results": 501}, "max_results"),
    ],
)
def test_what_is_wrong_with_a_request_for_similar_items_is_named(
    client: Stub, refused: Refused, fields: dict[str, Any], field: str
) -> None:
    got = refused(client.SimilarItems, Similar(**fields))
    assert got.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(got.violations) == {field}


def test_an_unknown_item_is_not_found_and_named(client: Stub, refused: Refused) -> None:
    got = refused(client.SimilarItems, Similar(item_ids=["i001", "lost"]))
    assert got.code is grpc.StatusCode.NOT_FOUND
    assert "'lost'" in got.message


@pytest.mark.parametrize("character", ["x", "\U0001f600", "\U0010ffff"])
def test_fifty_unknown_items_of_the_longest_names_are_not_found_and_no_other_error(
    real: Stub, refused: Refused, character: str
) -> None:
    got = refused(real.SimilarItems, Similar(item_ids=[character * 255 + str(i % 10) for i in range(50)]))
    assert got.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ({"in_range": {"column": "price", "max": 10}}, lambda bundle: bundle.catalog.numbers["price"] <= 10),
        (
            {"in_set": {"column": "item_id", "values": {"values": ids(5, 101)}}},
            lambda bundle: np.isin(bundle.catalog.item_ids, ids(5, 101)),
        ),
        ({"in_range": {"column": "price", "max": -1}}, lambda bundle: np.zeros(300, np.bool_)),
    ],
)
def test_a_filter_holds_for_every_item_and_never_makes_the_list_short(
    real: Stub, bundle: Bundle, condition: dict[str, Any], matches: Callable[[Bundle], Any]
) -> None:
    request = Similar(item_ids=["i102", "i007"], max_results=500, filter=condition)
    response = real.SimilarItems(request)
    assert_valid_similar_items(response, request)
    matching = {bundle.catalog.item_ids[row] for row in np.flatnonzero(matches(bundle))}
    assert set(response.candidates.item_ids) == matching - {"i102", "i007"}


def test_a_wrong_filter_is_named_before_an_unknown_item(real: Stub, refused: Refused) -> None:
    got = refused(real.SimilarItems, Similar(item_ids=["lost"], filter={"exists": {"column": "colour"}}))
    assert got.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(got.violations) == {"filter.exists.column"}
    both = Similar(item_ids=[""], max_results=-1, filter={"in_range": {"column": "price"}})
    violations = refused(real.SimilarItems, both).violations
    assert set(violations) == {"item_ids[0]", "max_results", "filter.in_range"}


@pytest.mark.parametrize(
    "request_",
    [
        Embeddings(),
        Embeddings(item_ids=["i003", "lost", "i001", "i003"]),
        Embeddings(item_ids=["lost"]),
        Embeddings(users=[{"user_id": "warm"}, {}, {"user_id": "nobody"}, {"user_id": "warm"}]),  # type: ignore[list-item]
        Embeddings(item_ids=(ids(299) * 2)[:500], users=[{"user_id": f"u{i}"} for i in range(64)]),  # type: ignore[misc]
    ],
    ids=["nothing", "items", "unknown item", "users", "the most"],
)
def test_get_embeddings_keeps_every_promise(client: Stub, request_: Embeddings) -> None:
    response = client.GetEmbeddings(request_)
    assert_valid_embeddings(response, request_)
    assert response.bundle_id == "newer"
    assert [item.id for item in response.items] == [item_id for item_id in request_.item_ids if item_id != "lost"]
    assert client.GetEmbeddings(Embeddings(item_ids=["i001"])) == client.GetEmbeddings(Embeddings(item_ids=["i001"]))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"item_ids": ["i001"] * 501}, "item_ids"),
        ({"item_ids": ["i001", ""]}, "item_ids[1]"),
        ({"item_ids": ["i" * 257]}, "item_ids[0]"),
        ({"users": [{}] * 65}, "users"),
        ({"users": [{}, {"user_id": "u" * 257}]}, "users[1].user_id"),
        ({"users": [{"request_id": "r" * 129}]}, "users[0].request_id"),
    ],
)
def test_what_is_wrong_with_a_request_for_vectors_is_named(
    client: Stub, refused: Refused, fields: dict[str, Any], field: str
) -> None:
    got = refused(client.GetEmbeddings, Embeddings(**fields))
    assert got.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(got.violations) == {field}


def test_item_vectors_are_those_of_the_bundle(real: Stub, bundle: Bundle) -> None:
    items = real.GetEmbeddings(Embeddings(item_ids=["i200", "i001"])).items
    rows = bundle.catalog.rows(["i200", "i001"])
    np.testing.assert_array_equal(np.array([item.values for item in items], np.float32), bundle.item_vectors[rows])


CONTEXTS: dict[str, dict[str, Any]] = {
    "warm": {"user_id": "warm"},
    "warm, and just now": {"user_id": "warm", "recent_events": [{"item_id": "i011", "event_type": "click"}]},
    "few": {"user_id": "few"},
    "stored profile": {"user_id": "profile"},
    "sent profile": {"user_attributes": [{"name": "country", "string_value": "DE"}]},
    "stored and sent profile": {
        "user_id": "profile",
        "user_attributes": [{"name": "country", "string_value": "US"}],
    },
    "onboarding answers": {"seed_item_ids": ["i001", "i002", "i003", "i004", "i005"]},
}


def test_user_vector_times_item_vector_is_the_score_of_two_tower_in_retrieve(
    real: Stub, bundle: Bundle, now_s: int
) -> None:
    contexts = [{"event_time": {"seconds": now_s}} | fields for fields in CONTEXTS.values()]
    answer = real.GetEmbeddings(Embeddings(item_ids=bundle.catalog.item_ids, users=contexts))  # type: ignore[arg-type]
    items = np.array([item.values for item in answer.items])
    for who, context, user in zip(CONTEXTS, contexts, answer.users, strict=True):
        found = real.Retrieve(
            retrieval_pb2.RetrieveRequest(
                context=context,  # type: ignore[arg-type]
                sources=[{"source": "two_tower"}],  # type: ignore[list-item]
                seen_policy={"interacted": filter_pb2.SEEN_MODE_ALLOW},  # type: ignore[arg-type]
                fill_policy=filter_pb2.FILL_POLICY_STRICT,
            )
        ).candidates
        assert len(found.item_ids) == 300, who
        scores = items[bundle.catalog.rows(found.item_ids)] @ np.array(user.values)
        np.testing.assert_allclose(found.source_columns[0].scores, scores, atol=1e-5, err_msg=who)


def test_what_is_known_of_a_user_moves_the_vector(real: Stub, now_s: int) -> None:
    names = ["warm", "few", "stored profile", "stored and sent profile", "warm, and just now"]
    contexts = [{"event_time": {"seconds": now_s}} | CONTEXTS[name] for name in names]
    contexts += [{"event_time": {"seconds": now_s}, "user_id": "warm", "anonymous": True}]
    contexts += [{"event_time": {"seconds": now_s}}]
    answer = real.GetEmbeddings(Embeddings(users=contexts))  # type: ignore[arg-type]
    vectors = np.array([user.values for user in answer.users])
    np.testing.assert_allclose(vectors[-2], vectors[-1], atol=1e-6)  # anonymous is nobody in particular
    apart = np.abs(vectors[:-1, None] - vectors[None, :-1]).max(axis=-1) + np.eye(len(vectors) - 1)
    assert apart.min() > 1e-3


class BrokenStore:
    """Never answers."""

    def read(self, user_id: str) -> StoredUser:
        raise StoreUnavailable("store.db: disk I/O error")

    add_events = put_users = close = SqliteStore.close


@pytest.fixture(scope="module")
def without_store(two_bundles: Registry) -> Iterator[Stub]:
    bundles = ServingBundles(two_bundles, lambda b: RetrievalPipeline(load_bundle(two_bundles.path_of(b))))
    assert bundles.refresh()
    servicer = RetrievalServicer(bundles, BrokenStore())  # type: ignore[arg-type]
    with serve(servicer, interceptors=[ErrorInterceptor()]) as running:
        yield Stub(running.channel)


def test_a_user_whose_history_cannot_be_read_has_no_vector(without_store: Stub, refused: Refused) -> None:
    got = refused(without_store.GetEmbeddings, Embeddings(item_ids=["i001"], users=[{}, {"user_id": "warm"}]))  # type: ignore[list-item]
    assert got.code is grpc.StatusCode.UNAVAILABLE
    assert (got.reason, got.domain) == ("UPSTREAM_UNAVAILABLE", "tandem")
    assert "disk" not in got.message


def test_who_needs_no_store_is_answered_without_one(without_store: Stub) -> None:
    users = [{}, {"user_id": "warm", "anonymous": True}, {"recent_events": [{"item_id": "i001"}]}]
    request = Embeddings(item_ids=["i001"], users=users)  # type: ignore[arg-type]
    assert_valid_embeddings(without_store.GetEmbeddings(request), request)
    assert without_store.SimilarItems(Similar(item_ids=["i001"])).candidates.item_ids


def test_without_a_bundle_the_caller_may_come_back(
    tmp_path_factory: pytest.TempPathFactory, store: SqliteStore, refused: Refused
) -> None:
    empty = ServingBundles(Registry(tmp_path_factory.mktemp("empty")), pytest.fail)
    with serve(RetrievalServicer(empty, store), interceptors=[ErrorInterceptor()]) as running:
        stub = Stub(running.channel)
        for call, request in (
            (stub.SimilarItems, Similar(item_ids=["i001"])),
            (stub.GetEmbeddings, Embeddings(item_ids=["i001"])),
        ):
            got = refused(call, request)
            assert (got.code, got.reason) == (grpc.StatusCode.UNAVAILABLE, "BUNDLE_NOT_READY")
