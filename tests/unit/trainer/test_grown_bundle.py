"""Bundles grown for benchmarks: they load, they serve, and they are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tandem_core.budget import Budget
from tandem_core.bundle import load_bundle
from tandem_core.policy import load_policies
from tandem_core.query import Query, UserEvents
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.registry import Registry
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.sparse_rows import SparseRows
from tandem_trainer.config import IndexSettings
from tandem_trainer.studies.grown_bundle import Family, grow, synthetic_history, with_noise
from tandem_trainer.studies.hardness import BREADTHS, hardness

EXACT = IndexSettings(kinds=("exact",))


def test_a_grown_bundle_is_served_by_the_real_pipelines_and_grown_once(bundle_folder: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    bundle_id = grow(bundle_folder, registry, 900, 7, EXACT)
    written = (registry.path_of(bundle_id) / "manifest.json").stat().st_mtime_ns
    assert grow(bundle_folder, registry, 900, 7, EXACT) == bundle_id
    assert (registry.path_of(bundle_id) / "manifest.json").stat().st_mtime_ns == written
    bundle = load_bundle(registry.path_of(bundle_id))  # with its goldens asked
    assert len(bundle.catalog) == 900
    history = synthetic_history(bundle.sources["item_to_item"].next_items, 20, np.random.default_rng(0))  # type: ignore[attr-defined]
    now_ms = bundle.manifest.data.last_event_ms
    events = UserEvents(
        [bundle.catalog.item_ids[row] for row in history[::-1]],
        now_ms - 1000 * np.arange(len(history), 0, -1),
        ["click"] * len(history),
        np.full(len(history), np.nan, np.float32),
    )
    query = Query(request_id="x", now_ms=now_ms, max_results=20, events=events)
    slate = RankingPipeline(bundle, load_policies(None)).recommend(query, Budget(), RetrievalPipeline(bundle).retrieve)
    assert len(slate.items) == 20
    assert slate.degradations == ()
    assert not set(slate.items.rows.tolist()) & set(history.tolist())


def test_every_parent_has_a_child_and_children_are_found_by_parent() -> None:
    family = Family.draw(5, 40, np.random.default_rng(1))
    assert set(family.parents.tolist()) == set(range(5))
    children, place = family.all_of(np.array([3, 1]))
    assert (family.parents[children] == np.array([3, 1])[place]).all()
    assert len(children) == np.isin(family.parents, [1, 3]).sum()
    assert family.parents[family.pick(np.array([4, 4, 0]), np.random.default_rng(2))].tolist() == [4, 4, 0]
    with pytest.raises(ValueError, match="4 items cannot descend from 5"):
        Family.draw(5, 4, np.random.default_rng(1))


def test_noise_turns_vectors_without_lengthening_them() -> None:
    rng = np.random.default_rng(3)
    vectors = (rng.normal(size=(200, 64)) * rng.lognormal(0, 1, (200, 1))).astype(np.float32)
    children = with_noise(vectors, 0.6, rng)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(np.linalg.norm(children, axis=1), lengths, rtol=1e-5)
    cosine = np.einsum("nd,nd->n", vectors, children) / lengths**2
    assert cosine.mean() == pytest.approx(1 / np.sqrt(1 + 0.6**2), abs=0.02)


def test_a_history_is_a_walk_without_returns() -> None:
    ring = SparseRows(np.arange(11), ((np.arange(10) + 1) % 10).astype(np.int32), np.ones(10, np.float32), 10)
    history = synthetic_history(ring, 6, np.random.default_rng(4))
    assert len(set(history.tolist())) == len(history) == 6


def test_hardness_shows_both_curves(bundle_folder: Path) -> None:
    table = hardness(bundle_folder, 7)
    assert len(table.rows) == 2
    for row in table.rows:
        recalls = row[1:]
        assert len(recalls) == len(BREADTHS)
        assert recalls[-1] == pytest.approx(1.0)  # as wide as the catalogue
