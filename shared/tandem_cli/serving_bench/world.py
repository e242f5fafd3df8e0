"""What is served and who asks: bundles of several sizes, a store of users with histories, requests as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tandem.common.v1 import context_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem_core.bundle import Bundle, load_bundle
from tandem_core.registry import Registry
from tandem_core.sparse_rows import SparseRows
from tandem_core.stores.base import StoredEvent
from tandem_core.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from tandem_trainer.config import IndexSettings
    from tandem_trainer.progress import Progress

SEED = 7
USERS = 200
SLATE = 20
BASE_ITEMS = 1500
HISTORY = 50
MS_PER_MINUTE = 60_000


@dataclass(frozen=True, slots=True)
class World:
    """One size. bundle_id: what CURRENT says; warm and cold: RecommendRequests as bytes."""

    items: int
    registry: Registry
    bundle_id: str
    store: Path
    warm: list[bytes]
    cold: list[bytes]

    @property
    def bundle_path(self) -> Path:
        return self.registry.path_of(self.bundle_id)

    def bundle(self) -> Bundle:
        return load_bundle(self.bundle_path)


def trained_base(cache: Path, progress: Progress) -> Path:
    """Return the folder of a small trained bundle, trained once on synthetic data (about a minute) and kept."""
    from tandem_trainer.config import DataSettings, TrainConfig  # noqa: PLC0415  (torch takes seconds)
    from tandem_trainer.inputs import load_data  # noqa: PLC0415
    from tandem_trainer.ranker_examples import RankerData  # noqa: PLC0415
    from tandem_trainer.tower_training_settings import TowerTrainingSettings  # noqa: PLC0415
    from tandem_trainer.train import train  # noqa: PLC0415

    registry = Registry(cache / "base")
    if (current := registry.current()) is None:
        config = TrainConfig(
            data=DataSettings(adapter="synthetic", synthetic_users=1200, synthetic_items=BASE_ITEMS),
            towers=TowerTrainingSettings(most_examples=20_000, validations=2),
            ranker_data=RankerData(most_requests=300),
        )
        return registry.path_of(train(config, load_data(config, None), registry, progress).bundle_id)
    return registry.path_of(current.bundle_id)


def make_world(base: Path, cache: Path, items: int, index: IndexSettings) -> World:
    """Grow the bundle, or find it grown, and write users into its store."""
    from tandem_trainer.studies.grown_bundle import grow, synthetic_history  # noqa: PLC0415  (sklearn)

    registry = Registry(cache / f"grown-{items}")
    bundle_id = grow(base, registry, items, SEED, index)
    bundle_path = registry.path_of(bundle_id)
    manifest = registry.manifest(bundle_id)
    last_ms = manifest.data.last_event_ms
    store = registry.root / f"{bundle_id}.db"
    if not store.exists():
        next_items = SparseRows.load(bundle_path / "item_to_item.npz", items, items)
        ids = [f"item-{row:07d}" for row in range(items)]
        rng = np.random.default_rng(SEED)
        kind = max(manifest.features.event_types, key=lambda each: each.weight).name
        users = SqliteStore(store)
        for user in range(USERS):
            rows = synthetic_history(next_items, HISTORY, rng).tolist()
            users.add_events(
                StoredEvent(
                    f"{user}-{place}", f"user-{user}", ids[row], last_ms - MS_PER_MINUTE * (place + 1), kind, None
                )
                for place, row in enumerate(rows)
            )
        users.close()
    warm = [_request(f"user-{user}", last_ms) for user in range(USERS)]
    cold = [_request(f"nobody-{user}", last_ms) for user in range(USERS)]
    return World(items, registry, bundle_id, store, warm, cold)


def _request(user: str, now_ms: int) -> bytes:
    context = context_pb2.RequestContext(user_id=user)
    context.event_time.FromMilliseconds(now_ms)
    return ranking_pb2.RecommendRequest(context=context, max_results=SLATE).SerializeToString()
