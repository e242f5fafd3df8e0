"""A loaded bundle: everything that must agree, checked before it may serve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.ma  # np.unique would import it when first called, and recurses where two requests do so at once
from numpy.typing import NDArray

from tandem_core.blend import BlendWeights
from tandem_core.catalog import Catalog
from tandem_core.clusters import Clusters
from tandem_core.errors import BundleRefused
from tandem_core.features import FeatureSchema, History, User
from tandem_core.index.base import VectorIndex
from tandem_core.index.exact import ExactIndex
from tandem_core.index.hnsw import HnswIndex
from tandem_core.index.ivf import IvfIndex
from tandem_core.live.growing import with_room
from tandem_core.manifest import Golden, IndexInfo, Manifest, read_manifest, verify_files
from tandem_core.query import Regime, SourcePlan
from tandem_core.ranker_features import unknown_features
from tandem_core.ranker_tables import RankerTables
from tandem_core.scorer import OnnxScorer
from tandem_core.sources.als import Als
from tandem_core.sources.base import Source
from tandem_core.sources.clusters import ClusterSource
from tandem_core.sources.cold_items import ColdItems
from tandem_core.sources.cold_items_model import ColdItemModel
from tandem_core.sources.content_neighbours import ColdContentNeighbours, ContentNeighbours
from tandem_core.sources.fresh import Fresh
from tandem_core.sources.interests import Interests
from tandem_core.sources.item_to_item import ItemToItem
from tandem_core.sources.live import LIVE, LiveItems
from tandem_core.sources.popularity import CategoryPopularity, Popularity, SegmentPopularity
from tandem_core.sources.popularity_tables import PopularityTables
from tandem_core.sources.search import Search
from tandem_core.sources.top_of_table import TopOfTable
from tandem_core.sources.two_tower import TwoTower
from tandem_core.sources.weighted_average import WeightedAverage
from tandem_core.sparse_rows import SparseRows
from tandem_core.user_tower import UserTower

FILES = frozenset(
    {
        "catalog.npz",
        "popularity.npz",
        "content_vectors.npy",
        "item_vectors.npy",
        "als_factors.npy",
        "kmeans.npz",
        "mixture.npz",
        "item_to_item.npz",
        "born_ms.npy",
        "search.npz",
        "item_tower.onnx",
        "user_tower.onnx",
        "ranker.onnx",
    }
)
COLD_ITEMS = "cold_items.npz"
# Sources that every bundle has, and retrieval alone loads.
OF_RETRIEVAL = frozenset(
    {
        "two_tower",
        "weighted_average",
        "interests",
        "kmeans",
        "mixture",
        "als",
        "item_to_item",
        "content_neighbours",
        "content_cold",
        "fresh",
        "search",
        LIVE,
    }
)
INDEX_FILES = {"ivf": ".ivf.npz", "hnsw": ".hnsw"}  # exact search needs no file
GOLDEN_TOLERANCE = 1e-3  # between machines; the export's own parity check is ten times tighter


@dataclass(frozen=True, slots=True)
class Bundle:
    """One version of everything. item_vectors: float32 [N, D], unit length. content_vectors: float32 [N, T].

    popularity_level: float32 [N] in [0, 1], logarithm of training events over that of the most popular item.
    sources: name -> source; a service that only ranks loads those alone that are tables of popular items.
    source_names: of all that retrieval has of this bundle.
    """

    id: str
    manifest: Manifest
    schema: FeatureSchema
    catalog: Catalog
    popularity_level: NDArray[np.float32]
    item_vectors: NDArray[np.float32]
    content_vectors: NDArray[np.float32]
    sources: Mapping[str, Source]
    source_names: frozenset[str]
    plans: Mapping[Regime, tuple[SourcePlan, ...]]
    blends: Mapping[Regime, BlendWeights]
    scorer: OnnxScorer | None
    user_tower: UserTower | None
    ranker_tables: RankerTables = field(default_factory=RankerTables)

    def warm(self) -> None:
        """Open the models and ask the golden queries; raises BundleRefused.

        Apart from loading because models start threads: a process that is forked loads before and warms after.
        """
        with _refusing(f"the models of bundle {self.id}"):
            if self.user_tower is not None:
                for golden in self.manifest.goldens:
                    _check_golden(golden, self.user_tower, self.schema)
            if self.scorer is not None:
                self.scorer.warm()


def load_bundle(folder: Path, *, retrieval: bool = True, ranking: bool = True, warm: bool = True) -> Bundle:
    """Load and check the parts that retrieval, ranking or both need; raises BundleRefused saying what is wrong.

    warm: open and check the models too; without it `Bundle.warm` must be called before the bundle serves.
    """
    manifest = read_manifest(folder)
    indexes = {name + INDEX_FILES[info.kind] for name, info in manifest.indexes.items() if info.kind in INDEX_FILES}
    if unlisted := (FILES | indexes) - set(manifest.files):
        raise BundleRefused(f"the manifest of {folder} does not list {sorted(unlisted)}: nothing vouches for them")
    verify_files(folder, manifest)
    with _refusing(str(folder)):
        bundle = open_parts(folder, manifest, retrieval=retrieval, ranking=ranking)
    if warm:
        bundle.warm()
    return bundle


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except BundleRefused:
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are readers
        raise BundleRefused(f"{what} cannot be loaded: {type(error).__name__}: {error}") from error


def open_parts(folder: Path, manifest: Manifest, *, retrieval: bool, ranking: bool) -> Bundle:
    """Load files as the manifest describes them, hashes not compared: for the trainer, whose bundle is not done."""
    schema = manifest.features
    catalog = Catalog.load(folder / "catalog.npz")
    item_vectors = with_room(_vectors(folder / "item_vectors.npy", len(catalog), schema.vector_dim, in_file=True))
    content_vectors = with_room(_vectors(folder / "content_vectors.npy", len(catalog), in_file=True))
    popularity = PopularityTables.load(folder / "popularity.npz")
    popularity.check(len(catalog))
    next_items = SparseRows.load(folder / "item_to_item.npz", len(catalog), len(catalog))
    tables = RankerTables.of(popularity, next_items, len(catalog))
    sources: dict[str, Source] = {
        "popularity": Popularity(popularity),
        "popularity_segment": SegmentPopularity(popularity),
        **{name: TopOfTable(table, len(catalog)) for name, table in popularity.catalogue_wide().items()},
    }
    if "categories" in catalog.codes:
        sources["popularity_category"] = CategoryPopularity(popularity, catalog.codes["categories"])
    has_cold_items = (folder / COLD_ITEMS).exists()  # a training run with too few items to learn from writes none
    names = frozenset({*sources, *OF_RETRIEVAL, *(["cold_items"] if has_cold_items else [])})
    user_tower = None
    if retrieval:
        user_tower = UserTower(folder / "user_tower.onnx", schema, item_vectors)
        index = open_index(folder, "two_tower", manifest, item_vectors)
        sources |= {"two_tower": TwoTower(user_tower, index), "weighted_average": WeightedAverage(index)}
        sources["interests"] = Interests(index)
        for name in ("kmeans", "mixture"):
            sources[name] = ClusterSource(Clusters.load(folder / f"{name}.npz"), item_vectors)
        sources |= _behaviour_sources(folder, manifest, next_items)
        sources |= _content_sources(folder, manifest, catalog, content_vectors) | {LIVE: LiveItems()}
        if has_cold_items:
            model = ColdItemModel.load(folder / COLD_ITEMS)
            sources["cold_items"] = ColdItems(model, catalog, schema.cold_item_events)
    return Bundle(
        id=manifest.bundle_id,
        manifest=manifest,
        schema=schema,
        catalog=catalog,
        popularity_level=_popularity_level(catalog),
        item_vectors=item_vectors,
        content_vectors=content_vectors,
        sources=sources,
        source_names=names,
        plans=_plans(manifest, sources),
        blends={Regime[name.upper()]: BlendWeights(**info.model_dump()) for name, info in manifest.blends.items()},
        scorer=_scorer(folder, manifest, schema, catalog, tables) if ranking else None,
        user_tower=user_tower,
        ranker_tables=tables,
    )


def _behaviour_sources(folder: Path, manifest: Manifest, next_items: SparseRows) -> dict[str, Source]:
    als_factors = _vectors(folder / "als_factors.npy", len(next_items))
    return {
        "als": Als(open_index(folder, "als", manifest, als_factors), **manifest.als.model_dump()),
        "item_to_item": ItemToItem(next_items, manifest.item_to_item.half_life),
    }


def _scorer(
    folder: Path, manifest: Manifest, schema: FeatureSchema, catalog: Catalog, tables: RankerTables
) -> OnnxScorer:
    """Open the ranker; raises BundleRefused where it was trained on a column that this bundle can not give it."""
    sources = {entry.source for plan in manifest.plans.values() for entry in plan}
    lacking = unknown_features(manifest.ranker_features, schema, sources, tables.names)
    # The schema names the columns, the catalogue has them.
    lacking += [f"number:{name}" for name in schema.item_numbers if name not in catalog.numbers]
    lacking += [name for name in schema.item_codes if name not in catalog.codes]
    if lacking:
        raise BundleRefused(
            f"the ranker of {folder} was trained on columns that this bundle can not compute: {', '.join(lacking)}. "
            "Train again, so that ranker and tables are of one run"
        )
    return OnnxScorer(folder / "ranker.onnx", manifest.ranker_features, [head.name for head in manifest.ranker_heads])


def _content_sources(
    folder: Path, manifest: Manifest, catalog: Catalog, content: NDArray[np.float32]
) -> dict[str, Source]:
    cold = np.flatnonzero(catalog.event_counts < manifest.features.cold_item_events).astype(np.int32)
    half_life = manifest.content_neighbours.half_life
    return {
        "content_neighbours": ContentNeighbours(open_index(folder, "content", manifest, content), half_life),
        "content_cold": ColdContentNeighbours(content, cold, half_life),
        "fresh": Fresh(_born(folder / "born_ms.npy", len(catalog)), manifest.fresh.max_age_days),
        "search": Search.load(folder / "search.npz", len(catalog)),
    }


def _born(path: Path, n: int) -> NDArray[np.float64]:
    born: NDArray[np.float64] = np.load(path, allow_pickle=False)
    if born.shape != (n,) or born.dtype != np.float64:
        raise BundleRefused(f"{path} has shape {born.shape} of {born.dtype}; expected ({n},) of float64")
    if np.isinf(born).any():
        raise BundleRefused(f"{path} has an infinite time, first in row {int(np.flatnonzero(np.isinf(born))[0])}")
    return born


def _popularity_level(catalog: Catalog) -> NDArray[np.float32]:
    level = np.log1p(catalog.event_counts)
    return (level / max(float(level.max(initial=0)), 1e-9)).astype(np.float32)


def _vectors(path: Path, n: int, dim: int | None = None, *, in_file: bool = False) -> NDArray[np.float32]:
    """in_file: for those who copy them, leave them in the file, which must then stay as it is meanwhile."""
    vectors: NDArray[np.float32] = np.load(path, allow_pickle=False, mmap_mode="r" if in_file else None)
    if vectors.ndim != 2 or len(vectors) != n or (dim is not None and vectors.shape[1] != dim):
        raise BundleRefused(f"{path} has shape {vectors.shape}; expected {n} rows" + (f" of {dim}" if dim else ""))
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise BundleRefused(f"{path} has a vector that is not finite, first in row {row}")
    return vectors


def open_index(folder: Path, name: str, manifest: Manifest, vectors: NDArray[np.float32]) -> VectorIndex:
    """Return the named index over its vectors, searched as the manifest says."""
    info: IndexInfo = manifest.indexes[name]
    if info.kind == "ivf" and info.probes is not None:
        return IvfIndex.load(folder / f"{name}{INDEX_FILES['ivf']}", vectors, info.probes)
    if info.kind == "hnsw" and info.ef is not None:
        return HnswIndex.load(folder / f"{name}{INDEX_FILES['hnsw']}", vectors, info.ef)
    return ExactIndex(vectors)


def _plans(manifest: Manifest, sources: Mapping[str, Source]) -> dict[Regime, tuple[SourcePlan, ...]]:
    return {
        regime: tuple(
            SourcePlan(entry.source, entry.limit, entry.weight, entry.quota)
            for entry in manifest.plans[regime.name.lower()]
            if entry.source in sources
        )
        for regime in Regime
    }


def golden_user(golden: Golden, schema: FeatureSchema) -> User:
    """Return the user that a golden query describes: its events one minute apart, of unknown type."""
    rows = np.array(golden.history, np.int32)
    h = len(rows)
    history = History(rows, np.zeros(h, np.int32), golden.now_ms - 60_000 * np.arange(1, h + 1), np.ones(h, np.float32))
    return User(
        regime=Regime.WARM if h else Regime.PROFILE_ONLY,
        history=history,
        interacted=rows,
        attributes=golden.user_attributes,
        attribute_codes=schema.encode_attributes(golden.user_attributes),
        context_codes=schema.encode_context(golden.now_ms, golden.context),
        segment_keys=schema.segment_keys(golden.user_attributes),
        now_ms=golden.now_ms,
    )


def _check_golden(golden: Golden, tower: UserTower, schema: FeatureSchema) -> None:
    got = tower.encode([golden_user(golden, schema)])[0]
    off = float(np.abs(got - np.array(golden.expected, np.float32)).max())
    if not off <= GOLDEN_TOLERANCE:  # written so that NaN is refused too
        raise BundleRefused(
            f"a golden query is off by {off:.2g}, more than {GOLDEN_TOLERANCE}: the user tower is damaged"
        )
