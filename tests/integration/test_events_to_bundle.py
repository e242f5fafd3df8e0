"""The whole circle: serve, write events, export, train again, swap, and what users turned to shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tandem.events.v1 import events_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem_core.registry import Registry
from tandem_core.stores.sqlite import SqliteStore
from tandem_trainer.data import write_tables
from tandem_trainer.seed_store import store_events
from tandem_trainer.train import Trained

pytestmark = pytest.mark.long


def test_a_new_taste_shows_after_export_training_and_swap(
    launch: Any,
    trained: Trained,
    publish_copy: Callable[..., Path],
    own_registry: Registry,
    tmp_path: Path,
    write_toml: Callable[..., Path],
    wait_until: Callable[..., Any],
) -> None:
    store = SqliteStore(tmp_path / "store.db")
    store_events(store, trained.dataset.events)
    store.close()
    publish_copy(own_registry, "before")
    writer = launch.service("writer")
    retrieval = launch.service("retrieval", registry=own_registry.root)
    target = f"ipv4:{retrieval.target}"
    ranking = launch.service("ranking", registry=own_registry.root, retrieval_target=target).wait_serving()
    retrieval.wait_serving()
    # Two items that nobody put together so far, and one that nobody knew.
    counts = trained.dataset.events["item_id"].value_counts()
    first, second = counts.index[150], counts.index[151]
    # The last two of each user's events are held out for testing and choosing: those are of any items.
    items = [second, "just-invented", first, counts.index[0], counts.index[1]]
    start = int(time.time()) - 3600
    for user in range(100):
        events = [
            events_pb2.Event(
                user_id=f"new-{user}", item_id=item, event_type="click", timestamp={"seconds": start + 60 * i}
            )  # type: ignore[arg-type]
            for i, item in enumerate(items)
        ]
        answer = writer.stub.WriteEvents(events_pb2.WriteEventsRequest(events=events), timeout=30)
        assert {result.outcome for result in answer.results} == {1}
    writer.stub.WriteEvents(
        events_pb2.WriteEventsRequest(events=[{"user_id": "asker", "item_id": first, "event_type": "click"}]),  # type: ignore[list-item]
        timeout=30,
    )

    def asked() -> Any:
        request = ranking_pb2.RecommendRequest(context={"user_id": "asker"}, max_results=200)  # type: ignore[arg-type]
        return ranking.stub.Recommend(request, timeout=30)

    def place(item_id: str, slate: Any) -> int:
        return [*[item.item_id for item in slate.items], item_id].index(item_id)

    before = asked()
    assert before.bundle_id == "before"
    assert place("just-invented", before) == len(before.items), "it is not in this bundle"
    data = tmp_path / "data"
    write_tables(trained.dataset, data)
    url = f"sqlite:///{tmp_path / 'store.db'}"
    exported = launch.tandem("export-events", "--store", url, "--out", str(data / "events.parquet"))
    assert exported.process.wait(120) == 0, exported.text
    assert f"{len(trained.dataset.events) + 501} events" in exported.text
    config = write_toml(
        tmp_path / "train.toml",
        {"threads": 1, "data": {"adapter": "tables"}, "towers": {"most_examples": 8000, "validations": 2}},
    )
    arguments = ["--config", str(config), "--data", str(data), "--registry", str(own_registry.root), "--store", url]
    training = launch.tandem("train", *arguments)
    assert training.process.wait(900) == 0, training.text
    after = wait_until(
        lambda: slate if (slate := asked()).bundle_id != "before" and not slate.degradations else None,
        timeout_s=60,
        what="the new bundle served",
    )
    assert place("just-invented", after) < 10
    assert place(second, after) < 10
    assert place(second, after) < place(second, before)
