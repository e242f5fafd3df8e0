"""How a placement's rules are written in TOML; each group of settings names the rule it is for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from tandem_core.filters import AllOf, AnyOf, Condition, Exists, InRange, InSet, NotOf
from tandem_core.query import Regime
from tandem_core.rules.similarity import Similarity
from tandem_core.rules.when import When
from tandem_core.settings import Settings

MOST_SLOTS = 500  # the longest list
MOST_FILTER_CONDITIONS = 20  # of a placement: retrieval takes 100 with those of the caller


Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[
    tuple[Text, ...],
    BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    Field(min_length=1, max_length=1000),
]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class RecencySettings(Settings):
    """See rules.recency. The small default breaks near-ties in favour of the newer item, no more."""

    weight: float = Field(default=0.02, ge=0, le=1)
    half_life_days: float = Field(default=30.0, gt=0)


class MmrSettings(Settings):
    """See rules.mmr."""

    lambda_relevance: float = Field(default=0.97, ge=0, le=1)  # 1 = relevance alone, 0 = diversity alone
    pool_size: int = Field(default=100, ge=1, le=2000)  # candidates looked at, best first
    kept: int = Field(default=0, ge=0, le=MOST_SLOTS)  # slots at the top that go by score alone
    similarity: Similarity = "vectors"


class DppSettings(Settings):
    """See rules.dpp."""

    theta: float = Field(default=0.9, ge=0, le=1)  # 1 = relevance alone, 0 = diversity alone
    pool_size: int = Field(default=150, ge=1, le=2000)
    kept: int = Field(default=0, ge=0, le=MOST_SLOTS)
    similarity: Similarity = "vectors"


class CalibratedSettings(Settings):
    """See rules.calibrated."""

    weight: float = Field(default=0.1, ge=0, le=1)  # 0 = relevance alone, 1 = the history's categories alone
    pool_size: int = Field(default=100, ge=1, le=2000)
    kept: int = Field(default=0, ge=0, le=MOST_SLOTS)


class CapSettings(Settings):
    """See rules.caps. A start: at most 2 of a creator in a window of 20."""

    column: str
    limit: int = Field(ge=1)
    window: int = Field(default=0, ge=0, le=MOST_SLOTS)  # places after each other; 0: the whole list

    @model_validator(mode="after")
    def _bites(self) -> Self:
        if 0 < self.window <= self.limit:
            raise ValueError(f"{self.limit} in a window of {self.window} forbids nothing: make the window longer")
        return self


class CreatorDecaySettings(Settings):
    """See rules.groups.CreatorDecay."""

    column: str = "creator"
    factor: float = Field(default=0.5, ge=0, le=1)
    floor: float = Field(default=0.25, ge=0, le=1)


class GroupPenaltySettings(Settings):
    """See rules.groups.GroupPenalty."""

    column: str = "categories"
    weight: float = Field(default=0.3, ge=0, le=1)


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


class NoRepeatSettings(Settings):
    """See rules.exposure.NoRepeat."""

    within_hours: float = Field(default=24.0, gt=0)


class ImpressionDiscountSettings(Settings):
    """See rules.exposure.ImpressionDiscount."""

    factor: float = Field(default=0.8, ge=0, le=1)
    half_life_hours: float = Field(default=24.0, gt=0)


class ConditionSettings(Settings):
    """A condition on items: exactly one form.

    {column, in}: a text column has one of the values. {column, min, max}: a number lies within. {column, exists}.
    {column, fact}: a text column has the request's value of a fact (of the user or the context); fulfilled by no item
    where the fact is unknown. {all}, {any}: of several. {not}: of one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    column: str = ""
    in_: Texts | None = Field(default=None, alias="in")
    min: Finite | None = None
    max: Finite | None = None
    exists: bool | None = None
    fact: str | None = None
    all: tuple[ConditionSettings, ...] | None = None
    any: tuple[ConditionSettings, ...] | None = None
    not_: ConditionSettings | None = Field(default=None, alias="not")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        bounds = self.min is not None or self.max is not None
        leaves = [self.in_ is not None, bounds, self.exists is not None, self.fact is not None]
        trees = [self.all is not None, self.any is not None, self.not_ is not None]
        if sum(leaves) + sum(trees) != 1:
            raise ValueError("give exactly one of in, min and max, exists, fact, all, any, not")
        if bool(self.column) != (True in leaves):
            raise ValueError("in, min, max, exists and fact need a column; all, any and not have none")
        if () in (self.all, self.any):
            raise ValueError("all and any need at least one condition")
        return self

    @property
    def facts(self) -> frozenset[str]:
        """Names of the facts it reads."""
        own = frozenset(() if self.fact is None else (self.fact,))
        return own.union(*(part.facts for part in self._parts))

    @property
    def size(self) -> int:
        """Number of conditions, itself among them."""
        return 1 + sum(part.size for part in self._parts)

    @property
    def _parts(self) -> tuple[ConditionSettings, ...]:
        return self.all or self.any or ((self.not_,) if self.not_ else ())

    def builder(self) -> Callable[[Mapping[str, str]], Condition]:
        """Return the way from a request's facts to the condition; made once where it reads none."""
        if self.facts:
            return self.build
        condition = self.build({})
        return lambda facts: condition

    def build(self, facts: Mapping[str, str]) -> Condition:
        """Return the condition for a request with these facts."""
        parts = [part.build(facts) for part in self._parts]
        if parts:
            return NotOf(parts[0]) if self.not_ else AllOf(parts) if self.all else AnyOf(parts)
        if self.in_ is not None or self.fact is not None:
            own = facts.get(self.fact or "", "")
            return InSet(self.column, frozenset(self.in_ or {own}))  # no item has an empty text: fulfilled by none
        if self.exists is not None:
            return Exists(self.column) if self.exists else NotOf(Exists(self.column))
        low, high = self.min, self.max
        return InRange(self.column, -math.inf if low is None else low, math.inf if high is None else high)


class WhenSettings(Settings):
    """When a rule holds; see rules.when. Times are TOML's, without an offset UTC. facts, unless: name -> texts."""

    start: datetime | None = None
    end: datetime | None = None
    facts: dict[str, Texts] = Field(default_factory=dict)
    unless: dict[str, Texts] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _passes_some_time(self) -> Self:
        if self.build().start_ms >= self.build().end_ms:
            raise ValueError("end is not after start: it never holds")
        return self

    def build(self) -> When:
        """Return what the rules ask."""
        start, end = (None if at is None else _milliseconds(at) for at in (self.start, self.end))
        facts, unless = ({k: frozenset(v) for k, v in of.items()} for of in (self.facts, self.unless))
        return When(-math.inf if start is None else start, math.inf if end is None else end, facts, unless)


def _milliseconds(at: datetime) -> float:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000


class FilterSettings(Settings):
    """Only items that fulfil `items` are shown, to requests for which `when` holds; see rules.policy_filters."""

    name: str = Field(min_length=1)
    items: ConditionSettings
    when: WhenSettings = WhenSettings()


class BoostSettings(Settings):
    """See rules.boosts. No facts in its condition: `when` tells for whom it holds."""

    name: str = Field(min_length=1)
    items: ConditionSettings
    factor: float = Field(default=1.0, ge=0, le=100)
    add: float = Field(default=0.0, ge=-10, le=10)
    when: WhenSettings = WhenSettings()


class PinSettings(Settings):
    """See rules.pins. position: 1 is the top."""

    item_id: str = Field(min_length=1)
    position: int = Field(ge=1, le=MOST_SLOTS)
    when: WhenSettings = WhenSettings()


class SlotsSettings(Settings):
    """Slots at regular distances: position `first`, and every `every` places after it, at most `most` in all."""

    every: int = Field(default=20, ge=1, le=MOST_SLOTS)
    first: int = Field(default=0, ge=0, le=MOST_SLOTS)  # 0: the same as every
    most: int = Field(default=MOST_SLOTS, ge=1, le=MOST_SLOTS)

    def slots(self) -> frozenset[int]:
        """Return the slots, counted from 0."""
        first = self.first or self.every
        return frozenset(range(first - 1, MOST_SLOTS, self.every)[: self.most])


class PromotionSettings(Settings):
    """See rules.promotions. share: of all slots, at most 1, spread evenly; or every n-th slot."""

    name: str = Field(min_length=1)
    items: ConditionSettings | None = None
    item_ids: Annotated[tuple[str, ...], Field(max_length=100)] = ()
    share: float | None = Field(default=None, gt=0, le=1)
    every: int | None = Field(default=None, ge=1, le=MOST_SLOTS)
    when: WhenSettings = WhenSettings()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.share is None) == (self.every is None):
            raise ValueError("give either share or every")
        if self.items is None and not self.item_ids:
            raise ValueError("give items (a condition), item_ids, or both")
        return self

    @property
    def part(self) -> float:
        """Share of the slots that it wants."""
        return self.share if self.share is not None else 1 / (self.every or 1)

    def slots(self) -> frozenset[int]:
        """Return the slots, counted from 0: those at which the promised number grows."""
        promised = [math.floor(slot * self.part + 1e-9) for slot in range(MOST_SLOTS + 1)]
        return frozenset(slot for slot in range(MOST_SLOTS) if promised[slot + 1] > promised[slot])


class ClickRateSettings(Settings):
    """What is believed of click rates before anything was seen; see rules.exploration."""

    rate: float = Field(default=0.05, gt=0, lt=1)
    impressions: float = Field(default=20.0, gt=0, allow_inf_nan=False)


class ColdSlotsSettings(SlotsSettings):
    """See rules.exploration.ColdSlots: one slot in twenty."""

    max_impressions: int = Field(default=1000, ge=1)
    max_age_hours: float = Field(default=24.0, gt=0)
    pool_size: int = Field(default=20, ge=1, le=200)
    click_rates: ClickRateSettings = ClickRateSettings()


class ExplorationSettings(SlotsSettings):
    """See rules.exploration.Exploration: at one slot in ten, one time in ten."""

    every: int = Field(default=10, ge=1, le=MOST_SLOTS)
    weight: float = Field(default=0.1, ge=0, le=1)
    pool_size: int = Field(default=20, ge=1, le=200)
    by: Literal["clicks", "ranker"] = "clicks"  # what the choice believes: click rates, or how sure the ranker is
    click_rates: ClickRateSettings = ClickRateSettings()
