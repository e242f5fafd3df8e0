"""From a placement's policy and a bundle to its chain of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tandem_core.bundle import Bundle
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.errors import BundleRefused, InvalidRequest
from tandem_core.filters import Condition
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Regime
from tandem_core.rule_chain import Named, RuleChain
from tandem_core.rule_settings import ClickRateSettings
from tandem_core.rules.base import FilterRule, ItemTables, OrderRule, ScoreRule
from tandem_core.rules.boosts import Boost
from tandem_core.rules.calibrated import Calibrated
from tandem_core.rules.caps import Cap
from tandem_core.rules.cold_start import ColdItemScore, PopularityBlend
from tandem_core.rules.dpp import Dpp
from tandem_core.rules.exploration import ClickRates, ColdSlots, Exploration
from tandem_core.rules.exposure import ImpressionDiscount, NoRepeat
from tandem_core.rules.groups import CreatorDecay, GroupPenalty
from tandem_core.rules.mmr import Mmr
from tandem_core.rules.normalise import Normalise
from tandem_core.rules.pins import Pin
from tandem_core.rules.policy_filters import Blocked, PolicyFilter
from tandem_core.rules.promotions import Promotion
from tandem_core.rules.recency import Recency
from tandem_core.rules.seen import SeenDiscount
from tandem_core.rules.slots import ClaimRule
from tandem_core.rules.value_weights import ValueWeights


def build_chain(placement: str, policy: PlacementPolicy, bundle: Bundle) -> RuleChain:
    """Return the placement's rules over the items of the bundle.

    A rule that reads a column the bundle does not have is left out, and every answer declares it, as it does a source
    that the policy plans to ask and the bundle does not have; but a hard filter must not go missing in silence, so a
    bundle that lacks a column of one is refused, as is one whose values cannot fill a list under the caps: raises
    BundleRefused. The bundle that served before goes on serving.
    """
    build = _Build(placement, policy, bundle)
    build.check_plans()
    return RuleChain(
        ItemTables.of(bundle),
        filters=build.filters(),
        scoring=build.scoring(),
        diversity=build.diversity(),
        slots=build.slots(),
        promotions=build.promotions(),
        caps=build.caps(),
        pins=build.pins(),
        unusable=tuple(build.unusable),
    )


class _Build:
    def __init__(self, placement: str, policy: PlacementPolicy, bundle: Bundle) -> None:
        self._placement = placement
        self._policy = policy
        self._bundle = bundle
        self.unusable: list[Degradation] = []

    def check_plans(self) -> None:
        names = self._bundle.source_names
        for regime, plan in self._policy.plans.items():
            for source in plan.keys() - names:
                why = f"no such source in bundle {self._bundle.id}; there are {', '.join(sorted(names))}"
                self._left_out(f"plans.{regime}.{source}", why)

    def filters(self) -> tuple[Named[FilterRule], ...]:
        policy, catalog = self._policy, self._bundle.catalog
        rules: list[Named[FilterRule]] = []
        if policy.blocked_item_ids:
            rules.append(Named("blocked", Blocked(catalog.rows(policy.blocked_item_ids))))
        for each in policy.filters:
            try:
                each.items.build({}).check(catalog, "items")
            except InvalidRequest as error:
                raise BundleRefused(f"placement {self._placement}, filter {each.name}: {error}") from error
            rules.append(Named(f"filter:{each.name}", PolicyFilter(each.items.builder(), each.when.build())))
        if policy.no_repeat is not None:
            rules.append(Named("no_repeat", NoRepeat(policy.no_repeat.within_hours * 3600)))
        return tuple(rules)

    def scoring(self) -> tuple[Named[ScoreRule], ...]:
        policy = self._policy
        rules: list[Named[ScoreRule]] = []
        if policy.value_weights:
            rules.append(Named("value_weights", ValueWeights(policy.value_weights)))
        blend = {regime: policy.popularity_blend.of(regime) for regime in Regime}
        rules += [Named("normalise", Normalise()), Named("popularity_blend", PopularityBlend(blend))]
        if policy.cold_items is not None:
            cold_events = self._bundle.schema.cold_item_events
            rules.append(Named("cold_items", ColdItemScore(cold_events, policy.cold_items.neighbours)))
        rules.append(Named("seen", SeenDiscount(policy.seen_factor)))
        if (lower := policy.impression_discount) is not None:
            rules.append(Named("impression_discount", ImpressionDiscount(lower.factor, lower.half_life_hours * 3600)))
        for each in policy.boosts:
            if (condition := self._condition(f"boost:{each.name}", each.items.build)) is not None:
                boost = Boost(condition, each.factor, each.add, each.when.build())
                rules.append(Named(f"boost:{each.name}", boost))
        if policy.recency is not None and policy.recency.weight > 0:
            rules.append(Named("recency", Recency(policy.recency.weight, policy.recency.half_life_days)))
        return tuple(rules)

    def diversity(self) -> tuple[Named[OrderRule], ...]:
        policy = self._policy
        rules: list[Named[OrderRule]] = []
        if (decay := policy.creator_decay) is not None and self._has("creator_decay", decay.column):
            rules.append(Named("creator_decay", CreatorDecay(decay.column, decay.factor, decay.floor)))
        if (penalty := policy.group_penalty) is not None and self._has("group_penalty", penalty.column):
            rules.append(Named("group_penalty", GroupPenalty(penalty.column, penalty.weight)))
        if (mmr := policy.mmr) is not None and self._has_similarity("mmr", mmr.similarity):
            rules.append(Named("mmr", Mmr(mmr.lambda_relevance, mmr.pool_size, mmr.similarity, mmr.kept)))
        if (dpp := policy.dpp) is not None and self._has_similarity("dpp", dpp.similarity):
            rules.append(Named("dpp", Dpp(dpp.theta, dpp.pool_size, dpp.similarity, dpp.kept)))
        if (calibrated := policy.calibrated) is not None and self._has("calibrated", "categories"):
            rules.append(Named("calibrated", Calibrated(calibrated.weight, calibrated.pool_size, calibrated.kept)))
        return tuple(rules)

    def slots(self) -> tuple[ClaimRule, ...]:
        rules: list[ClaimRule] = []
        if (cold := self._policy.cold_slots) is not None:
            max_age_s, rates = cold.max_age_hours * 3600, _rates(cold.click_rates)
            if "created_at" in self._bundle.catalog.numbers:
                rules.append(ColdSlots(cold.slots(), cold.max_impressions, max_age_s, cold.pool_size, rates))
            else:
                self._left_out("cold_slots", f"no number column 'created_at' in bundle {self._bundle.id}")
        if (explore := self._policy.exploration) is not None:
            rates = _rates(explore.click_rates)
            by_ranker = explore.by == "ranker"
            rules.append(Exploration(explore.slots(), explore.weight, explore.pool_size, rates, by_ranker))
        return tuple(rules)

    def promotions(self) -> tuple[Promotion, ...]:
        rules: list[Promotion] = []
        for each in self._policy.promotions:
            name = f"promotion:{each.name}"
            rows = self._bundle.catalog.rows(each.item_ids)
            condition = None if each.items is None else self._condition(name, each.items.build)
            if condition is not None or each.item_ids:
                rules.append(Promotion(name, each.slots(), condition, rows, each.when.build()))
        return tuple(rules)

    def caps(self) -> tuple[Cap, ...]:
        caps = [Cap(cap.column, cap.limit, cap.window) for cap in self._policy.caps]
        usable = tuple(cap for cap in caps if self._has(cap.name, cap.column))
        for cap in usable:
            self._check_fills(cap)
        return usable

    def pins(self) -> tuple[Pin, ...]:
        row_of = self._bundle.catalog.row_of
        pins = (
            Pin(pin.item_id, row_of.get(pin.item_id, -1), pin.position - 1, pin.when.build())
            for pin in self._policy.pins
        )
        return tuple(sorted(pins, key=lambda pin: pin.slot))

    def _check_fills(self, cap: Cap) -> None:
        codes = self._bundle.catalog.codes[cap.column].codes[:, 0]
        length = min(self._policy.list_length, len(codes))
        wanted = min(cap.window or length, length)
        sizes = np.bincount(codes[codes >= 0])
        # In a window each value may stand `limit` times; in the list, if it is longer, again in the next window.
        fits = int(np.minimum(sizes, cap.limit).sum() + np.count_nonzero(codes < 0))
        if fits < wanted:
            raise BundleRefused(
                f"placement {self._placement}: at most {cap.limit} of one {cap.column} fill {fits} of {wanted} places "
                f"with all items of bundle {self._bundle.id}: raise the limit, or lower window or list_length"
            )

    def _condition(self, name: str, build: Callable[[Mapping[str, str]], Condition]) -> Condition | None:
        condition = build({})
        try:
            condition.check(self._bundle.catalog, "items")
        except InvalidRequest as error:
            self._left_out(name, str(error))
            return None
        return condition

    def _has(self, name: str, column: str) -> bool:
        known: Iterable[str] = self._bundle.catalog.codes
        if column in known:
            return True
        self._left_out(name, f"no text column {column!r} in bundle {self._bundle.id}; there are {', '.join(known)}")
        return False

    def _has_similarity(self, name: str, similarity: str) -> bool:
        return similarity != "categories" or self._has(name, "categories")

    def _left_out(self, name: str, why: str) -> None:
        self.unusable.append(Degradation(DegradationKind.RULE_RELAXED, name, why))


def _rates(settings: ClickRateSettings) -> ClickRates:
    return ClickRates(settings.rate, settings.impressions)
