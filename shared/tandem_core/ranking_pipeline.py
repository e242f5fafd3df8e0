"""Ranking and re-ranking, from a query to the list that is shown: what the ranking service and evaluation run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tandem_core import observe
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch, order
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.errors import BundleMismatch, FieldViolation, InvalidRequest, UpstreamUnavailable
from tandem_core.features import User, resolve_user
from tandem_core.filters import with_conditions
from tandem_core.merge import append
from tandem_core.outage import Outage
from tandem_core.policy import PlacementPolicy
from tandem_core.query import MOST_EXCLUDED, Fill, Query, Regime, Seen
from tandem_core.ranker_features import ranker_features
from tandem_core.reasons import Reason, reasons_for
from tandem_core.retrieval_pipeline import RetrievalPipeline, Retrieved, check_query, eligibility
from tandem_core.rule_build import build_chain
from tandem_core.rule_chain import RuleChain
from tandem_core.rule_trace import Stage
from tandem_core.rules.base import RuleRequest
from tandem_core.shown import lowered, with_shown
from tandem_core.sources.base import Found

log = logging.getLogger(__name__)

Retrieve = Callable[[Query, Budget], Retrieved]


@dataclass(frozen=True, slots=True)
class Slate:
    """The list to show, best first: scores never increase down the list; a tuple of reasons per item.

    propensities: float64 [k], 0 where chance took no part. stages: where a trace was asked for, what each stage made of
    the candidates: "retrieval", "ranker" where it ran, "served" where items were lowered as shown lately, the rules.
    teams: whose item each is where two lists are mixed ("" for nobody's); empty where none are. See interleaving.
    """

    items: CandidateBatch
    reasons: tuple[tuple[Reason, ...], ...]
    bundle_id: str
    regime: Regime
    degradations: tuple[Degradation, ...]
    empty_reason: str
    propensities: NDArray[np.float64]
    teams: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()


class RankingPipeline:
    """Gets candidates, scores them, applies rules. One per bundle; safe to use from several threads.

    `retrieve` is the way to candidates: over the wire in the service, in process in evaluation.
    """

    def __init__(self, bundle: Bundle, policies: Mapping[str, PlacementPolicy]) -> None:
        self.bundle = bundle
        self._policies = policies
        self._plans = {
            name: {regime: policy.source_plans(regime, bundle.source_names) for regime in Regime}
            for name, policy in policies.items()
        }
        self._chains = {name: build_chain(name, policy, bundle) for name, policy in policies.items()}
        self._outage = Outage("retrieval")
        self._fallback = RetrievalPipeline(bundle)  # popularity under the filter, when retrieval is out of reach

    def warm(self) -> None:
        """Open the bundle's models, see `Bundle.warm`, and say which rules it has no columns for.

        Not while building: with each change of a live item there is a pipeline more over the same bundle.
        """
        self.bundle.warm()
        for placement, chain in self._chains.items():
            for missing in chain.unusable:
                said = {"placement": placement, "rule": missing.component, "why": missing.message}
                log.error("rule left out", extra=said | {"bundle_id": self.bundle.id})

    def recommend(self, query: Query, budget: Budget, retrieve: Retrieve) -> Slate:
        """Return query.max_results items; raises InvalidRequest or DeadlineExceeded."""
        return self.arrange(query, self.candidates(query, budget, retrieve), budget)

    def candidates(self, query: Query, budget: Budget, retrieve: Retrieve) -> Retrieved:
        """Return what the placement's policy asks retrieval for, or popular items when retrieval is out of reach.

        The candidates are of the bundle they name, which may be another than this one's when retrieval has not got
        this one: `arrange` must then be called on that bundle's pipeline.
        """
        check_query(self.bundle, query)
        user = self.user(query)
        wanted = self.as_asked(query, user)
        try:
            with observe.stage("retrieve"):
                found = retrieve(wanted, budget)
            self._outage.over()
            # Another bundle has other rows for the same history.
            return replace(found, user=user if found.bundle_id == self.bundle.id else None)
        except BundleMismatch as error:
            missing = Degradation(DegradationKind.BUNDLE_MISMATCH, "retrieval", str(error))
        except UpstreamUnavailable as error:
            missing = Degradation(DegradationKind.RETRIEVAL_UNAVAILABLE, "retrieval", str(error))
        self._outage.note(missing.kind.name, missing.message)
        # The budget that retrieval spent must not make its replacement late too: popularity takes microseconds.
        # Popular items are a fill, so STRICT must not forbid them: a list is empty only when nothing is eligible.
        popular = self._fallback.retrieve(replace(wanted, plans=(), fill=Fill.BACKFILL), Budget())
        return replace(popular, degradations=(missing, *popular.degradations), user=user)

    def user(self, query: Query) -> User:
        """Return what is known of the user of a query."""
        return resolve_user(self.bundle.schema, self.bundle.catalog, query)

    def as_asked(self, query: Query, user: User) -> Query:
        """Return the query that goes to retrieval: with what the policy wants of it."""
        policy = self._policy(query)
        return replace(
            query,
            max_results=max(policy.candidates, query.max_results),
            interacted=query.interacted or policy.interacted,
            plans=self._plans[query.policy_name][user.regime],
            condition=with_conditions(query.condition, self.chain(query).conditions(query)),
            # The rules drop what does not fit here.
            exclude_item_ids=[*query.exclude_item_ids, *policy.blocked_item_ids][:MOST_EXCLUDED],
        )

    def arrange(self, query: Query, retrieved: Retrieved, budget: Budget, *, trace: bool = False) -> Slate:
        """Score candidates of this bundle, with what the placement pins and promotes by name, and apply its rules.

        trace: keep what each stage did, for explanations.
        """
        query = replace(query, interacted=query.interacted or self._policy(query).interacted)
        user = retrieved.user or self.user(query)
        batch = self._with_named_items(retrieved.candidates, query, user)
        return self._arranged(query, replace(retrieved, candidates=batch), user, budget, trace=trace)

    def _arranged(
        self, query: Query, retrieved: Retrieved, user: User, budget: Budget, *, trace: bool = False
    ) -> Slate:
        policy, chain = self._policy(query), self.chain(query)
        scored, skipped = self._score(retrieved.candidates, query, policy, user, budget)
        batch = self._served(scored, query, policy)
        diverse = budget.remaining() >= policy.diversity_needs_s
        with observe.stage("rules"):
            arranged = chain.apply(batch, rule_request(query, user), with_diversity=diverse, trace=trace)
        observe.dropped(len(batch), arranged.dropped)
        if not diverse and chain.diversity:
            skipped = (*skipped, Degradation(DegradationKind.DIVERSITY_SKIPPED, "diversity", "no time left"))
        top = arranged.shown()
        empty = "" if len(top) else retrieved.empty_reason or f"dropped by {', '.join(arranged.dropped)}"
        return Slate(
            items=top,
            reasons=reasons_for(top, user, self.bundle, arranged.placed),
            bundle_id=self.bundle.id,
            regime=user.regime,
            degradations=(*retrieved.degradations, *skipped, *arranged.relaxed),
            empty_reason=empty,
            propensities=arranged.propensities,
            stages=(*_traced(retrieved.candidates, scored, batch), *arranged.stages[1:]) if trace else (),
        )

    def _with_named_items(self, batch: CandidateBatch, query: Query, user: User) -> CandidateBatch:
        """Add the items that rules name and no source found, if the request may have them."""
        rows = self.chain(query).named_rows(rule_request(query, user))
        if len(rows):
            rows = rows[~np.isin(rows, batch.rows)]
        if not len(rows):
            return batch
        rows = rows[eligibility(self.bundle, query, user).keep(rows)]
        return append(batch, "policy", Found(rows, np.zeros(len(rows), np.float32))) if len(rows) else batch

    def chain(self, query: Query) -> RuleChain:
        """Return the rules of a query's policy; raises InvalidRequest where there is none."""
        self._policy(query)
        return self._chains[query.policy_name]

    def rank(self, query: Query, candidates: CandidateBatch, budget: Budget) -> Slate:
        """Return the caller's candidates in the best order, without those its filter or seen policy takes out."""
        check_query(self.bundle, query)
        query = replace(query, interacted=query.interacted or Seen.ALLOW)  # the caller chose what to rank
        user = resolve_user(self.bundle.schema, self.bundle.catalog, query)
        kept = candidates.take(eligibility(self.bundle, query, user).keep(candidates.rows))
        empty = "" if len(kept) else "no candidate passes the filter and the seen policy"
        return self._arranged(query, Retrieved(kept, self.bundle.id, user.regime, (), empty), user, budget)

    def check(self, query: Query) -> None:
        """Raise InvalidRequest where the query names a placement or a column that there is not."""
        self._policy(query)
        check_query(self.bundle, query)

    def _policy(self, query: Query) -> PlacementPolicy:
        if (policy := self._policies.get(query.policy_name)) is None:
            known = ", ".join(sorted(self._policies))
            raise InvalidRequest(
                FieldViolation("context.placement", f"no placement {query.placement!r}; there are {known}")
            )
        return policy

    def _score(
        self, batch: CandidateBatch, query: Query, policy: PlacementPolicy, user: User, budget: Budget
    ) -> tuple[CandidateBatch, tuple[Degradation, ...]]:
        scorer = self.bundle.scorer
        wanted = self.bundle.manifest.ranker_helps if policy.use_ranker is None else policy.use_ranker
        if not wanted or scorer is None or not len(batch):
            return batch, ()
        if budget.remaining() < policy.ranker_needs_s:
            return batch, (Degradation(DegradationKind.RANKER_SKIPPED, "ranker", "no time left"),)
        try:
            with observe.stage("features"):
                features = ranker_features(scorer.feature_names, batch, user, self.bundle, query.now_ms)
            with observe.stage("ranker"):
                scored = scorer.score(features)
            heads = {f"head:{name}": column for name, column in scored.heads.items()}
            return batch.with_scores(scored.scores).with_columns(heads), ()
        except Exception:  # retrieval's order is a good list: a broken ranker must not cost the answer
            log.exception("ranker failed", extra={"bundle_id": self.bundle.id})
            return batch, (Degradation(DegradationKind.RANKER_SKIPPED, "ranker", "see the service's log"),)

    def _served(self, batch: CandidateBatch, query: Query, policy: PlacementPolicy) -> CandidateBatch:
        """Add what rules read of earlier impressions, and lower what was shown within the time the request names."""
        batch = with_shown(batch, query.shown, self.bundle.catalog, query.now_ms)
        if query.served is Seen.DISCOUNT and query.served_within_s:
            rows = query.shown.rows_within(self.bundle.catalog, query.now_ms, query.served_within_s)
            batch = lowered(batch, rows, policy.seen_factor)
        return batch


def _traced(found: CandidateBatch, scored: CandidateBatch, served: CandidateBatch) -> tuple[Stage, ...]:
    """Return the stages before the rules, those alone that changed a score."""
    stages = [_stage("retrieval", found)]
    for name, before, after in (("ranker", found, scored), ("served", scored, served)):
        if after.scores is not before.scores:
            stages.append(_stage(name, after))
    return tuple(stages)


def _stage(name: str, batch: CandidateBatch) -> Stage:
    at = order(batch.scores, batch.rows)
    return Stage(name, batch.rows[at], batch.scores[at])


def rule_request(query: Query, user: User) -> RuleRequest:
    """Return what rules may know of a request."""
    return RuleRequest(
        slots=query.max_results,
        now_ms=query.now_ms,
        seed=query.seed,
        regime=user.regime,
        seen=query.interacted or Seen.EXCLUDE,
        interacted=user.interacted,
        history=user.history,
        facts=query.facts,
    )
