"""One run's figures, as plain values for a file and for whoever draws the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tandem_core.metrics import Interval
from tandem_trainer.memory import memory_peak_mb
from tandem_trainer.quality.measure import Figures


@dataclass(frozen=True, slots=True)
class RowFigures:
    """figures: version ("repeats excluded", "repeats allowed") -> slice -> figures."""

    name: str
    about: str
    fitted_on: str
    refit: bool
    leaks: bool
    cached: bool
    fit_core_seconds: float
    notes: Mapping[str, float]
    figures: Mapping[str, Mapping[str, Figures]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of `metric` of row `better` minus that of row `than`, over the same users."""

    version: str
    metric: str
    better: str
    than: str
    interval: Interval


@dataclass(frozen=True, slots=True)
class Report:
    """versions, slices: their names, the first of each is the one that `rows` of the JSON is about. shown: the metrics
    that fit a table.
    """

    protocol: str
    dataset: str
    part: str
    statement: tuple[str, ...]
    counts: Mapping[str, int]
    versions: tuple[str, ...]
    slices: tuple[str, ...]
    shown: tuple[str, ...]
    rows: list[RowFigures]
    differences: list[Difference] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return everything, NaN as None."""
        version, headline = self.versions[0], self.slices[0]
        return {
            "protocol": self.protocol,
            "dataset": self.dataset,
            "part": self.part,
            "statement": list(self.statement),
            "counts": dict(self.counts),
            "users": self.rows[0].figures[version][headline].users if self.rows else 0,
            "slice": headline,
            "repeats": version,
            "rows": [
                {"name": row.name, **row.figures[version][headline].to_json(), **_of_fit(row)} for row in self.rows
            ],
            "slices": {
                each: {
                    name: {
                        "users": self.rows[0].figures[each][name].users if self.rows else 0,
                        "rows": [{"name": row.name, **row.figures[each][name].to_json()} for row in self.rows],
                    }
                    for name in self.slices
                }
                for each in self.versions
            },
            "differences": [
                {
                    "repeats": d.version,
                    "metric": d.metric,
                    "better": d.better,
                    "than": d.than,
                    "difference": d.interval.mean,
                    "low": d.interval.low,
                    "high": d.interval.high,
                }
                for d in self.differences
            ],
            "memory_peak_mb": memory_peak_mb(),
        }


def _of_fit(row: RowFigures) -> dict[str, Any]:
    return {
        "fit_core_seconds": row.fit_core_seconds,
        "fitted_on": row.fitted_on,
        "refit": row.refit,
        "leaks": row.leaks,
        "cached": row.cached,
        "notes": dict(row.notes),
    }
