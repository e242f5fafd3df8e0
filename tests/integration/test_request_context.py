"""The device from an event that is written to a list that is served: all that lies between agrees on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.common.v1 import context_pb2
from tandem.events.v1 import events_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.registry import Registry
from tandem_core.stores.sqlite import SqliteStore
from tandem_trainer.data import SyntheticConfig, write_tables
from tandem_trainer.data.synthetic import generate
from tandem_trainer.seed_store import store_events

pytestmark = pytest.mark.long

SETTINGS = {
    "threads": 1,
    "data": {"adapter": "tables"},
    "towers": {"validations": 2},
    "ranker": {"folds": 2, "epochs": 2},
    "ranker_data": {"most_requests": 200},
}


def test_what_is_liked_on_a_device_is_found_for_requests_from_it(
    launch: Any, own_registry: Registry, tmp_path: Path, write_toml: Callable[..., Path]
) -> None:
    dataset = generate(SyntheticConfig(n_users=400, n_items=200, days=1000, start_ms=1_640_995_200_000))
    rng = np.random.default_rng(0)
    for_tablets = set(dataset.items["item_id"][::2])
    on_tablet = dataset.events["item_id"].isin(for_tablets).to_numpy() ^ (rng.random(len(dataset.events)) < 0.05)
    store = SqliteStore(tmp_path / "store.db")
    store_events(store, dataset.events.assign(device=np.where(on_tablet, "tablet", "phone")))
    store.close()
    writer = launch.service("writer")
    last = dataset.events.iloc[-1]
    written = events_pb2.Event(
        user_id=last["user_id"], item_id=last["item_id"], event_type="click",
        timestamp={"seconds": int(last["timestamp"]) // 1000 + 60}, context=[{"name": "device", "string_value": "tv"}],
    )  # type: ignore[arg-type]  # fmt: skip
    answer = writer.stub.WriteEvents(events_pb2.WriteEventsRequest(events=[written]), timeout=30)
    assert [result.outcome for result in answer.results] == [events_pb2.EVENT_OUTCOME_STORED]

    data, url = tmp_path / "data", f"sqlite:///{tmp_path / 'store.db'}"
    write_tables(replace(dataset, schema=replace(dataset.schema, event_context=("device",))), data)
    exported = launch.tandem(
        "export-events", "--store", url, "--out", str(data / "events.parquet"), "--context", "device"
    )
    assert exported.process.wait(120) == 0, exported.text
    config = write_toml(tmp_path / "train.toml", {**SETTINGS, "refit": True})
    training = launch.tandem(
        "train", "--config", str(config), "--data", str(data), "--registry", str(own_registry.root)
    )
    assert training.process.wait(900) == 0, training.text
    current = own_registry.current()
    assert current is not None
    manifest = own_registry.manifest(current.bundle_id)
    assert manifest.features.season, "nearly three years"
    frequent = manifest.features.request_context["device"]
    assert (set(frequent[:2]), frequent[2:]) == ({"tablet", "phone"}, ("tv",))
    assert manifest.goldens[0].context == {"device": frequent[0]}

    retrieval = launch.service("retrieval", registry=own_registry.root)
    ranking = launch.service("ranking", registry=own_registry.root, retrieval_target=f"ipv4:{retrieval.target}")
    ranking.wait_serving()
    retrieval.wait_serving()

    def context(device: str) -> context_pb2.RequestContext:
        facts = [{"name": "device", "string_value": device}, {"name": "weather", "string_value": "rain"}]
        return context_pb2.RequestContext(
            request_id="r",
            event_time={"seconds": int(last["timestamp"]) // 1000},
            recent_events=[{"item_id": item_id} for item_id in dataset.items["item_id"][:6]],
            context=facts if device else [],
        )  # type: ignore[arg-type]

    def found(device: str) -> list[str]:
        request = retrieval_pb2.RetrieveRequest(
            context=context(device), sources=[{"source": "two_tower"}], max_candidates=40,
            item_form=retrieval_pb2.ITEM_FORM_IDS,
        )  # type: ignore[arg-type]  # fmt: skip
        return list(retrieval.stub.Retrieve(request, timeout=30).candidates.item_ids)

    def share(item_ids: list[str]) -> float:
        return len(for_tablets & set(item_ids)) / len(item_ids)

    assert share(found("tablet")) > share(found("phone")) + 0.3
    assert found("fridge") == found("")

    def slate(device: str) -> list[str]:
        request = ranking_pb2.RecommendRequest(context=context(device), max_results=20)
        answer = ranking.stub.Recommend(request, timeout=30)
        assert not answer.degradations
        return [item.item_id for item in answer.items]

    assert slate("tablet") != slate("phone")
    assert slate("fridge") == slate("")
