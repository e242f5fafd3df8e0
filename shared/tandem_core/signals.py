"""Every metric that Tandem has: names, what they mean, their labels. Standard library alone.

Labels have few values: names of calls, stages, sources, rules, never ids of users, items or requests.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is first imported
PREFIX = "tandem_"
# Seconds. A cached answer takes a tenth of a millisecond, a hung upstream the whole deadline.
BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
MOST_LABELLED = 200  # label values of one metric; further ones are counted as "other"
OTHER = "other"
ROOM = 512 * 1024  # bytes of each file of counts, of which a third is used


class Metric(NamedTuple):
    """What a metric means, and its labels."""

    help: str
    labels: tuple[str, ...] = ()


# Of requests, noted by `observe`; written every second.
HISTOGRAMS = {
    "rpc_seconds": Metric("From a call's arrival to its answer, the wait for a thread included", ("rpc", "code")),
    "stage_seconds": Metric("One stage of a request", ("stage",)),
    "source_seconds": Metric("One candidate source", ("source",)),
}
COUNTERS = {
    "source_candidates": Metric("Candidates a source found, and kept after merging", ("source", "state")),
    "rule_candidates": Metric("Candidates given to all rules, and dropped by each", ("rule", "state")),
    "degradations": Metric("What was missing from answers", ("kind", "component")),
    "store_errors": Metric("Reads of the store that failed"),
    "items_shown": Metric("Items in lists that went out"),
    # Of the process, told every second.
    "calls_shed": Metric("Calls refused because too many waited (full), or dropped as too late (late)", ("reason",)),
    "retrieval_calls": Metric("Ranking's calls to retrieval: call, retry, hedge, hedge_won", ("kind",)),
    "decisions_dropped": Metric("Decision records that could not be written"),
}
GAUGES = {
    "calls_held": Metric("Calls at work or waiting, of all workers"),
    "calls_waiting": Metric("Calls that wait for a thread, of all workers"),
    "store_lag_seconds": Metric(
        "How long requests have not seen all live items: the store is gone, or more changed than they take in at once"
    ),
    "bundle_info": Metric("1 for each bundle that a worker serves", ("bundle_id",)),
    "bundle_age_seconds": Metric("Since the oldest bundle that serves was trained"),
    "bundle_refused": Metric("1 while the registry points to a bundle that failed its checks"),
}
# Told by the side process.
SIDE_GAUGES = {
    "workers": Metric("Workers that live"),
    "exposure_gini": Metric("Inequality of how often items were shown, 0 (all alike) to 1, over the last window"),
    "exposure_share": Metric("Share of the catalogue that was shown at all, over the last window"),
    "ann_recall": Metric("Share of the true nearest items that searches found, over the newest samples", ("source",)),
    "ann_audited": Metric("Searches that the last audit compared", ("source",)),
}


def reserve(path: Path, content: bytes) -> None:
    """Make a file of this content that is to be mapped, its blocks on disk; raises OSError, and then there is none.

    A block that is not there when a mapping touches it ends the process with SIGBUS: without this a full disk killed
    one worker after another, where it should cost metrics.
    """
    staged = path.with_suffix(".part")  # nobody reads half a file
    try:
        staged.write_bytes(content)
        staged.replace(path)
    except OSError:
        staged.unlink(missing_ok=True)
        raise


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """Have a folder in which all processes of this tree write their metrics, named by their environment."""
    made = tempfile.mkdtemp(prefix="tandem-metrics-")
    os.environ[FOLDER] = made
    try:
        yield Path(made)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def exported_names() -> set[str]:
    """Return the names of all series as Prometheus sees them."""
    names = {PREFIX + name + suffix for name in HISTOGRAMS for suffix in ("_bucket", "_sum", "_count")}
    names |= {PREFIX + name + "_total" for name in COUNTERS}
    return names | {PREFIX + name for name in (*GAUGES, *SIDE_GAUGES)}
