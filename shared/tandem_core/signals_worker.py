"""What a worker tells Prometheus: written into files of its own, which the side process adds up over all workers.

prometheus_client reads PROMETHEUS_MULTIPROC_DIR when it is first imported: the supervisor sets it before it executes
anything. Made after the fork.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tandem_core.observe import SOURCE, Record
from tandem_core.signals import BUCKETS, COUNTERS, FOLDER, GAUGES, HISTOGRAMS, MOST_LABELLED, OTHER, PREFIX
from tandem_core.signals_samples import SampleWriter


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
    """Metrics of one worker. samples: None where nobody looks at them."""

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
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}

    def finish(self, record: Record, code: str, seconds: float) -> None:
        """Take over what a request noted."""
        self._histograms["rpc_seconds"][record.rpc, code].observe(seconds)
        stages, sources = self._histograms["stage_seconds"], self._histograms["source_seconds"]
        for name, took in record.stages:
            if name.startswith(SOURCE):
                sources[(name[len(SOURCE) :],)].observe(took)
            else:
                stages[(name,)].observe(took)
        for metric, labels, by in record.counts:
            self._counters[metric][labels].inc(by)
        for bundle_id, rows in record.shown:
            self._counters["items_shown"][()].inc(len(rows))
            if self._samples is not None:
                self._samples.shown(bundle_id, rows)
        for source, vector, rows in record.searches:
            if self._samples is not None:
                self._samples.searched(record.bundle_id, source, vector, rows)

    def set(self, gauge: str, *labels: str, to: float) -> None:
        self._gauges[gauge][labels].set(to)

    def total(self, counter: str, *labels: str, is_now: float) -> None:
        """Bring a counter up to what was counted elsewhere in this process."""
        before = self._told.get((counter, labels), 0.0)
        self._told[counter, labels] = is_now
        self._counters[counter][labels].inc(is_now - before)


def folder() -> Path:
    """Return where this tree's files are; the supervisor has set it."""
    return Path(os.environ[FOLDER])
