from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem_core.bundle import Bundle, golden_user, load_bundle
from tandem_core.catalog import Catalog
from tandem_core.errors import BundleRefused
from tandem_core.features import resolve_user, user_tower_inputs
from tandem_core.filters import Eligibility
from tandem_core.index.hnsw import HnswIndex
from tandem_core.manifest import sha256_of
from tandem_core.query import Query, Regime, UserEvents

TABLES = {"popularity", "popularity_segment", "popularity_category", "popularity_7d", "popularity_30d", "trending"}
FOR_RETRIEVAL = {
    *("two_tower", "als", "item_to_item", "content_neighbours", "content_cold", "fresh", "search"),
    *("cold_items", "weighted_average", "interests", "kmeans", "mixture", "live"),
}


@pytest.fixture
def copy(bundle_folder: Path, tmp_path: Path) -> Path:
    """A bundle that may be damaged."""
    return Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def rehash(folder: Path, name: str) -> None:
    """Make the manifest say what the file is now: damage done before it was hashed."""
    path = folder / name
    edit(folder, lambda m: m["files"].update({name: {"size": path.stat().st_size, "sha256": sha256_of(path)}}))


def change_vectors(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(folder / name, change(np.load(folder / name)))
    rehash(folder, name)


def poisoned(vectors: np.ndarray) -> np.ndarray:
    vectors[17, 3] = np.nan
    return vectors


def test_a_whole_bundle_loads_with_all_its_parts(copy: Path) -> None:
    bundle = load_bundle(copy)
    assert set(bundle.sources) == bundle.source_names == FOR_RETRIEVAL | TABLES
    assert set(bundle.plans) == set(Regime)
    assert all(bundle.plans.values())
    assert bundle.scorer is not None
    np.testing.assert_allclose(np.linalg.norm(bundle.item_vectors, axis=1), 1, atol=1e-4)
    assert bundle.popularity_level.max() == 1
    assert bundle.popularity_level.min() >= 0


def test_a_service_loads_its_own_parts_alone(copy: Path) -> None:
    for_ranking = load_bundle(copy, retrieval=False)
    assert set(for_ranking.sources) == TABLES
    assert for_ranking.source_names == FOR_RETRIEVAL | TABLES  # of what it may ask retrieval for
    assert for_ranking.user_tower is None
    assert all(plan.source in for_ranking.sources for plans in for_ranking.plans.values() for plan in plans)
    assert load_bundle(copy, ranking=False).scorer is None


def files_of(folder: Path) -> list[str]:
    return sorted(json.loads((folder / "manifest.json").read_text())["files"])


def test_every_file_of_a_bundle_is_hashed(copy: Path) -> None:
    assert files_of(copy) == sorted(path.name for path in copy.iterdir() if path.name != "manifest.json")


def test_a_missing_file_is_named_whichever_it_is(copy: Path) -> None:
    for name in files_of(copy):
        kept = (copy / name).read_bytes()
        (copy / name).unlink()
        with pytest.raises(BundleRefused, match=f"{name} is missing"):
            load_bundle(copy)
        (copy / name).write_bytes(kept)


def test_one_flipped_bit_is_found_whichever_file_it_is_in(copy: Path) -> None:
    for name in files_of(copy):
        kept = (copy / name).read_bytes()
        flipped = bytearray(kept)
        flipped[len(flipped) // 2] ^= 1
        (copy / name).write_bytes(flipped)
        with pytest.raises(BundleRefused, match=f"{name} does not have the sha256"):
            load_bundle(copy)
        (copy / name).write_bytes(kept)


@pytest.mark.parametrize("name", ["item_vectors.npy", "als_factors.npy", "content_vectors.npy"])
def test_a_vector_that_is_not_finite_is_refused_by_file_and_row(copy: Path, name: str) -> None:
    change_vectors(copy, name, poisoned)
    with pytest.raises(BundleRefused, match=rf"{name} has a vector that is not finite, first in row 17"):
        load_bundle(copy)


def test_vectors_of_another_dimension_or_number_are_refused(copy: Path) -> None:
    change_vectors(copy, "als_factors.npy", lambda vectors: vectors[1:])
    with pytest.raises(BundleRefused, match=r"als_factors\.npy has shape \(299, \d+\); expected 300 rows"):
        load_bundle(copy)
    change_vectors(copy, "item_vectors.npy", lambda vectors: vectors[:, 1:])
    with pytest.raises(BundleRefused, match=r"item_vectors\.npy has shape \(300, 63\); expected 300 rows of 64"):
        load_bundle(copy)


def rewrite(folder: Path, name: str, **changed: np.ndarray) -> None:
    """Change arrays of an npz file, and hash it anew."""
    with np.load(folder / name) as arrays:
        kept = dict(arrays)
    np.savez(folder / name, allow_pickle=False, **{**kept, **changed})
    rehash(folder, name)


@pytest.mark.parametrize("name", ["item_to_item.npz", "search.npz"])
def test_sparse_files_that_do_not_fit_the_catalogue_are_refused(copy: Path, name: str) -> None:
    with np.load(copy / name) as arrays:
        values, columns, indptr = arrays["values"], arrays["columns"], arrays["indptr"]
    rewrite(copy, name, values=np.where(np.arange(len(values)) == 5, np.nan, values).astype(np.float32))
    with pytest.raises(BundleRefused, match="values that are not finite"):
        load_bundle(copy)
    rewrite(copy, name, values=values, columns=columns + 300)
    with pytest.raises(BundleRefused, match="columns outside 0 to 299"):
        load_bundle(copy)
    rewrite(copy, name, columns=columns, indptr=indptr[:-1])
    with pytest.raises(BundleRefused, match=r"has \d+ rows; expected"):
        load_bundle(copy)


def test_tables_and_times_that_do_not_fit_the_catalogue_are_refused(copy: Path) -> None:
    born = np.load(copy / "born_ms.npy")
    change_vectors(copy, "born_ms.npy", lambda times: times[:-1])
    with pytest.raises(BundleRefused, match=r"born_ms\.npy has shape \(299,\) of float64; expected \(300,\)"):
        load_bundle(copy)
    change_vectors(copy, "born_ms.npy", lambda times: np.where(np.arange(300) == 7, np.inf, born))
    with pytest.raises(BundleRefused, match=r"born_ms\.npy has an infinite time, first in row 7"):
        load_bundle(copy)
    change_vectors(copy, "born_ms.npy", lambda times: born)
    with np.load(copy / "popularity.npz") as arrays:
        rows, scores = arrays["rows"], arrays["scores"]
    rewrite(copy, "popularity.npz", scores=np.full_like(scores, np.nan))
    with pytest.raises(BundleRefused, match="popularity table 'global' has scores that are not finite"):
        load_bundle(copy)
    rewrite(copy, "popularity.npz", scores=scores, rows=rows + 1)
    with pytest.raises(BundleRefused, match="popularity table 'global' has rows outside the catalogue of 300 items"):
        load_bundle(copy)


def test_every_source_that_scores_any_row_gives_what_it_found_the_same_scores(bundle: Bundle) -> None:
    user = resolve_user(bundle.schema, bundle.catalog, query_of(bundle))
    everything = Eligibility(bundle.catalog, user.interacted, None)
    silent = set()
    for name, source in bundle.sources.items():
        found = source.find(user, everything, 50)
        if name == "live":
            assert not len(found)  # before the first item is added
            continue
        assert len(found), name
        if found.score_rows is None:
            silent.add(name)
            continue
        np.testing.assert_allclose(found.score_rows(found.rows), found.scores, atol=1e-5, err_msg=name)
        everywhere = found.score_rows(bundle.catalog.all_rows)
        assert everywhere.shape == (len(bundle.catalog),)
        assert everywhere.dtype == np.float32
        assert np.isfinite(everywhere).all(), name
    # They order by place, or score two kinds of users on two scales.
    assert silent == {"popularity_segment", "popularity_category", "cold_items", "kmeans", "mixture"}


def query_of(bundle: Bundle) -> Query:
    """A user with six events and a profile, who types a word of some title, a day after the last training event."""
    now_ms = bundle.manifest.data.last_event_ms + 86_400_000
    word = next(title for title in bundle.catalog.titles if title).split()[0]
    ids = [bundle.catalog.item_ids[row] for row in np.argsort(-bundle.catalog.event_counts, kind="stable")[:12:2]]
    events = UserEvents(ids, now_ms - 1000 * np.arange(6, 0, -1), ["click"] * 6, np.full(6, np.nan, np.float32))
    profile = {name: vocabulary[0] for name, vocabulary in bundle.schema.user_attributes.items()}
    return Query(request_id="r", now_ms=now_ms, max_results=50, events=events, attributes=profile, query_text=word)


def test_a_golden_query_that_is_off_is_refused(copy: Path) -> None:
    def shift(manifest: dict[str, Any]) -> None:
        manifest["goldens"][0]["expected"][5] += 0.01

    edit(copy, shift)
    with pytest.raises(BundleRefused, match=r"a golden query is off by 0\.01, more than 0\.001"):
        load_bundle(copy)
    load_bundle(copy, retrieval=False)  # ranking has no tower to ask


def test_a_golden_query_catches_item_vectors_of_another_model(copy: Path) -> None:
    change_vectors(copy, "item_vectors.npy", lambda vectors: vectors[::-1].copy())
    with pytest.raises(BundleRefused, match="a golden query is off"):
        load_bundle(copy)


def test_the_goldens_hold_a_history_and_a_user_without_one(bundle: Bundle) -> None:
    sizes = {len(golden.history) > 0 for golden in bundle.manifest.goldens}
    assert True in sizes
    for golden in bundle.manifest.goldens:
        user = golden_user(golden, bundle.schema)
        inputs = user_tower_inputs(bundle.schema, [user], bundle.item_vectors)
        assert inputs["history_mask"].sum() == min(len(golden.history), bundle.schema.history_length)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: [m.update(format=1), m.pop("fresh")], "has format 1; this version reads 4"),
        (lambda m: m["features"].update(history_length=51), "does not have its recorded digest"),
        (lambda m: m.update(schema_digest="0"), "does not have its recorded digest"),
        (lambda m: m["indexes"].pop("als"), "cannot be loaded: KeyError: 'als'"),
        (lambda m: m["plans"].pop("warm"), "cannot be loaded: KeyError: 'warm'"),
        (lambda m: m["indexes"]["two_tower"].update(kind="hnsw", ef=50), r"does not list \['two_tower.hnsw'\]"),
        (lambda m: m["files"].pop("ranker.onnx"), r"does not list \['ranker.onnx'\]"),
        (lambda m: m["goldens"][0].update(history=[10**6]), "cannot be loaded: IndexError"),
        (lambda m: m["goldens"][0].update(expected=[0.0, 1.0]), "cannot be loaded: ValueError"),
    ],
    ids=["format", "schema", "digest", "index", "plan", "no graph", "unlisted file", "golden row", "golden size"],
)
def test_a_manifest_that_does_not_fit_is_refused_and_says_why(
    copy: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit(copy, change)
    with pytest.raises(BundleRefused, match=said):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["ranker_features"].append("number:weight"), "can not compute: number:weight"),
        (lambda m: m["ranker_features"].append("level:window:90"), "can not compute: level:window:90"),
        (lambda m: m["ranker_features"].append("source_z:oracle"), "can not compute: source_z:oracle"),
        (lambda m: m["ranker_features"].pop(), "takes [0-9]+ columns, but the manifest names"),
        (lambda m: m["ranker_heads"].append({"name": "share"}), "answers, but|columns, but the manifest names 1 [+]"),
    ],
    ids=["number", "table", "source", "width", "heads"],
)
def test_a_ranker_whose_bundle_lacks_a_column_it_was_trained_on_is_refused(
    copy: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit(copy, change)
    with pytest.raises(BundleRefused, match=said):
        load_bundle(copy)
    assert load_bundle(copy, ranking=False).scorer is None  # retrieval needs no ranker


@pytest.mark.parametrize(
    "name", ["catalog.npz", "popularity.npz", "item_vectors.npy", "user_tower.onnx", "ranker.onnx"]
)
def test_a_file_that_was_garbage_when_it_was_hashed_is_refused(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"garbage" * 50)
    rehash(copy, name)
    with pytest.raises(BundleRefused, match="cannot be loaded"):
        load_bundle(copy)


def test_a_file_that_would_run_code_when_read_is_refused(copy: Path) -> None:
    np.save(copy / "item_vectors.npy", np.array([{"any": "object"}], object), allow_pickle=True)
    rehash(copy, "item_vectors.npy")
    with pytest.raises(BundleRefused, match="Python objects"):
        load_bundle(copy)


def test_a_catalogue_of_another_length_than_the_vectors_is_refused(copy: Path) -> None:
    whole = Catalog.load(copy / "catalog.npz")
    Catalog(whole.item_ids[:9], whole.titles[:9], {}, {}, whole.event_counts[:9]).save(copy / "catalog.npz")
    rehash(copy, "catalog.npz")
    with pytest.raises(BundleRefused, match=r"item_vectors\.npy has shape \(300, 64\); expected 9 rows"):
        load_bundle(copy)


def test_a_bundle_with_a_graph_searches_it_with_the_breadth_of_the_manifest(copy: Path) -> None:
    vectors = np.load(copy / "item_vectors.npy")
    HnswIndex.build(vectors, 8, 100, 10, seed=0).save(copy / "two_tower.hnsw")
    rehash(copy, "two_tower.hnsw")
    edit(copy, lambda m: m["indexes"]["two_tower"].update(kind="hnsw", ef=200))
    index = load_bundle(copy).sources["two_tower"].index  # type: ignore[attr-defined]
    assert isinstance(index, HnswIndex)
    assert index.search(vectors[4], 5)[0][0] == 4


def test_a_graph_over_the_vectors_of_another_bundle_is_refused(copy: Path) -> None:
    others = np.roll(np.load(copy / "item_vectors.npy"), 1, axis=0)  # as many, of the same length, in other rows
    HnswIndex.build(others, 8, 100, 10, seed=0).save(copy / "two_tower.hnsw")
    rehash(copy, "two_tower.hnsw")
    edit(copy, lambda m: m["indexes"]["two_tower"].update(kind="hnsw", ef=200))
    with pytest.raises(BundleRefused, match=r"two_tower\.hnsw was built over other vectors"):
        load_bundle(copy)
