"""How many clusters: four criteria over a grid, and the rule that chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields

import numpy as np
from numpy.typing import NDArray

from tandem_trainer.clusters import (
    ClusterSettings,
    Criteria,
    capped,
    choose_count,
    compare_counts,
    fit_gmm,
    fit_kmeans,
    size_entropy,
)
from tandem_trainer.studies.report import StudyReport, StudyTable

CRITERIA = "K-means by number of clusters"


def study_clusters(
    vectors: NDArray[np.float32], data: str, grid: Sequence[int], settings: ClusterSettings, seed: int
) -> StudyReport:
    """Compare numbers of clusters on item vectors, float32 [N, D], and choose one."""
    criteria = compare_counts(vectors, grid, settings, seed)
    chosen = choose_count(criteria)
    columns = tuple(field.name for field in fields(Criteria))
    default = capped(settings.count, len(vectors))
    sizes = [
        (name, count, *_spread(fit(vectors, settings.model_copy(update={"count": count}), seed).sizes))
        for count in sorted({chosen.count, default})
        for name, fit in (("K-means", fit_kmeans), ("GMM", fit_gmm))
    ]
    return StudyReport(
        "clusters",
        {"data": data, "items": len(vectors), "chosen": chosen.count, "default": default, "seed": seed},
        (
            StudyTable(CRITERIA, columns, tuple(astuple(each) for each in criteria)),
            StudyTable(
                "Sizes", ("method", "clusters", "empty", "of one item", "median", "largest", "entropy"), tuple(sizes)
            ),
        ),
        (
            f"Rule: each criterion ranks the grid (elbow, silhouette and entropy high, Davies-Bouldin low); the best "
            f"mean rank wins, the smaller of equals: {chosen.count} clusters, mean rank {chosen.mean_rank:.2f}.",
            "The criteria look at the vectors alone: which number recommends best is another question (bench unseen).",
        ),
    )


def _spread(sizes: NDArray[np.int64]) -> tuple[int, int, float, int, float]:
    empty, alone = int((sizes == 0).sum()), int((sizes == 1).sum())
    return empty, alone, float(np.median(sizes)), int(sizes.max()), size_entropy(sizes)
