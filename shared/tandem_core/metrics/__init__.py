"""How good lists are: one implementation for evaluation, the release gate, replay and the benches."""

from __future__ import annotations

from tandem_core.metrics.accuracy import Relevant, hits
from tandem_core.metrics.bootstrap import Interval, mean_interval, mean_intervals, paired_difference
from tandem_core.metrics.report import MetricsReport, Target, evaluate_lists, targets
from tandem_core.metrics.slices import SliceMean

__all__ = [
    "Interval",
    "MetricsReport",
    "Relevant",
    "SliceMean",
    "Target",
    "evaluate_lists",
    "hits",
    "mean_interval",
    "mean_intervals",
    "paired_difference",
    "targets",
]
