"""The comparison: fit every row on the same cut, rank for the same users, judge alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from tandem_trainer.quality.context import Context
from tandem_trainer.quality.log import HeldOut
from tandem_trainer.quality.measure import COVERAGE, Lists, difference, figures, make_lists
from tandem_trainer.quality.protocols import Cut
from tandem_trainer.quality.report import Difference, Report, RowFigures

Repeats: TypeAlias = Literal["exclude", "allow", "both"]
EXCLUDED = "repeats excluded"  # first purchases alone: what the user had is not ranked and is no answer
ALLOWED = "repeats allowed"  # everything is ranked, every later event is an answer

METRICS = ("hr@10", "ndcg@10", "recall@100", "recall@500")
COLD_METRICS = ("recall@20", "ndcg@20")
COLD_SHOWN = (*COLD_METRICS, "hr@10", COVERAGE)  # the others say little of a hundred or so items
COMPARED = ("recall@10", "recall@100", "recall@500")


def versions_of(cut: Cut, repeats: Repeats | None) -> tuple[str, ...]:
    """Return the versions to print: as asked, else both where users have items more than once."""
    asked = repeats or ("both" if cut.log.repeats else "exclude")
    return {"exclude": (EXCLUDED,), "allow": (ALLOWED,), "both": (EXCLUDED, ALLOWED)}[asked]


def compare(
    context: Context,
    names: Sequence[str],
    *,
    part: Literal["validation", "test"] = "test",
    repeats: Repeats | None = None,
    tell: Callable[[RowFigures], None] = lambda row: None,
) -> Report:
    """Fit and measure the named rows. part: "validation" to choose by, with fits on the training part alone; "test" to
    report. tell: called with each row as it is done.
    """
    cut, seed = context.cut, context.config.seed
    asked = cut.validation if part == "validation" else cut.test
    versions = versions_of(cut, repeats)
    cold = cut.protocol == "cold-item"
    measured = (*COLD_METRICS, *METRICS) if cold else METRICS
    rows: list[RowFigures] = []
    lists: dict[str, dict[str, Lists]] = {}
    for name in names:
        lists[name], row = _measure(context, name, asked, versions, measured, part)
        rows.append(row)
        tell(row)
    return Report(
        protocol=cut.protocol,
        dataset=cut.log.dataset.name,
        part=part,
        statement=(*cut.statement, *_explained(versions, part)),
        counts=cut.counts,
        versions=versions,
        slices=tuple(asked.slices),
        shown=COLD_SHOWN if cold else (*METRICS, COVERAGE),
        rows=rows,
        differences=_differences(context, lists, asked, versions, seed),
    )


def _measure(
    context: Context, name: str, asked: HeldOut, versions: Sequence[str], measured: tuple[str, ...], part: str
) -> tuple[dict[str, Lists], RowFigures]:
    fitted_on = "train" if part == "validation" else context.part_for_test(name)
    fitted, row = context.fitted(name, fitted_on), context.rows[name]
    with context.progress.step(f"rank {name}"):
        lists = {
            version: make_lists(name, fitted.scores, asked, context.cut.log.n_items, repeats=version == ALLOWED)
            for version in versions
        }
    found = {
        version: {kind: figures(each, mask, measured, context.config.seed) for kind, mask in asked.slices.items()}
        for version, each in lists.items()
    }
    return lists, RowFigures(
        name=name,
        about=" ".join((type(row).__doc__ or "").split()),
        fitted_on=fitted_on,
        refit=fitted_on != "train",
        leaks=row.leaks,
        cached=fitted.cached,
        fit_core_seconds=fitted.core_seconds,
        notes=fitted.fit.notes,
        figures=found,
    )


def _differences(
    context: Context, lists: Mapping[str, Mapping[str, Lists]], asked: HeldOut, versions: Sequence[str], seed: int
) -> list[Difference]:
    """Compare every merge of sources with every single source."""
    headline = next(iter(asked.slices.values()), np.ones(len(asked), np.bool_))
    merges = [name for name in lists if not context.rows[name].single]
    singles = [name for name in lists if context.rows[name].single]
    found = []
    for version in versions:
        for metric in COMPARED:
            for ours in merges:
                for theirs in singles:
                    pair = lists[ours][version], lists[theirs][version]
                    interval = difference(*pair, metric, headline, seed)
                    found.append(Difference(version, metric, ours, theirs, interval))
    return found


def _explained(versions: Sequence[str], part: str) -> list[str]:
    said = {
        EXCLUDED: "Repeats excluded: what the user had before is not ranked and is no answer; users who then have no "
        "answer left are not counted.",
        ALLOWED: "Repeats allowed: everything is ranked, and every later event is an answer.",
    }
    figures_of = "test" if part == "test" else "validation: models fitted on the training part alone"
    return [
        *(said[version] for version in versions),
        f"Figures are of {figures_of}. hr@k: any answer among the first k; recall@k: share of the user's answers; "
        "means over users, 95 % percentile bootstrap over users. coverage@10: share of the ranked items in any first "
        "10. fit core-s: processor seconds of the fit and of all fits it rests on.",
    ]
