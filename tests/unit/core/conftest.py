"""A small hand-made world: twelve items, few enough to work answers out by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from tandem_core.bundle import OF_RETRIEVAL, Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.features import EventType, FeatureSchema, History, User, resolve_user
from tandem_core.filters import Eligibility
from tandem_core.manifest import (
    FORMAT,
    AlsInfo,
    DataInfo,
    FileEntry,
    FreshInfo,
    HalfLife,
    IndexInfo,
    Manifest,
    PlanEntry,
    SearchInfo,
    SplitInfo,
)
from tandem_core.query import Query, Regime, Seen, SourcePlan, UserEvents
from tandem_core.registry import Registry
from tandem_core.rules.base import Given, ItemTables, RuleRequest
from tandem_core.sources.base import Found, Source
from tandem_core.sources.popularity import CategoryPopularity, Popularity, SegmentPopularity
from tandem_core.sources.popularity_tables import PopularityTables, RankedTable

# A busy machine is slow now and then: that is no bug of the code.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")

NOW_MS = 1_700_000_000_000  # Tuesday, 14 November 2023, 22:13:20 UTC
DAY_S = 86_400
N = 12


def _rows(*rows: int) -> NDArray[np.int32]:
    return np.array(rows, np.int32)


@pytest.fixture(scope="session")
def now_ms() -> int:
    return NOW_MS


@pytest.fixture(scope="session")
def schema() -> FeatureSchema:
    return FeatureSchema(
        event_types=(
            EventType(name="view", weight=0.5),
            EventType(name="buy", weight=4.0),
            EventType(name="fad", weight=1.0, half_life_days=1.0),
            EventType(name="dislike", weight=-2.0),
        ),
        user_attributes={"age": ("18", "25"), "gender": ("F", "M")},
        segments=(("age", "gender"), ("age",)),
        item_codes=("categories", "creator"),
        item_numbers=("price",),
        history_length=4,
        vector_dim=8,
        cold_user_events=3,
        cold_item_events=5,
    )


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """i0 to i11, most popular first; i10 and i11 are cold.

    categories: Drama for even rows, Comedy for odd ones, News beside it for rows divisible by 4, none for row 11.
    creator: c0 (rows 0-2), c1 (3-5), c2 (6-8), none after. price: row * 10, unknown for rows 5 and 11. created_at:
    row days ago, unknown for row 3.
    """
    categories = np.full((N, 2), -1, np.int32)
    categories[:, 0] = np.arange(N) % 2
    categories[::4, 1] = 2
    categories[11] = -1
    creator = np.repeat(_rows(0, 1, 2, -1), 3)[:, None]
    price = np.arange(N, dtype=np.float64) * 10
    price[[5, 11]] = np.nan
    created = NOW_MS / 1000 - np.arange(N, dtype=np.float64) * DAY_S
    created[3] = np.nan
    return Catalog(
        item_ids=[f"i{row}" for row in range(N)],
        titles=[f"Title {row}" if row else "" for row in range(N)],
        codes={
            "categories": CodeColumn(categories, ["Drama", "Comedy", "News"]),
            "creator": CodeColumn(creator, ["c0", "c1", "c2"]),
        },
        numbers={"price": price, "created_at": created},
        event_counts=_rows(100, 90, 80, 70, 60, 50, 40, 30, 20, 10, 0, 0),
    )


@pytest.fixture(scope="session")
def tables() -> PopularityTables:
    """Everybody likes the rows in their order; women of 25 like 5 and 3, those of 25 like 3, 7 and 1."""

    def table(*rows: int) -> RankedTable:
        return RankedTable(_rows(*rows), np.linspace(0.5, 0.1, len(rows), dtype=np.float32))

    return PopularityTables(
        {
            "global": table(*range(N)),
            "segment:age=25,gender=F": table(5, 3),
            "segment:age=25": table(3, 7, 1),
            "category:Drama": table(0, 2, 4, 6, 8, 10),
            "category:Comedy": table(1, 3, 5, 7, 9),
            "category:News": table(4, 0, 8),
        }
    )


@pytest.fixture(scope="session")
def item_vectors() -> NDArray[np.float32]:
    """float32 [12, 8], unit length."""
    vectors = np.random.default_rng(5).normal(size=(N, 8)).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@dataclass(frozen=True)
class ListSource:
    """Gives the eligible ones of its rows, in their order, scores falling from 1; or fails."""

    rows: Sequence[int] = ()
    broken: bool = False
    asked: list[int] = field(default_factory=list)

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        self.asked.append(limit)
        if self.broken:
            raise RuntimeError("the source is broken")
        rows = np.array(self.rows, np.int32)
        rows = rows[eligible.keep(rows)][:limit]
        return Found(rows, np.linspace(1, 0.5, len(rows), dtype=np.float32))


MakeSource = Callable[..., ListSource]


@pytest.fixture(scope="session")
def list_source() -> MakeSource:
    return ListSource


MakeManifest = Callable[..., Manifest]


@pytest.fixture(scope="session")
def make_manifest(schema: FeatureSchema) -> MakeManifest:
    """Return a manifest that is right in itself; fields may be overridden."""

    def make(**fields: Any) -> Manifest:
        known: dict[str, Any] = {
            "format": FORMAT,
            "bundle_id": "b1",
            "created_ms": NOW_MS,
            "data": DataInfo(
                name="hand", fingerprint="f", events=1, users=1, items=N, first_event_ms=0, last_event_ms=NOW_MS
            ),
            "split": SplitInfo(protocol="leave_last_out", seed=0, detail={}),
            "config": {},
            "schema_digest": schema.digest(),
            "features": schema,
            "ranker_features": [],
            "ranker_helps": True,
            "indexes": {name: IndexInfo(kind="exact") for name in ("two_tower", "als", "content")},
            "als": AlsInfo(alpha=1.0, regularization=0.1, half_life=10.0),
            "item_to_item": HalfLife(half_life=2.0),
            "content_neighbours": HalfLife(half_life=5.0),
            "fresh": FreshInfo(max_age_days=30.0),
            "search": SearchInfo(k1=1.2, b=0.75),
            "plans": {regime.name.lower(): [PlanEntry(source="a", limit=10, weight=1.0)] for regime in Regime},
            "blends": {},
            "goldens": [],
            "metrics": {"ndcg@10": 0.25, "ann_recall@300_als": 1.0},
            "files": {},
        }
        return Manifest(**{**known, **fields})

    return make


MakeBundle = Callable[..., Bundle]


@pytest.fixture(scope="session")
def make_bundle(
    catalog: Catalog,
    schema: FeatureSchema,
    tables: PopularityTables,
    item_vectors: NDArray[np.float32],
    make_manifest: MakeManifest,
) -> MakeBundle:
    """Return a bundle with the popularity sources and those given, all of which every regime asks by default."""

    def make(sources: Mapping[str, Source] | None = None, bundle_id: str = "b1", **fields: Any) -> Bundle:
        popular: dict[str, Source] = {
            "popularity": Popularity(tables),
            "popularity_segment": SegmentPopularity(tables),
            "popularity_category": CategoryPopularity(tables, catalog.codes["categories"]),
        }
        plan = tuple(SourcePlan(name, 10) for name in sources or {})
        known: dict[str, Any] = {
            "id": bundle_id,
            "manifest": make_manifest(bundle_id=bundle_id),
            "schema": schema,
            "catalog": catalog,
            "popularity_level": np.linspace(1, 0, N, dtype=np.float32),
            "item_vectors": item_vectors,
            "content_vectors": item_vectors[:, :4] / np.linalg.norm(item_vectors[:, :4], axis=1, keepdims=True),
            "sources": {**popular, **(sources or {})},
            "source_names": frozenset({*popular, *(sources or {}), *OF_RETRIEVAL}),
            "plans": dict.fromkeys(Regime, plan),
            "blends": {},
            "scorer": None,
            "user_tower": None,
        }
        return Bundle(**{**known, **fields})

    return make


MakeEvents = Callable[..., UserEvents]


@pytest.fixture(scope="session")
def events_of() -> MakeEvents:
    """Return events on items, oldest first, a minute apart, the newest a minute before now."""

    def make(*item_ids: str, types: Sequence[str] | None = None) -> UserEvents:
        n = len(item_ids)
        return UserEvents(
            item_ids,
            NOW_MS - 60_000 * np.arange(n, 0, -1, dtype=np.int64),
            types or ["view"] * n,
            np.full(n, np.nan, np.float32),
        )

    return make


MakeQuery = Callable[..., Query]


@pytest.fixture(scope="session")
def make_query() -> MakeQuery:
    def make(**fields: Any) -> Query:
        return Query(**{"request_id": "r1", "now_ms": NOW_MS, "max_results": 5, **fields})

    return make


UserOf = Callable[..., User]


@pytest.fixture(scope="session")
def user_of(schema: FeatureSchema, catalog: Catalog, make_query: MakeQuery, events_of: MakeEvents) -> UserOf:
    """user_of("i2", "i0", types=None, **fields of the query): a user with events on those items, oldest first."""

    def make(*item_ids: str, types: Sequence[str] | None = None, **fields: Any) -> User:
        return resolve_user(schema, catalog, make_query(events=events_of(*item_ids, types=types), **fields))

    return make


@pytest.fixture(scope="session")
def user_of_rows() -> UserOf:
    """user_of_rows([2, 0], weights=None): who chose those rows of any catalogue, newest first, weights 1 if not given.

    Nothing else is known of this user.
    """

    def make(rows: Sequence[int], weights: Sequence[float] | None = None) -> User:
        h = len(rows)
        history = History(_rows(*rows), np.zeros(h, np.int32), np.zeros(h, np.int64), np.ones(h, np.float32))
        if weights is not None:
            history = replace(history, weights=np.array(weights, np.float32))
        regime, context = Regime.WARM if h else Regime.UNKNOWN, np.zeros(2, np.int64)
        return User(regime, history, history.rows, {}, np.zeros(0, np.int64), context, [], now_ms=0)

    return make


WriteBundle = Callable[..., Path]


@pytest.fixture(scope="session")
def write_bundle(make_manifest: MakeManifest) -> WriteBundle:
    """Publish a bundle of one text file; whole, though no service could load it."""

    def write(registry: Registry, bundle_id: str, text: str = "content") -> Path:
        staging = registry.new_staging("test")
        (staging / "file.txt").write_text(text)
        entry = FileEntry(size=len(text), sha256=hashlib.sha256(text.encode()).hexdigest())
        manifest = make_manifest(bundle_id=bundle_id, files={"file.txt": entry})
        (staging / "manifest.json").write_text(manifest.model_dump_json())
        return registry.publish(staging, bundle_id)

    return write


MakeGiven = Callable[..., Given]


@pytest.fixture(scope="session")
def given_of(catalog: Catalog) -> MakeGiven:
    def make(scores: Sequence[float], seed: int = 0, slots: int = 5, **columns: object) -> Given:
        """Return candidates with all the columns that rules read, made up from the seed; columns override."""
        n, rng = len(scores), np.random.default_rng(seed)
        vectors = rng.normal(size=(n, 4)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        age_days = np.asarray(columns.pop("age_days", np.where(rng.random(n) < 0.2, np.nan, rng.uniform(-2, 400, n))))
        made = {
            "created_at": NOW_MS // 1000 - age_days * 86_400,
            "events": rng.integers(0, 12, n),
            "content": vectors,
            "vectors": vectors[::-1].copy(),
            "popularity": rng.random(n).astype(np.float32),
            "code:creator": rng.integers(-1, 3, n),
            "code:categories": rng.integers(-1, 3, n),
            "codes:categories": rng.integers(-1, 3, (n, 2)),
        }
        seen = rng.random(n) < 0.3
        given_columns = {name.replace("code_", "code:"): np.asarray(value) for name, value in columns.items()}
        rows = rng.permutation(max(n, N))[:n].astype(np.int32)
        batch = CandidateBatch(rows, np.array(scores, np.float32), {**made, **given_columns})
        request = RuleRequest(slots=slots, now_ms=NOW_MS, seed=seed, seen=Seen.DISCOUNT, interacted=rows[seen])
        return Given(batch, request, ItemTables(catalog, {}))

    return make
