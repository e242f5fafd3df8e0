"""Metrics of several processes: written by each, added up by another, buried when their writer dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from tandem_core.index.exact import ExactIndex
from tandem_core.metrics.lists import gini
from tandem_core.observe import Record
from tandem_core.settings import ConfigError
from tandem_core.signals import BUCKETS, HISTOGRAMS, MOST_LABELLED
from tandem_core.signals_audit import Audit
from tandem_core.signals_samples import DEEPEST, KEPT_SEARCHES, SampleWriter, kept_searches, recall, shown_counts
from tandem_core.signals_side import MetricsServer, SideGauges, WorkerFiles
from tandem_core.signals_worker import MOST_KEPT, WorkerMetrics

WORKER = """
import os, sys
from tandem_core.observe import Record
from tandem_core.signals_worker import WorkerMetrics
metrics = WorkerMetrics()
record = Record("Recommend")
record.stages.append(("merge", 0.002))
record.counts.append(("degradations", ("SOURCE_LATE", "als"), 1))
for _ in range(int(sys.argv[1])):
    metrics.finish(record, "OK", 0.004)
metrics.flush()
metrics.set("calls_held", to=int(sys.argv[1]))
metrics.set("bundle_age_seconds", to=int(sys.argv[1]))
metrics.total("calls_shed", "full", is_now=2)
metrics.total("calls_shed", "full", is_now=5)
print("written", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """start(n): a process that answers n requests, tells of them, and lives on."""
    started = []

    def one(n: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        return process

    yield one
    for process in started:
        process.kill()
        process.communicate()


def collected(folder: Path) -> dict[str, float]:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))
    return {
        sample.name + str(sorted(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


def test_a_dead_worker_leaves_its_counts_and_takes_its_gauges(
    start: Callable[[int], subprocess.Popen[str]], tmp_path: Path
) -> None:
    first, second = start(3), start(4)
    files = WorkerFiles(tmp_path)
    answered = "tandem_rpc_seconds_count[('code', 'OK'), ('rpc', 'Recommend')]"
    late = "tandem_degradations_total[('component', 'als'), ('kind', 'SOURCE_LATE')]"
    before = collected(tmp_path)
    assert files.alive() == {first.pid, second.pid}
    assert (before[answered], before[late], before["tandem_calls_shed_total[('reason', 'full')]"]) == (7, 7, 10)
    assert (before["tandem_calls_held[]"], before["tandem_bundle_age_seconds[]"]) == (7, 4)
    second.send_signal(signal.SIGKILL)
    second.wait()
    for _ in range(2):  # burying twice counts nothing twice
        files.bury()
        after = collected(tmp_path)
        assert files.alive() == {first.pid}
        assert (after[answered], after[late], after["tandem_calls_shed_total[('reason', 'full')]"]) == (7, 7, 10)
        assert (after["tandem_calls_held[]"], after["tandem_bundle_age_seconds[]"]) == (3, 3)
    first.kill()
    first.wait()
    files.bury()
    after = collected(tmp_path)
    assert after[answered] == 7
    assert "tandem_calls_held[]" not in after
    assert {path.name for path in tmp_path.iterdir()} == {"counter_gone.db", "histogram_gone.db"}


WRITER = """
from tandem_core.grpc_admission import WorkPool
from tandem_core.grpc_observe import WorkerSignals
from tandem_core.service_settings import ServiceSettings
from tandem_core.serving_bundles import Held

class Encoders:
    held = Held("b1", "", (("b1", object()),), "", "")

encoders = Encoders()
told = WorkerSignals(ServiceSettings(metrics_port=0), "writer", encoders)
told.beat(WorkPool(1, 60.0))
encoders.held = Held("b2", "b1", (("b2", object()), ("b1", object())), "", "")
told.beat(WorkPool(1, 60.0))
"""


def test_the_writer_serves_no_bundle_so_that_none_of_before_stays_with_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", WRITER], env=environment, check=True, timeout=60)
    series = collected(tmp_path)
    assert "tandem_bundle_refused[]" in series
    assert not any(name.startswith("tandem_bundle_info") for name in series)


def test_a_worker_starts_where_something_that_tidies_up_took_the_folder(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "taken")}
    subprocess.run([sys.executable, "-c", WRITER], env=environment, check=True, timeout=60)
    assert "tandem_bundle_refused[]" in collected(tmp_path / "taken")


FILLS_THE_DISK = """
import os, sys
from pathlib import Path
import numpy as np
from tandem_core.observe import Record
from tandem_core.signals import FOLDER
def fill():
    try:
        with (Path(os.environ[FOLDER]) / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
if sys.argv[1] == "before":
    fill()
exec(sys.argv[2])
fill()
if told._metrics is not None:
    record = Record("Recommend")
    record.shown.append(("b9", np.arange(10, dtype=np.int32)))
    record.counts += [("degradations", (f"KIND_{i}", "x" * 40), 1) for i in range(150)]
    told._metrics.finish(record, "OK", 0.1)
told.beat(WorkPool(1, 60.0))
"""
ON_A_SMALL_DISK = 'mount -t tmpfs -o size=8m none "$0" && exec "$@"'


@pytest.mark.parametrize("when", ["before", "later"])
def test_a_full_disk_costs_metrics_and_not_the_worker(tmp_path: Path, when: str) -> None:
    """What is mapped and has no place on the disk would end the process with SIGBUS."""
    small = ["unshare", "--map-root-user", "--mount", "sh", "-c", ON_A_SMALL_DISK, str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*small, "true"], check=False, timeout=60).returncode:
        pytest.skip("no small disk can be mounted here")
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [*small, sys.executable, "-c", FILLS_THE_DISK, when, WRITER]
    subprocess.run(command, env=environment, check=True, timeout=60)


def test_labels_that_nobody_bounded_are_bounded() -> None:
    metrics = WorkerMetrics()
    for i in range(MOST_LABELLED + 50):
        record = Record("Recommend")
        record.counts.append(("degradations", ("SOURCE_LATE", f"source{i}"), 1))
        metrics.finish(record, "OK", 0.001)
    metrics.flush()
    components = {
        sample.labels["component"]: sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "tandem_degradations_total"
    }
    assert len(components) == MOST_LABELLED + 1
    assert components["other"] == 50


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, *BUCKETS, 1e9]) | st.floats(0, 5), max_size=30))
def test_times_written_at_once_are_as_if_each_had_been_observed(seconds: list[float]) -> None:
    metrics = WorkerMetrics()
    for each in seconds:
        metrics.finish(Record("Rank"), "OK", each)
    metrics.flush()
    metrics.flush()  # what is written is written once
    registry = CollectorRegistry()
    expected = Histogram("tandem_rpc_seconds", *HISTOGRAMS["rpc_seconds"], registry=registry, buckets=BUCKETS)
    for each in seconds:
        expected.labels("Rank", "OK").observe(each)

    def samples(of: CollectorRegistry) -> dict[str, float]:
        return {
            sample.name + str(sample.labels): sample.value
            for metric in of.collect()
            for sample in metric.samples
            if sample.name.startswith("tandem_rpc_seconds") and not sample.name.endswith("_created")
        }

    assert samples(metrics.registry) == pytest.approx(samples(registry))


def test_requests_of_several_threads_are_counted_once_each_while_they_are_written() -> None:
    metrics = WorkerMetrics()

    def finish() -> None:
        for _ in range(MOST_KEPT):
            metrics.finish(Record("Rank"), "OK", 0.001)

    threads = [threading.Thread(target=finish) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.flush()
    metrics.flush()
    counted = metrics.registry.get_sample_value("tandem_rpc_seconds_count", {"rpc": "Rank", "code": "OK"})
    assert counted == 4 * MOST_KEPT


def test_recall_is_one_for_exact_searches_and_falls_with_what_was_missed() -> None:
    vectors = np.random.default_rng(1).normal(size=(500, 8)).astype(np.float32)
    queries = np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32)
    found = [ExactIndex(vectors).search(query, 10)[0] for query in queries]
    assert recall(vectors, queries, found) == 1.0
    worst = np.argsort(vectors @ queries[0])[:5].astype(np.int32)
    assert recall(vectors, queries[:1], [np.concatenate([found[0][:5], worst])]) == 0.5


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 19), unique=True, max_size=5), max_size=12))
def test_lists_that_were_shown_are_counted_by_item(
    tmp_path_factory: pytest.TempPathFactory, lists: list[list[int]]
) -> None:
    folder = tmp_path_factory.mktemp("samples")
    writers = [SampleWriter(folder, pid, lambda _: 20) for pid in (1, 2)]
    for i, rows in enumerate(lists):
        writers[i % 2].shown("b1", np.array([*rows, 99, -1], np.int32))  # what is not of the bundle is left out
    total = sum((each.astype(int) for each in shown_counts(folder, "b1").values()), np.zeros(20, int))
    assert total.tolist() == [sum(row in rows for rows in lists) for row in range(20)]


def test_every_source_keeps_as_many_searches_as_there_is_room_for_however_many_take_turns(tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path, 1, lambda _: 20)
    for i in range(KEPT_SEARCHES):
        for source in ("two_tower", "als"):
            writer.searched("b1", source, np.full(2, i, np.float32), np.arange(3, dtype=np.int32))
    kept = {source: vectors[:, 0].tolist() for source, vectors, _ in kept_searches(tmp_path, "b1")}
    assert kept == {source: list(range(KEPT_SEARCHES)) for source in ("als", "two_tower")}


class FolderRegistry:
    """A registry of one folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path_of(self, bundle_id: str) -> Path:
        return self._root / bundle_id


def test_the_audit_compares_searches_with_the_bundles_vectors_and_looks_at_one_window(tmp_path: Path) -> None:
    bundle = tmp_path / "bundles" / "b1"
    bundle.mkdir(parents=True)
    vectors = np.random.default_rng(1).normal(size=(400, 8)).astype(np.float32)
    np.save(bundle / "item_vectors.npy", vectors)
    files = WorkerFiles(tmp_path / "metrics")
    gauges = SideGauges(files)
    audit = Audit(FolderRegistry(tmp_path / "bundles"), files, gauges, every_s=0.0)  # type: ignore[arg-type]
    writer = SampleWriter(files.folder, os.getpid(), lambda _: 400)
    audit.look("b1")
    assert (gauges.exposure, gauges.recall) == (None, {})
    for i in range(40):  # more than are kept
        rows = ExactIndex(vectors).search(vectors[i], DEEPEST + 20)[0]
        writer.searched("b1", "two_tower", vectors[i], rows)
    writer.searched("b1", "two_tower", vectors[0], np.argsort(vectors @ vectors[0])[:16].astype(np.int32))
    writer.searched("b1", "unheard_of", vectors[0], np.zeros(3, np.int32))
    writer.shown("b1", np.arange(100, dtype=np.int32))
    audit.look("b1")
    assert set(gauges.recall) == {"two_tower"}
    assert gauges.recall["two_tower"] == (pytest.approx(15 / 16), 16)
    assert gauges.exposure == (pytest.approx(gini(np.repeat([1, 0], [100, 300]))), 0.25)
    writer.shown("b1", np.arange(4, dtype=np.int32))
    audit.look("b1")
    assert gauges.exposure == (pytest.approx(gini(np.repeat([1, 0], [4, 396]))), 0.01)
    audit.look("b2")
    audit.look("b3")
    assert list(kept_searches(files.folder, "b1")) == []


def test_a_port_that_is_taken_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    files = WorkerFiles(tmp_path)
    server = MetricsServer("127.0.0.1", 0, files, SideGauges(files), lambda: True)
    with pytest.raises(ConfigError, match=f"cannot serve metrics on 127.0.0.1:{server.port}"):
        MetricsServer("127.0.0.1", server.port, files, SideGauges(files), lambda: True)
    server.close()
