"""What a worker tells Prometheus: written into files of its own, which the side process adds up over all workers.

prometheus_client reads PROMETHEUS_MULTIPROC_DIR when it is first imported: the supervisor sets it before it executes
anything. Made after the fork.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tandem_core.observe import SOURCE, Record
from tandem_core.signals import (
    BUCKETS,
    COUNTERS,
    FOLDER,
    GAUGES,
    HISTOGRAMS,
    MOST_LABELLED,
    OTHER,
    PREFIX,
    ROOM,
    reserve,
)
from tandem_core.signals_samples import SampleWriter

log = logging.getLogger(__name__)

MOST_KEPT = 4096  # requests that wait to be written: a busy worker answers some hundred in the second between


class _Children(dict[tuple[str, ...], Any]):
    """Label values -> the series of a metric: finding it again by `labels` costs as much as adding to it."""

    def __init__(self, metric: Any, labels: tuple[str, ...]) -> None:
        super().__init__()
        self._metric = metric
        self._labels = labels

    def __missing__(self, values: tuple[str, ...]) -> Any:
        if len(self) >= MOST_LABELLED:
            values = (OTHER,) * len(self._labels)
        child = self[values] = self._metric.labels(*values) if self._labels else self._metric
        return child


class WorkerMetrics:
    """Metrics of one worker. samples: None where nobody looks at them.

    Requests are written by `flush`, every second: for each of them alone that took 6 to 7 % of its CPU, for all of a
    second together a tenth of it. A worker that is killed takes the requests since then with it.
    """

    def __init__(self, samples: SampleWriter | None = None) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self._samples = samples
        self._histograms = {
            name: _Children(Histogram(PREFIX + name, *metric, registry=registry, buckets=BUCKETS), metric.labels)
            for name, metric in HISTOGRAMS.items()
        }
        self._counters = {
            name: _Children(Counter(PREFIX + name, *metric, registry=registry), metric.labels)
            for name, metric in COUNTERS.items()
        }
        modes = {"calls_held": "livesum", "calls_waiting": "livesum"}
        self._gauges = {
            name: _Children(
                Gauge(PREFIX + name, *metric, registry=registry, multiprocess_mode=modes.get(name, "livemax")),  # type: ignore[arg-type]
                metric.labels,
            )
            for name, metric in GAUGES.items()
        }
        self._done: deque[tuple[Record, str, float]] = deque()
        self._writing = threading.Lock()
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}

    def finish(self, record: Record, code: str, seconds: float) -> None:
        """Keep what a request noted until it is written."""
        self._done.append((record, code, seconds))
        if len(self._done) >= MOST_KEPT:
            self.flush()

    def flush(self) -> None:
        """Write what the requests since the last time noted, each series once."""
        with self._writing:
            done = [self._done.popleft() for _ in range(len(self._done))]
            self._write(done)

    def _write(self, done: Sequence[tuple[Record, str, float]]) -> None:
        calls: dict[tuple[str, str], list[float]] = defaultdict(list)
        stages: dict[str, list[float]] = defaultdict(list)
        counts: dict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
        shown: dict[str, list[Any]] = defaultdict(list)
        for record, code, seconds in done:
            calls[record.rpc, code].append(seconds)
            for name, took in record.stages:
                stages[name].append(took)
            for metric, labels, by in record.counts:
                counts[metric, labels] += by
            for bundle_id, rows in record.shown:
                shown[bundle_id].append(rows)
            for source, vector, rows in record.searches:
                self._sample(SampleWriter.searched, record.bundle_id, source, vector, rows)
        for call, took_all in calls.items():
            _observe_all(self._histograms["rpc_seconds"][call], took_all)
        for name, took_all in stages.items():
            metric = "source_seconds" if name.startswith(SOURCE) else "stage_seconds"
            _observe_all(self._histograms[metric][(name.removeprefix(SOURCE),)], took_all)
        for (metric, labels), by in counts.items():
            self._counters[metric][labels].inc(by)
        for bundle_id, lists in shown.items():
            self._counters["items_shown"][()].inc(sum(map(len, lists)))
            self._sample(SampleWriter.shown, bundle_id, np.concatenate(lists))

    def _sample(self, write: Callable[..., None], *what: Any) -> None:
        """Write a sample; the first that cannot be written is the last of this worker, which serves on."""
        if self._samples is None:
            return
        try:
            write(self._samples, *what)
        except OSError as error:
            log.error("samples for the audit are not kept any more", extra={"reason": str(error)})
            self._samples = None

    def set(self, gauge: str, *labels: str, to: float) -> None:
        self._gauges[gauge][labels].set(to)

    def total(self, counter: str, *labels: str, is_now: float) -> None:
        """Bring a counter up to what was counted elsewhere in this process."""
        before = self._told.get((counter, labels), 0.0)
        self._told[counter, labels] = is_now
        self._counters[counter][labels].inc(is_now - before)


def _observe_all(histogram: Any, seconds: Sequence[float]) -> None:
    """Do what `observe` does for each value; prometheus_client has no public way to do so at once."""
    which = np.searchsorted(histogram._upper_bounds, seconds)
    for bucket, n in enumerate(np.bincount(which).tolist()):
        if n:
            histogram._buckets[bucket].inc(n)
    histogram._sum.inc(sum(seconds))


def reserve_files() -> None:
    """Make this worker's files before prometheus_client maps them; raises OSError, and then there are to be no metrics.

    It would make them sparse: see `signals.reserve`.
    """
    for kind in ("counter", "histogram", "gauge_livesum", "gauge_livemax"):
        reserve(folder() / f"{kind}_{os.getpid()}.db", bytes(ROOM))


def folder() -> Path:
    """Return where this tree's files are: the supervisor has made it, what tidies temporary files up may take it."""
    path = Path(os.environ[FOLDER])
    path.mkdir(exist_ok=True)
    return path
