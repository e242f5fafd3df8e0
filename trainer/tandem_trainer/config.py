"""Settings of a training run; the whole of them is written into the bundle's manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field

from tandem_core.features import EventType
from tandem_core.settings import Settings, parse_settings, read_toml
from tandem_trainer.als import AlsSettings
from tandem_trainer.clusters import ClusterSettings
from tandem_trainer.cold_items import ColdItemSettings
from tandem_trainer.fit_blend import BlendSettings
from tandem_trainer.graph import GraphSettings
from tandem_trainer.popularity_wide import PopularitySettings
from tandem_trainer.ranker import RankerSettings
from tandem_trainer.ranker_examples import RankerData
from tandem_trainer.search_index import SearchSettings
from tandem_trainer.slist import SlistSettings
from tandem_trainer.tower_training_settings import TowerTrainingSettings

# What an event of each type is worth where the configuration does not say.
DEFAULT_EVENT_TYPES = (
    EventType(name="view", weight=0.2),
    EventType(name="click", weight=1.0),
    EventType(name="like", weight=2.0),
    EventType(name="purchase", weight=5.0),
    EventType(name="rating", weight=1.0),
    EventType(name="dislike", weight=-2.0),
)


class DataSettings(Settings):
    """Which data, and what of it."""

    adapter: str = "auto"  # by what the folder holds
    min_item_events: int = Field(default=0, ge=0)  # items with fewer events are left out
    min_user_events: int = Field(default=0, ge=0)
    synthetic_users: int = Field(default=2000, ge=1)
    synthetic_items: int = Field(default=500, ge=1)


class SplitSettings(Settings):
    """How test and validation events are set apart before anything is fitted."""

    protocol: str = "leave_last_out"
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    test_users: int | None = Field(default=None, ge=1)  # of user_disjoint; None: test_fraction of all users
    shuffle_history: bool = False  # user_disjoint: the known half of a held-out user at random instead of the earlier


class FeatureSettings(Settings):
    """What the models see."""

    history_length: int = Field(default=100, ge=1, le=1000)
    als_half_life: float = Field(default=5.0, gt=0)  # in events, of the fold-in: HR@10 .213, at 10 .182 (ml-1m)
    content_dims: int = Field(default=64, ge=1)
    text_encoder: Path | None = None  # ONNX, strings [N] to float32 [N, T]: its vectors stand beside those of words
    # Characters of an item's newest training reviews that join its text; 0: none. Where events have texts alone. A
    # training event's own review is then in its item's text, as no review to come can be.
    review_chars: int = Field(default=0, ge=0)
    content_half_life: float = Field(default=5.0, gt=0)  # in events, of the profile that content neighbours are near to
    fresh_days: float = Field(default=30.0, gt=0)  # items younger than this are what the source "fresh" finds
    most_codes: int = Field(default=8, ge=1)  # categories of an item beyond these are left out of its columns
    cold_user_events: int = Field(default=5, ge=0)  # users with fewer events are cold
    cold_item_events: int = Field(default=5, ge=0)  # items with fewer training events are cold


class IndexSettings(Settings):
    """How item vectors are searched: of several kinds the one that is fastest on these vectors at the least recall."""

    kinds: tuple[Literal["exact", "ivf", "hnsw"], ...] = Field(default=("exact", "ivf", "hnsw"), min_length=1)
    exact_below: int = Field(default=10_000, ge=0)  # items; nothing beats one matrix product there: nothing is timed
    m: int = Field(default=16, ge=2)
    ef_construction: int = Field(default=200, ge=10)
    min_recall: float = Field(default=0.98, gt=0, le=1)  # at 300, of each index: its breadth grows to it


# Limit and weight as in the contract, and a quota: so many of the source's best are candidates whatever the merge says.
Plan: TypeAlias = tuple[int, float] | tuple[int, float, int]
# The other sources can not know these items yet: a few of them always get as far as the ranker.
_NEW: dict[str, Plan] = {"cold_items": (10, 0.001, 10), "fresh": (10, 0.001, 10)}


class PlanSettings(Settings):
    """Sources asked by regime, when a request does not say: (limit, weight) or (limit, weight, quota).

    Search stands in each: without a query text it is not heard.
    """

    warm: dict[str, Plan] = Field(
        default={
            "two_tower": (500, 1.0),
            "item_to_item": (300, 0.5),
            "als": (300, 0.5),
            "popularity_7d": (200, 0.1),
            "popularity_30d": (200, 0.1),
            "search": (200, 1.0),
            **_NEW,
        }
    )
    few_events: dict[str, Plan] = Field(
        default={
            "two_tower": (300, 1.0),
            "item_to_item": (200, 0.5),
            "als": (200, 0.5),
            "popularity_segment": (200, 0.3),
            "popularity_category": (200, 0.3),
            "popularity_30d": (200, 0.3),
            "search": (200, 1.0),
            **_NEW,
        }
    )
    profile_only: dict[str, Plan] = Field(
        default={
            "popularity_segment": (300, 1.0),
            "two_tower": (200, 0.5),
            "popularity": (200, 0.3),
            "search": (200, 1.0),
        }
    )
    unknown: dict[str, Plan] = Field(default={"popularity": (500, 1.0), "search": (200, 1.0)})

    def by_regime(self) -> dict[str, dict[str, Plan]]:
        """Return the plans by regime name in lower case."""
        return {regime: getattr(self, regime) for regime in type(self).model_fields}

    def learned_sources(self) -> list[str]:
        """Return the sources of all plans that can be learned from, each once."""
        # Nobody typed anything in the past that is replayed: what search says could not be learned.
        named = dict.fromkeys(source for plan in self.by_regime().values() for source in plan)
        return [source for source in named if source != "search"]

    def merged_sources(self) -> list[str]:
        """Return those whose weights are learned: a quota is for items that the past can say nothing of."""
        plans = self.by_regime().values()
        with_quota = {source for plan in plans for source, entry in plan.items() if len(entry) > 2}
        return [source for source in self.learned_sources() if source not in with_quota]


class TrainConfig(Settings):
    """A training run."""

    seed: int = 7
    threads: int = Field(default=1, ge=1)  # of torch; on busy cores more of them cost time (measured)
    data: DataSettings = DataSettings()
    event_types: tuple[EventType, ...] = DEFAULT_EVENT_TYPES
    split: SplitSettings = SplitSettings()
    refit: bool = False  # once all is chosen and measured on the cut, fit again on all events: the bundle to serve
    features: FeatureSettings = FeatureSettings()
    towers: TowerTrainingSettings = TowerTrainingSettings()
    popularity: PopularitySettings = PopularitySettings()
    als: AlsSettings = AlsSettings()
    graph: GraphSettings = GraphSettings()
    item_to_item: SlistSettings = SlistSettings()
    search: SearchSettings = SearchSettings()
    cold_items: ColdItemSettings = ColdItemSettings()
    clusters: ClusterSettings = ClusterSettings()
    ranker: RankerSettings = RankerSettings()
    ranker_data: RankerData = RankerData()
    index: IndexSettings = IndexSettings()
    plans: PlanSettings = PlanSettings()
    blend: BlendSettings = BlendSettings()
    keep_bundles: int = Field(default=5, ge=2)
    largest_drop: float = Field(default=0.5, ge=0, le=1)  # of the current bundle's quality that may be lost at once


def load_config(path: Path | None) -> TrainConfig:
    """Read a TOML file over the defaults; raises ConfigError naming every wrong key."""
    return parse_settings(TrainConfig, {} if path is None else read_toml(path), str(path or "defaults"))
