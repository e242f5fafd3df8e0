"""A bundle of any size, grown from a trained one: for measuring how fast a catalogue of that size is served.

Every item of the large catalogue is the child of a trained item: the parent's vectors with noise of its own, the
parent's columns, a share of its events. Towers and ranker are the parent's, since they take vectors and not ids.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem_core.bundle import COLD_ITEMS, golden_user
from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.clusters import Clusters
from tandem_core.features import User
from tandem_core.index.exact import ExactIndex
from tandem_core.manifest import MANIFEST_NAME, BlendInfo, Golden, Manifest, read_manifest
from tandem_core.query import Regime
from tandem_core.registry import Registry
from tandem_core.sources.als import Als
from tandem_core.sources.cold_items_model import ColdItemModel
from tandem_core.sources.popularity_tables import GLOBAL, PopularityTables, RankedTable
from tandem_core.sources.search import Search
from tandem_core.sparse_rows import SparseRows
from tandem_core.user_tower import UserTower
from tandem_trainer.bundle_manifest import file_entries
from tandem_trainer.config import IndexSettings
from tandem_trainer.index_queries import index_queries
from tandem_trainer.indexes import build_index

NOISE = 0.6  # length of a child's own part, its parent's vector being 1
HISTORY = 50  # events of a warm user
LENGTH_BY_EVENTS = 0.45  # exponent by which ALS factors grow with an item's events: .41 on ml-100k, .49 on ml-1m
INDEX_USERS = 300  # whose vectors choose an index and measure its recall
MOST_COLD = 2000  # cold items are compared one by one: how many a catalogue has is not a matter of its size
MOST_ANCHORS = 20_000
LONGEST_TABLE = 20_000  # of a segment, category or window: nobody asks for more than a few hundred of it
NEXT_ITEMS = 100  # of each item, as the trainer keeps them; above 200,000 items 30
MS_PER_MINUTE = 60_000
INDEXED = {"two_tower": "item_vectors", "als": "als_factors", "content": "content_vectors"}  # index -> file
COPIED = ("user_tower.onnx", "item_tower.onnx", "ranker.onnx")


@dataclass(frozen=True, slots=True)
class Family:
    """Who descends from whom. parents: int32 [N], the trained row of each child; every trained row has a child.

    children: int32 [N], children by parent, of parent p those at starts[p] : starts[p + 1].
    """

    parents: NDArray[np.int32]
    children: NDArray[np.int32]
    starts: NDArray[np.int64]

    @classmethod
    def draw(cls, n_parents: int, n_children: int, rng: np.random.Generator) -> Family:
        if n_children < n_parents:
            raise ValueError(f"{n_children} items cannot descend from {n_parents}: ask for at least as many")
        parents = np.concatenate([np.arange(n_parents), rng.integers(0, n_parents, n_children - n_parents)])
        parents = rng.permutation(parents).astype(np.int32)
        starts = np.concatenate([[0], np.cumsum(np.bincount(parents, minlength=n_parents))])
        return cls(parents, np.argsort(parents, kind="stable").astype(np.int32), starts)

    def pick(self, parents: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int32]:
        """Return one child of each parent, int32, at random."""
        sizes = self.starts[parents + 1] - self.starts[parents]
        picked: NDArray[np.int32] = self.children[self.starts[parents] + rng.integers(0, sizes)]
        return picked

    def all_of(self, parents: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
        """Return all children of the parents, int32, parent after parent, and the place of each one's parent."""
        sizes = self.starts[parents + 1] - self.starts[parents]
        place = np.repeat(np.arange(len(parents)), sizes)
        within = np.arange(len(place)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self.children[self.starts[parents][place] + within], place


def grow(source: Path, registry: Registry, n_items: int, seed: int, index: IndexSettings) -> str:
    """Write a bundle of n_items into the registry, activate it and return its id; one that is there is used again.

    source: folder of a trained bundle. Raises ValueError where n_items is less than it has.
    """
    manifest = read_manifest(source)
    made_of = (manifest.bundle_id, n_items, seed, NOISE, index.model_dump_json())
    bundle_id = f"grown-{n_items}-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:8]}"
    if not (registry.path_of(bundle_id) / MANIFEST_NAME).exists():
        rng = np.random.default_rng(seed)
        staging = registry.new_staging("grow")
        _Growing(source, manifest, staging, rng, n_items).write(bundle_id, index, seed)
        registry.publish(staging, bundle_id)
    registry.activate(bundle_id)
    return bundle_id


def synthetic_history(next_items: SparseRows, events: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return catalogue rows, int32, newest first: a walk from item to next item, as people walk; none twice."""
    row = int(rng.integers(len(next_items)))
    walked = [row]
    for _ in range(20 * events):
        if len(walked) == events:
            break
        begin, end = next_items.indptr[row], next_items.indptr[row + 1]
        if end == begin or rng.random() < 0.1:  # now and then something else
            row = int(rng.integers(len(next_items)))
        else:
            row = int(next_items.columns[rng.integers(begin, end)])
        if row not in walked:
            walked.append(row)
    return np.array(walked[::-1], np.int32)


def with_noise(vectors: NDArray[np.float32], noise: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return float32 [n, D]: each vector with noise of that share of its length, turned, not lengthened."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    own = rng.standard_normal(vectors.shape, np.float32) / np.float32(np.sqrt(vectors.shape[1]))
    turned = vectors + np.float32(noise) * lengths * own
    grown: NDArray[np.float32] = turned * (lengths / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-9))
    return grown


class _Growing:
    def __init__(self, source: Path, manifest: Manifest, staging: Path, rng: np.random.Generator, n: int) -> None:
        self._source, self._manifest, self._staging, self._rng = source, manifest, staging, rng
        self._catalog = Catalog.load(source / "catalog.npz")
        self._family = Family.draw(len(self._catalog), n, rng)
        self._n = n
        self._share = rng.lognormal(0, 1, n)  # of the parent's events: children of one parent differ, as items do

    def write(self, bundle_id: str, settings: IndexSettings, seed: int) -> None:
        for name in COPIED:
            (self._staging / name).write_bytes((self._source / name).read_bytes())
        counts = self._write_catalog()
        vectors = {name: self._vectors(name) for name in ("item_vectors", "content_vectors", "als_factors")}
        self._write_popularity(counts)
        next_items = self._write_item_to_item()
        self._write_clusters(vectors["item_vectors"])
        self._write_words_and_births()
        self._write_cold_items(counts)
        tower = UserTower(self._staging / "user_tower.onnx", self._manifest.features, vectors["item_vectors"])
        queries = self._index_queries(vectors, next_items, tower)
        infos = {
            name: build_index(vectors[file], queries[name], settings, self._staging / name, seed)
            for name, file in INDEXED.items()
        }
        manifest = self._manifest.model_copy(
            update={
                "bundle_id": bundle_id,
                "data": self._manifest.data.model_copy(update={"name": f"grown to {self._n}", "items": self._n}),
                "indexes": infos,
                "ranker_helps": True,  # what is measured is a service that ranks
                "blends": self._manifest.blends | self._blends(),
                "goldens": self._goldens(tower),
                "files": file_entries(self._staging),
            }
        )
        (self._staging / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1))

    def _blends(self) -> dict[str, BlendInfo]:
        """A regime of which a small training run learned nothing merges by the plan's weights: as much work."""
        return {
            regime.name.lower(): BlendInfo(top=weights, pool=weights, head=50)
            for regime in (Regime.WARM, Regime.FEW_EVENTS)
            if regime.name.lower() not in self._manifest.blends
            and (weights := {e.source: e.weight for e in self._manifest.plans[regime.name.lower()] if not e.quota})
        }

    def _write_catalog(self) -> NDArray[np.int32]:
        parents, old = self._family.parents, self._catalog
        counts = np.maximum(old.event_counts[parents] * self._share, self._manifest.features.cold_item_events)
        cold = self._rng.choice(self._n, min(MOST_COLD, self._n // 10), replace=False)
        counts[cold] = 0
        numbers = {name: column[parents] for name, column in old.numbers.items()}
        grown = Catalog(
            item_ids=[f"item-{row:07d}" for row in range(self._n)],
            titles=[old.titles[parent] for parent in parents.tolist()],
            codes={name: CodeColumn(c.codes[parents], c.vocabulary) for name, c in old.codes.items()},
            numbers=numbers,
            event_counts=counts.astype(np.int32),
        )
        grown.save(self._staging / "catalog.npz")
        return grown.event_counts

    def _vectors(self, name: str) -> NDArray[np.float32]:
        old: NDArray[np.float32] = np.load(self._source / f"{name}.npy", allow_pickle=False)
        grown = np.empty((self._n, old.shape[1]), np.float32)
        for begin in range(0, self._n, 100_000):  # in parts: noise of a million items would take memory thrice
            part = self._family.parents[begin : begin + 100_000]
            grown[begin : begin + len(part)] = with_noise(old[part], NOISE, self._rng)
            if name == "als_factors":
                grown[begin : begin + len(part)] *= self._share[begin : begin + len(part), None] ** LENGTH_BY_EVENTS
        np.save(self._staging / f"{name}.npy", grown)
        return grown

    def _write_popularity(self, counts: NDArray[np.int32]) -> None:
        tables = {}
        for key, table in PopularityTables.load(self._source / "popularity.npz").tables.items():
            rows, place = self._family.all_of(table.rows)
            scores = (table.scores[place] * (1 + counts[rows])).astype(np.float32)
            best = np.argsort(-scores, kind="stable")[: None if key == GLOBAL else LONGEST_TABLE]
            tables[key] = RankedTable(rows[best], scores[best] / max(float(scores.sum()), 1e-9))
        PopularityTables(tables).save(self._staging / "popularity.npz")

    def _write_item_to_item(self) -> SparseRows:
        n_parents, most = len(self._catalog), NEXT_ITEMS if self._n <= 200_000 else 30
        old = SparseRows.load(self._source / "item_to_item.npz", n_parents, n_parents)
        strongest = [
            begin + np.argsort(-old.values[begin:end])[:most]
            for begin, end in zip(old.indptr[:-1], old.indptr[1:], strict=True)
        ]
        entries = [strongest[parent] for parent in self._family.parents.tolist()]
        indptr = np.concatenate([[0], np.cumsum([len(each) for each in entries])])
        places = np.concatenate(entries)
        grown = SparseRows(indptr, self._family.pick(old.columns[places], self._rng), old.values[places], self._n)
        grown.save(self._staging / "item_to_item.npz")
        return grown

    def _write_clusters(self, vectors: NDArray[np.float32]) -> None:
        for name in ("kmeans", "mixture"):
            old = Clusters.load(self._source / f"{name}.npz")
            Clusters(old.labels[self._family.parents], old.centres, old.mixture).save(self._staging / f"{name}.npz")

    def _write_words_and_births(self) -> None:
        old = Search.load(self._source / "search.npz", len(self._catalog))
        rows, place = self._family.all_of(old.weights.columns)
        ends = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(old.weights.columns)))])
        weights = SparseRows(ends[old.weights.indptr], rows, old.weights.values[place], self._n)
        Search(weights, old.vocabulary).save(self._staging / "search.npz")
        born = np.load(self._source / "born_ms.npy", allow_pickle=False)[self._family.parents]
        np.save(self._staging / "born_ms.npy", born + self._rng.uniform(-1, 1, self._n) * MS_PER_MINUTE)

    def _write_cold_items(self, counts: NDArray[np.int32]) -> None:
        if not (self._source / COLD_ITEMS).exists():
            return
        old, family, rng = ColdItemModel.load(self._source / COLD_ITEMS), self._family, self._rng
        cold = np.flatnonzero(counts < self._manifest.features.cold_item_events).astype(np.int32)
        like = rng.integers(0, len(old.item_rows), len(cold))
        anchors, place = family.all_of(old.anchor_rows)
        kept = np.sort(rng.permutation(len(anchors))[:MOST_ANCHORS])
        kept = kept[counts[anchors[kept]] > 0]
        kept = kept[np.argsort(anchors[kept])]
        ColdItemModel(
            anchor_rows=anchors[kept],
            anchor_vectors=old.anchor_vectors[place[kept]],
            item_rows=cold,
            item_vectors=old.item_vectors[like] * rng.lognormal(0, 0.1, (len(cold), 1)).astype(np.float32),
            prior=old.prior[like],
            segments=old.segments,
            affinity=old.affinity,
            half_life=old.half_life,
        ).save(self._staging / COLD_ITEMS)

    def _index_queries(
        self, vectors: dict[str, NDArray[np.float32]], next_items: SparseRows, tower: UserTower
    ) -> dict[str, NDArray[np.float32]]:
        users = [self._user(next_items) for _ in range(INDEX_USERS)]
        als = Als(ExactIndex(vectors["als_factors"]), **self._manifest.als.model_dump())
        encoded = np.concatenate([tower.encode([user]) for user in users])
        half_life = self._manifest.content_neighbours.half_life
        return index_queries(users, encoded, als, vectors["content_vectors"], half_life)

    def _user(self, next_items: SparseRows) -> User:
        golden = self._manifest.goldens[0]
        history = synthetic_history(next_items, HISTORY, self._rng).tolist()
        return golden_user(golden.model_copy(update={"history": history}), self._manifest.features)

    def _goldens(self, tower: UserTower) -> list[Golden]:
        found = []
        for golden in self._manifest.goldens:
            rows = self._family.children[self._family.starts[np.array(golden.history, np.int64)]]
            asked = golden.model_copy(update={"history": rows.tolist()})
            expected = tower.encode([golden_user(asked, self._manifest.features)])[0].tolist()
            found.append(asked.model_copy(update={"expected": expected}))
        return found
