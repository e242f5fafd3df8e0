"""Curves and bars of the studies, as PNG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from tandem_core.metrics.calibration import CalibrationCurve
from tandem_trainer.clusters import ClusterSettings, fit_gmm, fit_kmeans
from tandem_trainer.studies.clusters import CRITERIA
from tandem_trainer.studies.report import StudyReport, StudyTable

ANGLES = ((20, 30), (20, 120), (75, 30))  # elevation and azimuth, degrees
IN_PCA = 10  # clusters that colours can still tell apart


def draw_clusters(
    vectors: NDArray[np.float32], report: StudyReport, settings: ClusterSettings, seed: int, folder: Path
) -> list[Path]:
    """Draw the criteria by number of clusters, the sizes of clusters, and ten clusters in three dimensions."""
    criteria = next(table for table in report.tables if table.title == CRITERIA)
    chosen = report.facts["chosen"]
    paths = [
        saved(folder / f"{name}.png", partial(_curve, table=criteria, name=name, chosen=chosen))
        for name in ("inertia", "silhouette", "davies_bouldin", "entropy")
    ]
    for name, fit in (("kmeans", fit_kmeans), ("gmm", fit_gmm)):
        sizes = np.sort(fit(vectors, settings, seed).sizes)[::-1]
        paths.append(saved(folder / f"sizes_{name}.png", partial(_sizes, name=name, sizes=sizes)))
    return [*paths, _pca(vectors, settings, seed, folder / "pca.png")]


def draw_tradeoff(report: StudyReport, folder: Path) -> list[Path]:
    """Draw the median times and the errors of the trade-off study as bars with their numbers beside."""
    speed, error = report.tables
    times = [(f"{arm}, {items:,} items", p50) for arm, items, _, p50, *_ in speed.rows]
    errors = [(f"{rows}, {users} users", mse) for rows, _, users, _, mse, *_ in error.rows]
    return [
        saved(folder / f"{name}.png", partial(_bars, bars=bars, label=label))
        for name, label, bars in (("times", "p50 us", times), ("errors", "mean squared error", errors))
    ]


def draw_calibration(curves: Mapping[str, CalibrationCurve], folder: Path) -> list[Path]:
    """Draw what each head said against what happened, by bin of equal mass; on the diagonal it was right."""
    return [
        saved(folder / f"calibration_{name}.png", partial(_calibration, curve=curve, name=name))
        for name, curve in curves.items()
    ]


def _calibration(axes: Any, curve: CalibrationCurve, name: str) -> None:
    shown = np.maximum(np.stack([curve.predicted, curve.observed]), 1e-7)  # on a logarithmic scale there is no 0
    axes.plot(*shown, marker="o")
    ends = [shown.min(), shown.max()]
    axes.plot(ends, ends, linestyle=":", color="grey")
    axes.set(xscale="log", yscale="log", xlabel="said", ylabel="happened", title=f"{name}: ECE {curve.error:.2g}")


def draw_diversity(report: StudyReport, folder: Path) -> list[Path]:
    """Draw distance within the list against NDCG@10, a curve for each rule."""
    (table,) = report.tables
    return [saved(folder / "diversity.png", partial(_sweep, table=table))]


def _sweep(axes: Any, table: StudyTable) -> None:
    columns = (table.column(name) for name in ("rule", "by", "kept"))
    names = [f"{rule} {by}{f', {kept} kept' if kept else ''}".strip() for rule, by, kept in zip(*columns, strict=True)]
    ndcg, distance = (np.array(table.column(name), np.float64) for name in ("ndcg@10", "distance"))
    for name in dict.fromkeys(names):
        at = [i for i, each in enumerate(names) if each == name]
        axes.plot(distance[at], ndcg[at], marker="o", linestyle="--" if "kept" in name else "-", label=name)
    axes.legend(bbox_to_anchor=(1, 1), loc="upper left")  # beside the curves, which go from corner to corner
    axes.set(xlabel="distance within the list, by category", ylabel="NDCG@10", title="what diversity costs")


def _bars(axes: Any, bars: list[tuple[str, Any]], label: str) -> None:
    places = np.arange(len(bars))  # and not the labels: bars of equal labels would lie on each other
    axes.bar_label(axes.barh(places, [height for _, height in bars]), fmt="%.3g", padding=2)
    axes.set_yticks(places, [name for name, _ in bars])
    axes.margins(x=0.1)
    axes.invert_yaxis()
    axes.set(xlabel=label)


def _curve(axes: Any, table: StudyTable, name: str, chosen: object) -> None:
    counts: Sequence[Any] = table.column("count")
    values: Sequence[Any] = table.column(name)
    axes.plot(counts, values, marker="o")
    axes.axvline(chosen, linestyle=":", color="grey", label=f"chosen: {chosen}")
    axes.legend()
    axes.set(xlabel="clusters", ylabel=name, title=f"{name} by number of clusters")


def _sizes(axes: Any, name: str, sizes: NDArray[np.int64]) -> None:
    axes.bar(np.arange(len(sizes)), sizes)
    axes.set(xlabel="cluster, largest first", ylabel="items", title=f"sizes of {len(sizes)} clusters, {name}")


def _pca(vectors: NDArray[np.float32], settings: ClusterSettings, seed: int, path: Path) -> Path:
    clusters = fit_kmeans(vectors, settings.model_copy(update={"count": IN_PCA}), seed)
    pca = PCA(3, random_state=seed).fit(vectors)
    points, centres = pca.transform(vectors), pca.transform(clusters.centres)
    figure = Figure(figsize=(15, 5), layout="constrained")
    for place, (elevation, azimuth) in enumerate(ANGLES, start=1):
        axes: Any = figure.add_subplot(1, 3, place, projection="3d")
        axes.scatter(*points.T, c=clusters.labels, cmap="tab10", s=3)
        axes.scatter(*centres.T, c="black", marker="x", s=60)
        axes.view_init(elevation, azimuth)
    share = pca.explained_variance_ratio_.sum()
    figure.suptitle(
        f"{len(clusters)} clusters and their centres; the three directions hold {share:.0%} of the variance"
    )
    return _write(figure, path)


def saved(path: Path, draw: Callable[[Any], None]) -> Path:
    """Write what `draw` puts on a figure's axes as PNG; return the path."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    draw(figure.add_subplot())
    return _write(figure, path)


def _write(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path
