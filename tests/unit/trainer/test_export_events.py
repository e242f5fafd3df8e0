"""From the store to the trainer's table, and who is left out on the way."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tandem_core.stores.base import StoredEvent, StoreUnavailable
from tandem_core.stores.sqlite import SqliteStore
from tandem_trainer import export_events as exporting
from tandem_trainer.config import DataSettings, TrainConfig
from tandem_trainer.data import DataError, write_tables
from tandem_trainer.data.synthetic import SyntheticConfig, generate
from tandem_trainer.export_events import Kind, export_events
from tandem_trainer.inputs import load_data
from tandem_trainer.seed_store import store_events, store_users


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "store.db")


def click(user: str, item: str, kind: str = "click") -> StoredEvent:
    return StoredEvent("", user, item, 1_700_000_000_000, kind, None)


def test_a_data_set_comes_back_from_the_store_as_it_went_in(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "CHUNK", 100)  # many chunks
    dataset = generate(SyntheticConfig(n_users=60, n_items=40))
    write_tables(dataset, tmp_path / "data")
    store_events(store, dataset.events)
    done = export_events(store, tmp_path / "data" / "events.parquet")
    assert done.events == len(dataset.events)
    assert pq.ParquetFile(tmp_path / "data" / "events.parquet").num_row_groups == -(-done.events // 100)
    again = load_data(TrainConfig(data=DataSettings(adapter="tables")), tmp_path / "data")
    for column in ("user_id", "item_id", "timestamp", "event_type"):
        assert again.events[column].tolist() == dataset.events[column].tolist()
    np.testing.assert_array_equal(again.events["value"].to_numpy(), dataset.events["value"].to_numpy())


def test_facts_of_events_come_back_as_the_columns_that_are_asked_for(store: SqliteStore, tmp_path: Path) -> None:
    rows = [("ann", "a", "tv"), ("bob", "b", None), ("ann", "c", "phone")]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "device"])
    events = events.assign(timestamp=[1, 2, 3], event_type="click", value=np.nan, app="web")
    store_events(store, events)
    store.add_events([click("cleo", "d")])
    assert [e.context for part in store.log(0, 10) for e in part] == [
        {"device": "tv", "app": "web"}, {"app": "web"}, {"device": "phone", "app": "web"}, {}
    ]  # fmt: skip
    file = tmp_path / "data" / "events.parquet"
    assert export_events(store, file, context=["device", "shoe"]).events == 4
    (file.parent / "columns.toml").write_text('[events]\ncontext = ["device"]\n')
    again = load_data(TrainConfig(data=DataSettings(adapter="tables")), file.parent)
    assert again.events["device"].tolist() == ["tv", None, "phone", None]
    assert pq.read_table(file)["shoe"].null_count == 4
    export_events(store, file)
    assert "device" not in pq.read_schema(file).names


@pytest.mark.parametrize("context", [["value"], ["device", "device"]])
def test_a_fact_that_would_be_a_column_twice_is_refused(store: SqliteStore, tmp_path: Path, context: list[str]) -> None:
    with pytest.raises(ValueError, match=f"context '{context[0]}' is named twice, or is a column of every event"):
        export_events(store, tmp_path / "events.parquet", context=context)
    assert not list(tmp_path.glob("*.parquet*"))


def test_impressions_are_exported_only_when_asked_for(store: SqliteStore, tmp_path: Path) -> None:
    store.add_events([click("ann", "a"), click("ann", "b", "impression"), click("ann", "c")])
    read = {}
    for kind in Kind:
        export_events(store, tmp_path / f"{kind}.parquet", kind=kind)
        read[kind] = pq.read_table(tmp_path / f"{kind}.parquet")["item_id"].to_pylist()
    assert read == {Kind.CHOSEN: ["a", "c"], Kind.IMPRESSIONS: ["b"], Kind.ALL: ["a", "b", "c"]}


def test_parts_by_sequence_number_make_the_whole(store: SqliteStore, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "events.parquet"
    store.add_events([click("ann", "a"), click("bob", "b")])
    first = export_events(store, folder / "1.parquet")
    nothing = export_events(store, folder / "2.parquet", after=first.last_sequence)
    assert (nothing.events, nothing.last_sequence) == (0, first.last_sequence)
    store.add_events([click("ann", "c")])
    assert export_events(store, folder / "2.parquet", after=first.last_sequence).events == 1
    dataset = load_data(TrainConfig(data=DataSettings(adapter="tables")), tmp_path / "data")
    assert dataset.events["item_id"].tolist() == ["a", "b", "c"]
    assert sorted(path.name for path in folder.iterdir()) == ["1.parquet", "2.parquet"]


def test_an_export_that_fails_leaves_the_old_file(store: SqliteStore, tmp_path: Path) -> None:
    file = tmp_path / "out" / "events.parquet"
    store.add_events([click("ann", "a")])
    export_events(store, file)
    before = file.read_bytes()
    (tmp_path / "broken.db").write_bytes(b"this is no database " * 100)
    with pytest.raises(StoreUnavailable):
        export_events(SqliteStore(tmp_path / "broken.db"), file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["events.parquet"]


def test_memory_does_not_grow_with_the_log(store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "CHUNK", 500)
    peaks = []
    for _ in range(2):
        store.add_events(click(f"u{i}", f"i{i}") for i in range(8_000))
        tracemalloc.start()
        export_events(store, tmp_path / "events.parquet")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_forgotten_users_are_left_out_of_exports_imports_and_training_data(store: SqliteStore, tmp_path: Path) -> None:
    dataset = generate(SyntheticConfig(n_users=60, n_items=40))
    write_tables(dataset, tmp_path / "data")
    ann = str(dataset.events["user_id"].mode()[0])
    theirs = int((dataset.events["user_id"] == ann).sum())
    store.forget(ann)
    assert store_events(store, dataset.events) == len(dataset.events) - theirs
    assert store_users(store, dataset.users) == len(dataset.users) - 1
    store.add_events([StoredEvent("", ann, "i001", None, "click", None)])  # served again, and still not exported
    assert len(store.read(ann).events) == 1
    done = export_events(store, tmp_path / "events.parquet")
    assert (done.events, done.left_out) == (len(dataset.events) - theirs, 1)
    config = TrainConfig(data=DataSettings(adapter="tables"))
    read = load_data(config, tmp_path / "data", store=store)
    assert ann not in set(read.events["user_id"]) | set(read.users["user_id"])
    assert len(read.events) == len(dataset.events) - theirs
    report = "\n".join(read.report.lines())
    assert "asked to be forgotten" in report
    assert repr(ann) not in report
    assert len(load_data(config, tmp_path / "data").events) == len(dataset.events)


def test_training_data_of_forgotten_users_alone_are_refused(store: SqliteStore, tmp_path: Path) -> None:
    export_source = SqliteStore(tmp_path / "other.db")
    export_source.add_events([click("ann", "a")])
    export_events(export_source, tmp_path / "data" / "events.parquet")
    store.forget("ann")
    with pytest.raises(DataError, match="no event is left"):
        load_data(TrainConfig(data=DataSettings(adapter="tables")), tmp_path / "data", store=store)
