"""Whether vectors made for a benchmark are as hard to search as trained ones: recall by breadth, side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.bundle import golden_user
from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.manifest import read_manifest
from tandem_core.sparse_rows import SparseRows
from tandem_core.user_tower import UserTower
from tandem_trainer.studies.grown_bundle import HISTORY, NOISE, synthetic_history, with_noise
from tandem_trainer.studies.report import Cell, StudyTable

AT = 30  # neighbours; trained catalogues are small, and of 300 of 1,500 a search finds most by itself
BREADTHS = (30, 40, 60, 90, 130, 200, 300)
USERS = 200


def hardness(source: Path, seed: int) -> StudyTable:
    """Compare a trained bundle's item vectors with as many children of them, each asked for its users' neighbours."""
    trained: NDArray[np.float32] = np.load(source / "item_vectors.npy", allow_pickle=False)
    rng = np.random.default_rng(seed)
    parents = rng.integers(0, len(trained), len(trained))
    compared = {
        f"trained, {len(trained):,} items": trained,
        f"their children, as many, noise {NOISE:g}": with_noise(trained[parents], NOISE, rng),
    }
    rows: list[tuple[Cell, ...]] = [
        (name, *recall_curve(vectors, _queries(source, vectors, rng), seed)) for name, vectors in compared.items()
    ]
    title = f"how hard the vectors are: HNSW (M 16) recall@{AT} at ef"
    return StudyTable(title, ("item vectors", *map(str, BREADTHS)), tuple(rows))


def recall_curve(vectors: NDArray[np.float32], queries: NDArray[np.float32], seed: int) -> list[float]:
    """Return the mean recall of the best 30 by breadth; vectors: float32 [N, D], queries: float32 [Q, D]."""
    exact, graph = ExactIndex(vectors), HnswIndex.build(vectors, 16, 200, BREADTHS[0], seed)
    truth = [exact.search(query, AT)[0] for query in queries]
    return [
        float(
            np.mean(
                [np.isin(graph.with_ef(ef).search(q, AT)[0], t).mean() for q, t in zip(queries, truth, strict=True)]
            )
        )
        for ef in BREADTHS
    ]


def _queries(source: Path, vectors: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the vectors of users whose histories are walks over these items."""
    manifest = read_manifest(source)
    next_items = SparseRows.load(source / "item_to_item.npz", len(vectors), len(vectors))
    tower = UserTower(source / "user_tower.onnx", manifest.features, vectors)
    walks = [synthetic_history(next_items, HISTORY, rng).tolist() for _ in range(USERS)]
    asked = [manifest.goldens[0].model_copy(update={"history": walk}) for walk in walks]
    return np.concatenate([tower.encode([golden_user(golden, manifest.features)]) for golden in asked])
