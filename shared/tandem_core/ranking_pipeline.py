"""Ranking and re-ranking, from a query to the list that is shown: what the ranking service and evaluation run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from tandem_core import observe
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.errors import BundleMismatch, FieldViolation, InvalidRequest, UpstreamUnavailable
from tandem_core.features import User, resolve_user
from tandem_core.outage import Outage
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Fill, Query, Regime, Seen
from tandem_core.ranker_features import ranker_features
from tandem_core.reasons import Reason, reasons_for
from tandem_core.retrieval_pipeline import RetrievalPipeline, Retrieved, check_query, eligibility
from tandem_core.rules.base import Rule
from tandem_core.rules.caps import CapPerGroup
from tandem_core.rules.cold_start import ColdItemScore, PopularityBlend
from tandem_core.rules.mmr import Mmr
from tandem_core.rules.normalise import Normalise
from tandem_core.rules.recency import Recency
from tandem_core.rules.seen import SeenDiscount

log = logging.getLogger(__name__)

Retrieve = Callable[[Query, Budget], Retrieved]


@dataclass(frozen=True, slots=True)
class Slate:
    """The list to show, best first: scores never increase down the list; a tuple of reasons per item.

    teams: whose item each is where two lists are mixed ("" for nobody's); empty where none are. See interleaving.
    """

    items: CandidateBatch
    reasons: tuple[tuple[Reason, ...], ...]
    bundle_id: str
    regime: Regime
    degradations: tuple[Degradation, ...]
    empty_reason: str
    teams: tuple[str, ...] = ()


class RankingPipeline:
    """Gets candidates, scores them, applies rules. One per bundle; safe to use from several threads.

    `retrieve` is the way to candidates: over the wire in the service, in process in evaluation.
    """

    def __init__(self, bundle: Bundle, policies: Mapping[str, PlacementPolicy]) -> None:
        self.bundle = bundle
        self._policies = policies
        self._outage = Outage("retrieval")
        self._fallback = RetrievalPipeline(bundle)  # popularity under the filter, when retrieval is out of reach

    def recommend(self, query: Query, budget: Budget, retrieve: Retrieve) -> Slate:
        """Return query.max_results items; raises InvalidRequest or DeadlineExceeded."""
        return self.arrange(query, self.candidates(query, budget, retrieve), budget)

    def candidates(self, query: Query, budget: Budget, retrieve: Retrieve) -> Retrieved:
        """Return what the placement's policy asks retrieval for, or popular items when retrieval is out of reach.

        The candidates are of the bundle they name, which may be another than this one's when retrieval has not got
        this one: `arrange` must then be called on that bundle's pipeline.
        """
        policy = self._policy(query)
        check_query(self.bundle, query)
        user = resolve_user(self.bundle.schema, self.bundle.catalog, query)
        wanted = replace(
            query,
            max_results=max(policy.candidates, query.max_results),
            interacted=query.interacted or policy.interacted,
            plans=policy.source_plans(user.regime),
        )
        try:
            with observe.stage("retrieve"):
                retrieved = retrieve(wanted, budget)
            self._outage.over()
            return retrieved
        except BundleMismatch as error:
            missing = Degradation(DegradationKind.BUNDLE_MISMATCH, "retrieval", str(error))
        except UpstreamUnavailable as error:
            missing = Degradation(DegradationKind.RETRIEVAL_UNAVAILABLE, "retrieval", str(error))
        self._outage.note(missing.kind.name, missing.message)
        # The budget that retrieval spent must not make its replacement late too: popularity takes microseconds.
        # Popular items are a fill, so STRICT must not forbid them: a list is empty only when nothing is eligible.
        popular = self._fallback.retrieve(replace(wanted, plans=(), fill=Fill.BACKFILL), Budget())
        return replace(popular, degradations=(missing, *popular.degradations))

    def arrange(self, query: Query, retrieved: Retrieved, budget: Budget) -> Slate:
        """Score candidates of this bundle and apply the placement's rules."""
        policy = self._policy(query)
        query = replace(query, interacted=query.interacted or policy.interacted)
        user = resolve_user(self.bundle.schema, self.bundle.catalog, query)
        batch = self._hydrate(retrieved.candidates, query, policy, user)
        batch, skipped = self._score(batch, query, policy, user, budget)
        with observe.stage("rules"):
            ranked, relaxed = self._apply_rules(batch, query, policy, user, budget)
        top = ranked.take(np.arange(min(len(ranked), query.max_results)))
        top = top.with_scores(np.minimum.accumulate(top.scores))  # order-changing rules leave scores out of order
        return Slate(
            items=top,
            reasons=reasons_for(top, user, self.bundle),
            bundle_id=self.bundle.id,
            regime=user.regime,
            degradations=(*retrieved.degradations, *skipped, *relaxed),
            empty_reason=retrieved.empty_reason,
        )

    def rank(self, query: Query, candidates: CandidateBatch, budget: Budget) -> Slate:
        """Return the caller's candidates in the best order, without those its filter or seen policy takes out."""
        check_query(self.bundle, query)
        query = replace(query, interacted=query.interacted or Seen.ALLOW)  # the caller chose what to rank
        user = resolve_user(self.bundle.schema, self.bundle.catalog, query)
        kept = candidates.take(eligibility(self.bundle, query, user).keep(candidates.rows))
        empty = "" if len(kept) else "no candidate passes the filter and the seen policy"
        return self.arrange(query, Retrieved(kept, self.bundle.id, user.regime, (), empty), budget)

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

    def _hydrate(self, batch: CandidateBatch, query: Query, policy: PlacementPolicy, user: User) -> CandidateBatch:
        """Add the columns that rules read; drops nothing."""
        catalog, rows = self.bundle.catalog, batch.rows
        unknown = np.full(len(rows), np.nan)
        created = catalog.numbers["created_at"][rows] if "created_at" in catalog.numbers else unknown
        caps = {
            cap.column: catalog.codes[cap.column].codes[rows, 0] for cap in policy.caps if cap.column in catalog.codes
        }
        return batch.with_columns(
            {
                "age_days": (query.now_ms / 1000 - created) / 86_400,
                "events": catalog.event_counts[rows],
                "content": self.bundle.content_vectors[rows],
                "vectors": self.bundle.item_vectors[rows],
                "popularity": batch.columns.get("score:popularity_segment", self.bundle.popularity_level[rows]),
                "seen": np.isin(rows, user.interacted),
                **{f"code:{name}": codes for name, codes in caps.items()},
            }
        )

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
                return batch.with_scores(scorer.score(features)), ()
        except Exception:  # retrieval's order is a good list: a broken ranker must not cost the answer
            log.exception("ranker failed", extra={"bundle_id": self.bundle.id})
            return batch, (Degradation(DegradationKind.RANKER_SKIPPED, "ranker", "see the service's log"),)

    def _apply_rules(
        self, batch: CandidateBatch, query: Query, policy: PlacementPolicy, user: User, budget: Budget
    ) -> tuple[CandidateBatch, tuple[Degradation, ...]]:
        """Apply rules weakest first, so that the strongest have the last word."""
        for rule in self._scoring_rules(policy, query, user.regime):
            batch = rule(batch, query.max_results).batch
        batch = batch.best_first()
        declared: list[Degradation] = []
        if policy.mmr is not None and budget.remaining() < policy.diversity_needs_s:
            declared.append(Degradation(DegradationKind.DIVERSITY_SKIPPED, "mmr", "no time left"))
        elif policy.mmr is not None:
            batch = Mmr(**policy.mmr.model_dump())(batch, query.max_results).batch
        caps = [CapPerGroup(c.column, c.limit) for c in policy.caps if c.column in self.bundle.catalog.codes]
        for cap in caps:
            batch = cap(batch, query.max_results).batch
        # Looked at again when all are done: a later cap may bring back what an earlier one had moved.
        shown = batch.take(np.arange(min(len(batch), query.max_results)))
        for cap in caps:
            if relaxed := cap(shown, len(shown)).relaxed:
                declared.append(Degradation(DegradationKind.RULE_RELAXED, f"cap:{cap.column}", relaxed))
        return batch, tuple(declared)

    def _scoring_rules(self, policy: PlacementPolicy, query: Query, regime: Regime) -> list[Rule]:
        rules: list[Rule] = [Normalise()]
        if weight := policy.popularity_blend.of(regime):
            rules.append(PopularityBlend(weight))
        if policy.cold_items is not None:
            rules.append(ColdItemScore(self.bundle.schema.cold_item_events, policy.cold_items.neighbours))
        if query.interacted is Seen.DISCOUNT:
            rules.append(SeenDiscount(policy.seen_factor))
        if policy.recency is not None and policy.recency.weight > 0:
            rules.append(Recency(policy.recency.weight, policy.recency.half_life_days))
        return rules
