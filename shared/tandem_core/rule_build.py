"""From a placement's policy and a bundle to its chain of rules."""

from __future__ import annotations

from tandem_core.bundle import Bundle
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Regime
from tandem_core.rule_chain import Named, RuleChain
from tandem_core.rules.base import ItemTables, OrderRule, ScoreRule
from tandem_core.rules.caps import Cap
from tandem_core.rules.cold_start import ColdItemScore, PopularityBlend
from tandem_core.rules.mmr import Mmr
from tandem_core.rules.normalise import Normalise
from tandem_core.rules.recency import Recency
from tandem_core.rules.seen import SeenDiscount


def build_chain(policy: PlacementPolicy, bundle: Bundle) -> RuleChain:
    """Return the placement's rules over the items of the bundle."""
    return RuleChain(
        ItemTables.of(bundle),
        scoring=_scoring(policy, bundle),
        diversity=_diversity(policy),
        caps=tuple(Cap(cap.column, cap.limit) for cap in policy.caps if cap.column in bundle.catalog.codes),
    )


def _scoring(policy: PlacementPolicy, bundle: Bundle) -> tuple[Named[ScoreRule], ...]:
    rules: list[Named[ScoreRule]] = [
        Named("normalise", Normalise()),
        Named("popularity_blend", PopularityBlend({regime: policy.popularity_blend.of(regime) for regime in Regime})),
    ]
    if policy.cold_items is not None:
        cold_events = bundle.schema.cold_item_events
        rules.append(Named("cold_items", ColdItemScore(cold_events, policy.cold_items.neighbours)))
    rules.append(Named("seen", SeenDiscount(policy.seen_factor)))
    if policy.recency is not None and policy.recency.weight > 0:
        rules.append(Named("recency", Recency(policy.recency.weight, policy.recency.half_life_days)))
    return tuple(rules)


def _diversity(policy: PlacementPolicy) -> tuple[Named[OrderRule], ...]:
    rules: list[Named[OrderRule]] = []
    if policy.mmr is not None:
        rules.append(Named("mmr", Mmr(policy.mmr.lambda_relevance, policy.mmr.pool_size)))
    return tuple(rules)
