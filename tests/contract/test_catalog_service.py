"""Items and users that change while both services run: written over one socket, seen over others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tandem.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tandem.common.v1 import attribute_pb2, context_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem.retrieval.v1 import retrieval_pb2, retrieval_pb2_grpc
from tandem_core.bundle import Bundle, load_bundle
from tandem_core.experiments import Experiments
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.grpc_retrieval_client import RetrievalClient
from tandem_core.live.encoder import ItemEncoder
from tandem_core.live.serving import LiveServing
from tandem_core.policy import PlacementPolicy
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.serving_bundles import ServingBundles
from tandem_core.stores.base import StoredEvent
from tandem_core.stores.live_sqlite import SqliteLiveStore
from tandem_core.stores.sqlite import SqliteStore
from tandem_ranking.servicer import RankingServicer
from tandem_ranking.writer.catalog_servicer import CatalogServicer
from tandem_retrieval.servicer import RetrievalServicer
from tandem_testing import serve

NOW_S = 1_752_000_000
Refused = Callable[..., Any]
Catalog = catalog_pb2_grpc.CatalogServiceStub
Retrieval = retrieval_pb2_grpc.RetrievalServiceStub
Ranking = ranking_pb2_grpc.RankingServiceStub


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Path:
    """A store in which "warm" has 12 events."""
    path = tmp_path_factory.mktemp("live") / "store.db"
    store = SqliteStore(path)
    popular = (-bundle.catalog.event_counts).argsort(kind="stable")[1:25:2]
    store.add_events(
        StoredEvent("", "warm", bundle.catalog.item_ids[row], (NOW_S - 600 + 10 * i) * 1000, "click", None)
        for i, row in enumerate(popular)
    )
    store.close()
    return path


@pytest.fixture(scope="module")
def writer(registry: Registry, trained: Any, path: Path) -> Iterator[Catalog]:
    encoders = ServingBundles(registry, lambda bundle_id: ItemEncoder.load(registry.path_of(bundle_id)))
    assert encoders.refresh()
    servicer = CatalogServicer(encoders, SqliteLiveStore(path), SqliteStore(path))
    with serve(servicer, interceptors=[ErrorInterceptor()]) as running:
        yield Catalog(running.channel)


def held_live(registry: Registry, path: Path, over: Callable[[Bundle], Any]) -> Any:
    bundles = ServingBundles(registry, lambda bundle_id: over(load_bundle(registry.path_of(bundle_id))))
    assert bundles.refresh()
    return LiveServing(bundles, SqliteLiveStore(path), over, lambda pipeline: pipeline.bundle)


@pytest.fixture(scope="module")
def retrieval_channel(registry: Registry, trained: Any, path: Path) -> Iterator[tuple[grpc.Channel, str]]:
    servicer = RetrievalServicer(held_live(registry, path, RetrievalPipeline), SqliteStore(path))
    with serve(servicer, interceptors=[ErrorInterceptor()]) as running:
        yield running.channel, running.address


@pytest.fixture(scope="module")
def retrieval(retrieval_channel: tuple[grpc.Channel, str]) -> Retrieval:
    return Retrieval(retrieval_channel[0])


@pytest.fixture(scope="module")
def ranking(retrieval_channel: tuple[grpc.Channel, str], registry: Registry, path: Path) -> Iterator[Ranking]:
    policies = {"default": PlacementPolicy()}
    client = RetrievalClient(f"ipv4:{retrieval_channel[1]}", timeout_s=60.0)
    bundles = held_live(registry, path, lambda bundle: RankingPipeline(bundle, policies))
    with serve(
        RankingServicer(bundles, SqliteStore(path), client, Experiments(tuple(policies), policies, {})),
        interceptors=[ErrorInterceptor()],
    ) as running:
        yield Ranking(running.channel)
    client.close()


def like(bundle: Bundle, item_id: str, as_item: str, **fields: Any) -> catalog_pb2.Item:
    """Return an item described as one of the bundle's."""
    row, catalog = bundle.catalog.row_of[as_item], bundle.catalog
    known = {
        "title": catalog.titles[row],
        "categories": catalog.codes["categories"].values(row),
        "creator": next(iter(catalog.codes["creator"].values(row)), ""),
    }
    return catalog_pb2.Item(item_id=item_id, **{**known, **fields})


def upsert(writer: Catalog, *items: catalog_pb2.Item) -> None:
    response = writer.UpsertItems(catalog_pb2.UpsertItemsRequest(items=items))
    assert [result.stored for result in response.results] == [True] * len(items)


def only(*item_ids: str) -> filter_pb2.Filter:
    values = attribute_pb2.StringList(values=item_ids)
    return filter_pb2.Filter(in_set=filter_pb2.InSet(column="item_id", values=values))


def context(user_id: str = "warm") -> context_pb2.RequestContext:
    message = context_pb2.RequestContext(user_id=user_id)
    message.event_time.FromSeconds(NOW_S)
    return message


def retrieved(retrieval: Retrieval, **fields: Any) -> list[str]:
    request = retrieval_pb2.RetrieveRequest(context=context(), item_form=retrieval_pb2.ITEM_FORM_IDS, **fields)
    return list(retrieval.Retrieve(request).candidates.item_ids)


def recommended(ranking: Ranking, **fields: Any) -> ranking_pb2.RecommendResponse:
    return ranking.Recommend(ranking_pb2.RecommendRequest(context=context(), **fields))


def shown(response: Any) -> list[str]:
    return [item.item_id for item in response.items]


def some_item(bundle: Bundle, place: int = 0) -> str:
    """The most popular items stand at even places of the order; "warm" has seen the others."""
    return bundle.catalog.item_ids[(-bundle.catalog.event_counts).argsort(kind="stable")[2 * place]]


def test_an_upserted_item_is_retrieved_filtered_ranked_and_returned_with_its_attributes(
    writer: Catalog, retrieval: Retrieval, ranking: Ranking, bundle: Bundle
) -> None:
    new = like(bundle, "new-1", some_item(bundle), title="Quite New", price=12.5, categories=["Brand New Category"])
    new.created.FromSeconds(NOW_S - 86_400)
    upsert(writer, new)
    assert retrieved(retrieval, filter=only("new-1")) == ["new-1"]
    in_category = filter_pb2.Filter(
        in_set=filter_pb2.InSet(
            column="categories", values=attribute_pb2.StringList(values=["Brand New Category", "unheard of"])
        )
    )
    response = recommended(ranking, filter=in_category, return_attributes=["title", "price", "categories"])
    assert shown(response) == ["new-1"]
    attributes = {attribute.name: attribute for attribute in response.items[0].attributes}
    assert attributes["title"].string_value == "Quite New"
    assert attributes["price"].number_value == 12.5
    assert attributes["categories"].string_value == "Brand New Category"
    assert not response.degradations


def test_a_live_item_reaches_the_ranker_without_a_filter_and_names_its_source(
    writer: Catalog, retrieval: Retrieval, ranking: Ranking, bundle: Bundle
) -> None:
    upsert(writer, like(bundle, "new-2", some_item(bundle, 2)))
    assert "new-2" in retrieved(retrieval, max_candidates=250)
    response = recommended(ranking, max_results=300)
    (mine,) = [item for item in response.items if item.item_id == "new-2"]
    assert "live" in {source.source for source in mine.sources}
    assert ranking_pb2.REASON_KIND_NEW_ITEM in {reason.kind for reason in mine.reasons}


def test_live_candidates_travel_as_negative_rows_and_come_back_as_items(
    writer: Catalog, retrieval: Retrieval, ranking: Ranking, bundle: Bundle
) -> None:
    upsert(writer, like(bundle, "new-3", some_item(bundle)))
    request = retrieval_pb2.RetrieveRequest(
        context=context(), filter=only("new-3", some_item(bundle)), item_form=retrieval_pb2.ITEM_FORM_ROWS
    )
    candidates = retrieval.Retrieve(request).candidates
    assert sum(row < 0 for row in candidates.rows) == 1
    ranked = ranking.Rank(ranking_pb2.RankRequest(context=context(), candidates=candidates))
    assert set(shown(ranked)) == {"new-3", some_item(bundle)}
    writer.DeleteItems(catalog_pb2.DeleteItemsRequest(item_ids=["new-3"]))
    ranked = ranking.Rank(ranking_pb2.RankRequest(context=context(), candidates=candidates))
    assert shown(ranked) == [some_item(bundle)]


def test_an_item_of_the_bundle_is_replaced_once_and_by_its_new_version(
    writer: Catalog, ranking: Ranking, bundle: Bundle
) -> None:
    item_id = some_item(bundle, 3)
    upsert(writer, like(bundle, item_id, item_id, title="Another Title"))
    response = recommended(ranking, filter=only(item_id), return_attributes=["title"])
    assert shown(response) == [item_id]
    assert response.items[0].attributes[0].string_value == "Another Title"


def test_a_deleted_item_is_gone_from_every_answer_at_once(
    writer: Catalog, retrieval: Retrieval, ranking: Ranking, bundle: Bundle, refused: Refused
) -> None:
    bundled = some_item(bundle, 4)
    upsert(writer, like(bundle, "doomed", bundled))
    for item_id in (bundled, "doomed"):
        assert retrieved(retrieval, filter=only(item_id)) == [item_id]
        embeddings = retrieval.GetEmbeddings(retrieval_pb2.GetEmbeddingsRequest(item_ids=[item_id]))
        assert len(embeddings.items) == 1
    both = [bundled, "doomed", "never-heard-of"]
    response = writer.DeleteItems(catalog_pb2.DeleteItemsRequest(item_ids=both))
    assert all(result.stored for result in response.results)
    for item_id in (bundled, "doomed"):
        assert retrieved(retrieval, filter=only(item_id)) == []
        assert shown(recommended(ranking, filter=only(item_id))) == []
        assert not retrieval.GetEmbeddings(retrieval_pb2.GetEmbeddingsRequest(item_ids=[item_id])).items
        gone = refused(retrieval.SimilarItems, retrieval_pb2.SimilarItemsRequest(item_ids=[item_id]))
        assert gone.code is grpc.StatusCode.NOT_FOUND
        assert refused(writer.GetItem, catalog_pb2.GetItemRequest(item_id=item_id)).code is grpc.StatusCode.NOT_FOUND
        ranked = ranking.Rank(
            ranking_pb2.RankRequest(
                context=context(), candidates={"item_ids": [item_id, some_item(bundle)], "scores": [1, 0.5]}
            )
        )
        assert list(ranked.unknown_item_ids) == [item_id]
    everything = {*retrieved(retrieval, max_candidates=2000), *shown(recommended(ranking, max_results=500))}
    everything |= {*shown(recommended(ranking, max_results=500, validate_only=True))}
    similar = retrieval.SimilarItems(retrieval_pb2.SimilarItemsRequest(item_ids=[some_item(bundle)], max_results=500))
    assert not {bundled, "doomed"} & {*everything, *similar.candidates.item_ids}
    upsert(writer, like(bundle, bundled, some_item(bundle), title="Back"))
    assert retrieved(retrieval, filter=only(bundled)) == [bundled]


def test_similar_items_and_embeddings_know_live_items(writer: Catalog, retrieval: Retrieval, bundle: Bundle) -> None:
    model = some_item(bundle)
    upsert(writer, like(bundle, "twin-1", model), like(bundle, "twin-2", model))
    similar = retrieval.SimilarItems(retrieval_pb2.SimilarItemsRequest(item_ids=["twin-1"], max_results=5))
    assert similar.candidates.item_ids[0] == "twin-2"
    assert similar.candidates.scores[0] == pytest.approx(1, abs=1e-4)
    found = retrieval.GetEmbeddings(retrieval_pb2.GetEmbeddingsRequest(item_ids=["twin-1", "twin-2"])).items
    np.testing.assert_allclose(found[0].values, found[1].values, atol=1e-6)
    assert np.linalg.norm(found[0].values) == pytest.approx(1, abs=1e-4)


def test_an_event_on_a_live_item_moves_the_user_vector_and_makes_it_seen(
    writer: Catalog, retrieval: Retrieval, bundle: Bundle
) -> None:
    upsert(writer, like(bundle, "watched", some_item(bundle)))

    def asked(*events: str) -> Any:
        message = context("")
        for item_id in events:
            message.recent_events.add(item_id=item_id, event_type="click")
        return message

    vectors = retrieval.GetEmbeddings(
        retrieval_pb2.GetEmbeddingsRequest(users=[asked(), asked("watched"), asked("unheard of")])
    ).users
    assert not np.allclose(vectors[0].values, vectors[1].values, atol=1e-3)
    np.testing.assert_allclose(vectors[0].values, vectors[2].values, atol=1e-5)
    request = retrieval_pb2.RetrieveRequest(
        context=asked("watched"), filter=only("watched"), item_form=retrieval_pb2.ITEM_FORM_IDS
    )
    assert not retrieval.Retrieve(request).candidates.item_ids


def test_an_item_is_given_back_as_it_was_stored(writer: Catalog, bundle: Bundle) -> None:
    stored = catalog_pb2.Item(
        item_id="whole", title="T", text="words of it", categories=["b", "a"], creator="Someone", price=0
    )
    stored.created.FromMilliseconds(1_700_000_000_123)
    upsert(writer, stored)
    assert writer.GetItem(catalog_pb2.GetItemRequest(item_id="whole")).item == stored
    of_bundle = writer.GetItem(catalog_pb2.GetItemRequest(item_id=bundle.catalog.item_ids[7])).item
    assert of_bundle.title == bundle.catalog.titles[7]
    assert list(of_bundle.categories) == bundle.catalog.codes["categories"].values(7)


def test_what_is_wrong_with_one_item_keeps_no_other_from_being_stored(writer: Catalog, retrieval: Retrieval) -> None:
    undeclared = [attribute_pb2.Attribute(name="colour", string_value="red")]
    response = writer.UpsertItems(
        catalog_pb2.UpsertItemsRequest(
            items=[
                catalog_pb2.Item(item_id="good"),
                catalog_pb2.Item(),
                catalog_pb2.Item(item_id="x" * 257),
                catalog_pb2.Item(item_id="bad-1", price=-1),
                catalog_pb2.Item(item_id="bad-2", price=float("nan")),
                catalog_pb2.Item(item_id="bad-3", title="t" * 1001),
                catalog_pb2.Item(item_id="bad-4", attributes=undeclared),
                catalog_pb2.Item(item_id="bad-5", categories=[""]),
            ]
        )
    )
    assert [result.stored for result in response.results] == [True, *[False] * 7]
    fields = [result.violation.field for result in response.results[1:]]
    assert fields == [
        "items[1].item_id",
        "items[2].item_id",
        "items[3].price",
        "items[4].price",
        "items[5].title",
        "items[6].attributes[0].name",
        "items[7].categories[0]",
    ]
    assert "no column 'colour' is declared" in response.results[6].violation.description
    assert retrieved(retrieval, filter=only("good", *(f"bad-{i}" for i in range(1, 6)))) == ["good"]


def test_attributes_of_a_user_are_replaced_and_seen_by_the_next_request(writer: Catalog, ranking: Ranking) -> None:
    def regime() -> str:
        response = ranking.Recommend(ranking_pb2.RecommendRequest(context=context("newcomer")))
        return context_pb2.UserRegime.Name(response.regime)

    def put(**attributes: str) -> None:
        values = [attribute_pb2.Attribute(name=name, string_value=value) for name, value in attributes.items()]
        user = catalog_pb2.User(user_id="newcomer", attributes=values)
        response = writer.UpsertUsers(catalog_pb2.UpsertUsersRequest(users=[user, catalog_pb2.User()]))
        assert [result.stored for result in response.results] == [True, False]
        assert response.results[1].violation.field == "users[1].user_id"

    assert regime() == "USER_REGIME_UNKNOWN"
    put(gender="female", country="DE")
    assert regime() == "USER_REGIME_PROFILE_ONLY"
    put(favourite_colour="red")
    assert regime() == "USER_REGIME_UNKNOWN"


def test_a_store_that_is_down_is_unavailable_and_told_without_its_path(
    registry: Registry, trained: Any, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "broken.db").write_bytes(b"this is no database " * 100)
    encoders = ServingBundles(registry, lambda bundle_id: ItemEncoder.load(registry.path_of(bundle_id)))
    assert encoders.refresh()
    servicer = CatalogServicer(encoders, SqliteLiveStore(tmp_path / "broken.db"), SqliteStore(tmp_path / "broken.db"))
    with serve(servicer, interceptors=[ErrorInterceptor()]) as running:
        stub = Catalog(running.channel)
        requests: list[tuple[Any, Any]] = [
            (stub.UpsertItems, catalog_pb2.UpsertItemsRequest(items=[catalog_pb2.Item(item_id="new")])),
            (stub.DeleteItems, catalog_pb2.DeleteItemsRequest(item_ids=["i001"])),
            (stub.GetItem, catalog_pb2.GetItemRequest(item_id="i001")),
            (stub.UpsertUsers, catalog_pb2.UpsertUsersRequest(users=[catalog_pb2.User(user_id="ann")])),
        ]
        for call, request in requests:
            bad = refused(call, request)
            assert (bad.code, bad.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
            assert "broken.db" not in bad.trailers
