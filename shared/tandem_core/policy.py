"""What each placement (a surface that shows lists) wants: sources, ranker, rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from tandem_core.query import Regime, Seen, SourcePlan
from tandem_core.settings import ConfigError, Settings, parse_settings, read_toml

DEFAULT_PLACEMENT = "default"


def _seen(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.upper() not in Seen.__members__:
        raise ValueError(f"{value!r} is none of exclude, discount, allow")
    return Seen[value.upper()]


SeenSetting = Annotated[Seen, BeforeValidator(_seen)]


class SourceSettings(Settings):
    """What one source is asked for."""

    limit: int = Field(default=300, ge=1, le=2000)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)


class RecencySettings(Settings):
    """See rules.recency. The small default breaks near-ties in favour of the newer item, no more."""

    weight: float = Field(default=0.02, ge=0, le=1)
    half_life_days: float = Field(default=30.0, gt=0)


class MmrSettings(Settings):
    """See rules.mmr."""

    lambda_relevance: float = Field(default=0.97, ge=0, le=1)  # 1 = relevance alone, 0 = diversity alone
    pool_size: int = Field(default=100, ge=1, le=2000)  # candidates looked at, best first


class CapSettings(Settings):
    """See rules.caps."""

    column: str
    limit: int = Field(ge=1)


class ColdItemSettings(Settings):
    """See rules.cold_start.ColdItemScore."""

    neighbours: int = Field(default=5, ge=1, le=100)


class PopularityBlendSettings(Settings):
    """Weight of segment popularity in the score, by what is known of the user; see rules.cold_start."""

    warm: float = Field(default=0.0, ge=0, le=1)
    few_events: float = Field(default=0.2, ge=0, le=1)
    profile_only: float = Field(default=0.6, ge=0, le=1)
    unknown: float = Field(default=1.0, ge=0, le=1)

    def of(self, regime: Regime) -> float:
        return float(getattr(self, regime.name.lower()))


class PlacementPolicy(Settings):
    """One placement. A rule set to None is off.

    plans: regime ("warm", ...) -> source -> settings; regimes that are absent use the bundle's own plan.
    """

    candidates: int = Field(default=500, ge=1, le=2000)
    use_ranker: bool | None = None  # None: where the bundle says that it beat retrieval's order on held-out requests
    interacted: SeenSetting = Seen.EXCLUDE
    seen_factor: float = Field(default=0.5, ge=0, le=1)  # score factor of seen items where interacted is "discount"
    plans: dict[str, dict[str, SourceSettings]] = Field(default_factory=dict)
    recency: RecencySettings | None = RecencySettings()
    mmr: MmrSettings | None = MmrSettings()
    # Off: what a cap costs depends on the catalogue (HR@10 -3 % to -20 % on synthetic ones), so the business decides.
    caps: tuple[CapSettings, ...] = ()
    cold_items: ColdItemSettings | None = ColdItemSettings()
    popularity_blend: PopularityBlendSettings = PopularityBlendSettings()
    # Below these seconds of remaining deadline a stage is left out, and the answer says so.
    ranker_needs_s: float = Field(default=0.01, ge=0)
    diversity_needs_s: float = Field(default=0.003, ge=0)

    def source_plans(self, regime: Regime) -> tuple[SourcePlan, ...]:
        """Return the sources to ask for this regime; empty means the bundle's own plan."""
        plan = self.plans.get(regime.name.lower(), {})
        return tuple(SourcePlan(name, source.limit, source.weight) for name, source in plan.items())


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
