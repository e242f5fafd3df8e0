"""What each placement (a surface that shows lists) wants: sources, ranker, rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from tandem_core.query import Regime, Seen, SourcePlan
from tandem_core.rule_settings import (
    MOST_FILTER_CONDITIONS,
    MOST_SLOTS,
    BoostSettings,
    CalibratedSettings,
    CapSettings,
    ColdItemSettings,
    ColdSlotsSettings,
    CreatorDecaySettings,
    DppSettings,
    ExplorationSettings,
    FilterSettings,
    GroupPenaltySettings,
    ImpressionDiscountSettings,
    MmrSettings,
    NoRepeatSettings,
    PinSettings,
    PopularityBlendSettings,
    PromotionSettings,
    RecencySettings,
)
from tandem_core.settings import ConfigError, Settings, parse_settings, read_toml

DEFAULT_PLACEMENT = "default"


def _seen(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.upper() not in Seen.__members__:
        raise ValueError(f"{value!r} is none of exclude, discount, allow")
    return Seen[value.upper()]


SeenSetting = Annotated[Seen, BeforeValidator(_seen)]
Weight = Annotated[float, Field(ge=-100, le=100)]


class SourceSettings(Settings):
    """What one source is asked for."""

    limit: int = Field(default=300, ge=1, le=2000)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


Setting = TypeVar("Setting")
# In TOML, which has no null, a rule is turned off by `rule = false`.
Off = Annotated[Setting | None, BeforeValidator(lambda given: None if given is False else given)]


class PlacementPolicy(Settings):
    """One placement. A rule set to None (in TOML: false) is off.

    plans: regime ("warm", ...) -> source -> settings; regimes that are absent use the bundle's own plan.
    list_length: of the lists this surface usually asks for: caps that cannot fill one are refused.
    """

    candidates: int = Field(default=500, ge=1, le=2000)
    use_ranker: bool | None = None  # None: where the bundle says that it beat retrieval's order on held-out requests
    interacted: SeenSetting = Seen.EXCLUDE
    seen_factor: float = Field(default=0.5, ge=0, le=1)  # score factor of seen items where interacted is "discount"
    plans: dict[str, dict[str, SourceSettings]] = Field(default_factory=dict)
    list_length: int = Field(default=20, ge=1, le=MOST_SLOTS)
    # Hard filters.
    filters: tuple[FilterSettings, ...] = ()
    blocked_item_ids: Annotated[tuple[str, ...], Field(max_length=1000)] = ()
    no_repeat: Off[NoRepeatSettings] = None
    # Slots.
    pins: tuple[PinSettings, ...] = ()
    # Off: what a cap costs depends on the catalogue (HR@10 -3 % to -20 % on synthetic ones), so the business decides.
    caps: tuple[CapSettings, ...] = ()
    promotions: tuple[PromotionSettings, ...] = ()
    cold_slots: Off[ColdSlotsSettings] = None
    exploration: Off[ExplorationSettings] = None
    # Diversity: the first two with any of the last three, which exclude each other.
    creator_decay: Off[CreatorDecaySettings] = None
    group_penalty: Off[GroupPenaltySettings] = None
    mmr: Off[MmrSettings] = MmrSettings()
    dpp: Off[DppSettings] = None
    calibrated: Off[CalibratedSettings] = None
    # Scores.
    value_weights: dict[str, Weight] = Field(default_factory=dict)  # head of the ranker -> weight; none: its own score
    popularity_blend: PopularityBlendSettings = PopularityBlendSettings()
    cold_items: Off[ColdItemSettings] = ColdItemSettings()
    impression_discount: Off[ImpressionDiscountSettings] = None
    boosts: tuple[BoostSettings, ...] = ()
    recency: Off[RecencySettings] = RecencySettings()
    # Below these seconds of remaining deadline a stage is left out, and the answer says so.
    ranker_needs_s: float = Field(default=0.01, ge=0)
    diversity_needs_s: float = Field(default=0.003, ge=0)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        check_rules(self)
        return self

    def source_plans(self, regime: Regime, known: Collection[str]) -> tuple[SourcePlan, ...]:
        """Return the sources to ask for this regime, of those known; empty means the bundle's own plan."""
        plan = self.plans.get(regime.name.lower(), {})
        return tuple(SourcePlan(name, source.limit, source.weight) for name, source in plan.items() if name in known)


def check_rules(policy: PlacementPolicy) -> None:
    """Raise ValueError saying which rules cannot all hold."""
    if len(on := [name for name in ("mmr", "dpp", "calibrated") if getattr(policy, name) is not None]) > 1:
        raise ValueError(
            f"{' and '.join(on)} are both on, and each would undo the other's order: turn one off (mmr = false)"
        )
    for pin, other in combinations(policy.pins, 2):
        if not pin.when.build().overlaps(other.when.build()):
            continue
        if pin.position == other.position:
            raise ValueError(f"pins of {pin.item_id!r} and {other.item_id!r} collide at position {pin.position}")
        if pin.item_id == other.item_id:
            raise ValueError(f"{pin.item_id!r} is pinned to positions {pin.position} and {other.position} at once")
    blocked = set(policy.blocked_item_ids)
    if wrong := [pin.item_id for pin in policy.pins if pin.item_id in blocked]:
        raise ValueError(f"{wrong} are pinned and blocked")
    if (share := sum(promotion.part for promotion in policy.promotions)) > 1 + 1e-9:
        raise ValueError(f"promotions want {share:.2f} of the slots together: at most 1 is there")
    if (size := sum(rule.items.size for rule in policy.filters)) > MOST_FILTER_CONDITIONS:
        raise ValueError(f"filters have {size} conditions, at most {MOST_FILTER_CONDITIONS} are allowed")
    conditional: tuple[BoostSettings | PromotionSettings, ...] = (*policy.boosts, *policy.promotions)
    for each in conditional:
        if each.items is not None and each.items.facts:
            raise ValueError(f"{each.name}: only filters may compare items with facts; use when")
    for names in (
        [rule.name for rule in policy.filters],
        [rule.name for rule in policy.boosts],
        [rule.name for rule in policy.promotions],
    ):
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two rules of one kind are called {sorted(twice)}")


def load_policies(path: Path | None) -> Mapping[str, PlacementPolicy]:
    """Read `[placements.<name>]` tables from TOML; "default" is always there. Raises ConfigError naming the key."""
    tables = {} if path is None else read_toml(path)
    if unknown := set(tables) - {"placements", "experiments"}:
        raise ConfigError(
            f"{path}: unknown tables {sorted(unknown)}; policies stand under [placements.<name>], experiments on them "
            "under [experiments.<name>]"
        )
    policies = {DEFAULT_PLACEMENT: PlacementPolicy()}
    placements = tables.get("placements", {})
    if not isinstance(placements, dict):
        raise ConfigError(f"{path}: placements must be tables, [placements.<name>]; it is {placements!r}")
    for name, values in placements.items():
        policies[name] = parse_placement(values, f"{path}: placements.{name}")
    return policies


def parse_placement(values: dict[str, Any], where: str) -> PlacementPolicy:
    """Return one checked policy; raises ConfigError with every wrong key. where: the file and table of the values."""
    policy = parse_settings(PlacementPolicy, values, where)
    regimes = {regime.name.lower() for regime in Regime}
    if wrong := set(policy.plans) - regimes:
        raise ConfigError(f"{where}.plans: no regimes {sorted(wrong)}; there are {sorted(regimes)}")
    return policy
