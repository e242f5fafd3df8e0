"""Items that come, change and go while real processes serve: two of retrieval, one of ranking, one that writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from tandem.common.v1 import attribute_pb2, context_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.registry import Registry

WAIT_S = 10.0


@dataclass
class Tree:
    """The four processes, over one registry and one store."""

    launch: Any
    registry: Registry
    writer: Any = None
    retrievals: tuple[Any, ...] = ()
    ranking: Any = None

    def start(self) -> Tree:
        self.writer = self.launch.service("writer", registry=self.registry.root).wait_serving()
        self.retrievals = tuple(self.launch.service("retrieval", registry=self.registry.root) for _ in range(2))
        targets = ",".join(each.target for each in self.retrievals)
        self.ranking = self.launch.service(
            "ranking", registry=self.registry.root, retrieval_target=f"ipv4:{targets}"
        ).wait_serving()
        for each in self.retrievals:
            each.wait_serving()
        return self

    def stop(self) -> None:
        for each in (self.writer, self.ranking, *self.retrievals):
            each.close()

    def upsert(self, *item_ids: str, title: str = "Item") -> None:
        stub = catalog_pb2_grpc.CatalogServiceStub(self.writer.channel)
        items = [catalog_pb2.Item(item_id=item_id, title=f"{title} {item_id}") for item_id in item_ids]
        response = stub.UpsertItems(catalog_pb2.UpsertItemsRequest(items=items), timeout=WAIT_S)
        assert all(result.stored for result in response.results)

    def delete(self, *item_ids: str) -> None:
        stub = catalog_pb2_grpc.CatalogServiceStub(self.writer.channel)
        stub.DeleteItems(catalog_pb2.DeleteItemsRequest(item_ids=item_ids), timeout=WAIT_S)

    def found_by_each(self, *item_ids: str) -> list[list[str]]:
        """Return which of these items each process of retrieval gives, and those that ranking recommends."""
        values = attribute_pb2.StringList(values=item_ids)
        condition = filter_pb2.Filter(in_set=filter_pb2.InSet(column="item_id", values=values))
        ask = retrieval_pb2.RetrieveRequest(filter=condition, max_candidates=len(item_ids))
        answers = [each.stub.Retrieve(ask, timeout=WAIT_S).candidates.item_ids for each in self.retrievals]
        recommended = self.ranking.stub.Recommend(
            ranking_pb2.RecommendRequest(filter=condition, max_results=len(item_ids)), timeout=WAIT_S
        )
        assert not recommended.degradations
        return [sorted(answer) for answer in (*answers, [item.item_id for item in recommended.items])]


@pytest.fixture(scope="module")
def tree(module_launch: Any, publish_copy: Any) -> Tree:
    registry = Registry(module_launch.folder / "registry")
    publish_copy(registry, "first")
    return Tree(module_launch, registry).start()


def bundles_of(tree: Tree) -> set[str]:
    states = [each.stub.GetServingState(retrieval_pb2.GetServingStateRequest()) for each in tree.retrievals]
    states.append(tree.ranking.stub.GetServingState(ranking_pb2.GetServingStateRequest()))
    return {state.state.bundle_id for state in states}


def test_an_acknowledged_change_holds_for_the_next_request_on_every_worker(tree: Tree, bundle: Any) -> None:
    for i in range(20):
        tree.upsert(f"new-{i}")
        assert tree.found_by_each(f"new-{i}") == [[f"new-{i}"]] * 3
        gone = [f"new-{i}", bundle.catalog.item_ids[i]]
        tree.delete(*gone)
        assert tree.found_by_each(*gone) == [[]] * 3
    context = context_pb2.RequestContext()
    context.recent_events.add(item_id="new-0", event_type="click")
    response = tree.ranking.stub.Recommend(ranking_pb2.RecommendRequest(context=context, max_results=300))
    shown = {item.item_id for item in response.items}
    assert not shown & {*(f"new-{i}" for i in range(20)), *bundle.catalog.item_ids[:20]}
    assert len(shown) == len(bundle.catalog) - 20


def test_what_was_acknowledged_outlives_a_killed_writer_a_restart_and_the_bundle(
    tree: Tree, publish_copy: Any, bundle: Any, wait_until: Callable[..., Any]
) -> None:
    kept, deleted = [], bundle.catalog.item_ids[-1]
    tree.delete(deleted)
    for i in range(8):
        batch = [f"batch-{i}-{j}" for j in range(5)]
        tree.upsert(*batch)
        kept += batch
    # One more on its way, of which nobody knows whether it arrived.
    stub = catalog_pb2_grpc.CatalogServiceStub(tree.writer.channel)
    late = stub.UpsertItems.future(catalog_pb2.UpsertItemsRequest(items=[catalog_pb2.Item(item_id="late")]))
    tree.writer.kill()
    late.exception(WAIT_S)
    assert tree.found_by_each(*kept, deleted) == [sorted(kept)] * 3

    tree.stop()
    tree.start()
    assert tree.found_by_each(*kept, deleted) == [sorted(kept)] * 3
    tree.upsert("after-restart", kept[0], title="Changed")
    kept.append("after-restart")
    assert tree.found_by_each(*kept, deleted) == [sorted(kept)] * 3

    publish_copy(tree.registry, "second")
    wait_until(lambda: bundles_of(tree) == {"second"}, what="the second bundle everywhere")
    assert tree.found_by_each(*kept, deleted) == [sorted(kept)] * 3
    wait_until(lambda: "live items encoded" in tree.writer.text, what="items encoded for the second bundle")
    tree.upsert("in-the-second")
    assert tree.found_by_each("in-the-second") == [["in-the-second"]] * 3


def test_items_reach_what_serves_though_the_writer_restarts_on_a_bundle_that_is_refused(
    launch: Any, own_registry: Registry, publish_copy: Any, wait_until: Callable[..., Any]
) -> None:
    publish_copy(own_registry, "good")
    tree = Tree(launch, own_registry).start()
    tree.upsert("before")
    publish_copy(own_registry, "bad", with_a_vector_that_is_no_number)
    for each, module in ((tree.retrievals[0], retrieval_pb2), (tree.ranking, ranking_pb2)):
        wait_until(
            lambda each=each, module=module: (
                each.stub.GetServingState(module.GetServingStateRequest()).state.refused_bundle_id
            ),
            what="a refusal",
        )
    tree.writer.close()
    tree.writer = launch.service("writer", registry=own_registry.root).wait_serving()
    tree.upsert("after")
    assert tree.found_by_each("before", "after") == [["after", "before"]] * 3
    for worker in tree.retrievals[0].members("worker"):
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: tree.retrievals[0].health() == "SERVING", what="another worker")
    assert tree.found_by_each("before", "after") == [["after", "before"]] * 3


def with_a_vector_that_is_no_number(folder: Path) -> None:
    """Retrieval and ranking look at all vectors, the writer at none."""
    vectors = np.load(folder / "item_vectors.npy")
    vectors[0, 0] = np.nan
    np.save(folder / "item_vectors.npy", vectors)
