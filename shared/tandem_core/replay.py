"""A decision made again from its record, and under other rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.decisions import Decision
from tandem_core.degradation import DegradationKind
from tandem_core.interleaving import interleave
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Query
from tandem_core.ranking_pipeline import RankingPipeline, Slate
from tandem_core.retrieval_pipeline import Retrieved


class CannotReplay(Exception):  # noqa: N818
    """A record does not hold what a replay needs; says what is missing."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A decision made again. identical: items, order, scores, propensities and teams are the record's, bit for bit."""

    item_ids: tuple[str, ...]
    scores: tuple[float, ...]
    propensities: tuple[float, ...]
    identical: bool


def replay(decision: Decision, bundle: Bundle, policies: Mapping[str, PlacementPolicy]) -> Replayed:
    """Score the recorded candidates and apply the policy's rules again; raises CannotReplay.

    policies: by hash, at least those that the record names. What the decision had no time for is left out again. The
    same bundle on the same kind of machine gives the same bits.
    """
    slate = _mixed(decision, bundle, policies) if decision.teams else _one(decision, bundle, policies[decision.policy])
    item_ids = tuple(bundle.catalog.item_ids[row] for row in slate.items.rows.tolist())
    scores, propensities = tuple(slate.items.scores.tolist()), tuple(slate.propensities.tolist())
    shown = decision.shown
    made, recorded = (item_ids, scores, propensities), (shown.item_ids, shown.scores, shown.propensities)
    return Replayed(*made, identical=made == recorded and slate.teams == shown.teams)


def _one(decision: Decision, bundle: Bundle, policy: PlacementPolicy) -> Slate:
    return _arranged(decision, bundle, as_it_went(policy, decision))


def _mixed(decision: Decision, bundle: Bundle, policies: Mapping[str, PlacementPolicy]) -> Slate:
    query, _ = _whole(decision)
    slates = {
        team.name: _one(
            replace(decision, retrieved=team.retrieved, degradations=team.degradations), bundle, policies[team.policy]
        )
        for team in decision.teams
    }
    return interleave(query, slates)


def under(decision: Decision, bundle: Bundle, policy: PlacementPolicy) -> Slate:
    """Return what the decision would have been under another policy, of the same candidates; raises CannotReplay."""
    if decision.teams:
        raise CannotReplay(f"{decision.decision_id}: two lists were mixed, of two policies")
    return _arranged(decision, bundle, as_it_went(policy, decision), trace=True)


def as_it_went(policy: PlacementPolicy, decision: Decision) -> PlacementPolicy:
    """Return a policy that leaves out what the decision had no time for, whatever time there is now."""
    skipped = {each.kind for each in decision.degradations}
    changes: dict[str, object] = {"ranker_needs_s": 0.0, "diversity_needs_s": 0.0}
    if DegradationKind.RANKER_SKIPPED in skipped:
        changes["use_ranker"] = False
    if DegradationKind.DIVERSITY_SKIPPED in skipped:
        changes["diversity_needs_s"] = np.inf
    return policy.model_copy(update=changes)


def _arranged(decision: Decision, bundle: Bundle, policy: PlacementPolicy, *, trace: bool = False) -> Slate:
    query, retrieved = _whole(decision)
    if bundle.id != decision.bundle_id:
        raise CannotReplay(f"{decision.decision_id}: made with bundle {decision.bundle_id}, not {bundle.id}")
    rows = retrieved.candidates.rows
    if len(rows) and int(rows.max()) >= len(bundle.catalog):
        raise CannotReplay(f"{decision.decision_id}: has candidates that the bundle does not hold")
    placement = decision.placement
    pipeline = RankingPipeline(bundle, {placement: policy})
    return pipeline.arrange(replace(query, policy=""), retrieved, Budget(), trace=trace)


def _whole(decision: Decision) -> tuple[Query, Retrieved]:
    if decision.query is None or decision.retrieved is None:
        why = decision.not_replayable or "recorded without its candidates (see decisions_sample)"
        raise CannotReplay(f"{decision.decision_id}: {why}")
    return decision.query, decision.retrieved
