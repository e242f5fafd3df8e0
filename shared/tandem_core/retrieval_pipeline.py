"""Candidate generation, from a query to a few hundred rows: what the retrieval service, evaluation and training run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem_core import observe
from tandem_core.blend import blend
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.errors import DeadlineExceeded, FieldViolation, InvalidRequest
from tandem_core.features import User, resolve_user
from tandem_core.filters import Eligibility
from tandem_core.merge import append, rank_fusion
from tandem_core.query import Fill, Query, Regime, Seen, SourcePlan
from tandem_core.sources.base import Found
from tandem_core.sources.live import LIVE

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Candidates, best first, and what must be said of them. empty_reason is "" unless the list is empty.

    user: whom they are for in terms of this bundle, where that is known already.
    """

    candidates: CandidateBatch
    bundle_id: str
    regime: Regime
    degradations: tuple[Degradation, ...] = ()
    empty_reason: str = ""
    user: User | None = None


class RetrievalPipeline:
    """Asks sources, merges, fills up. One per bundle; safe to use from several threads."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def retrieve(self, query: Query, budget: Budget) -> Retrieved:
        """Return up to query.max_results candidates; raises InvalidRequest or DeadlineExceeded."""
        user = resolve_user(self.bundle.schema, self.bundle.catalog, query)
        plans = query.plans or self.bundle.plans[user.regime]
        check_query(self.bundle, query)
        observe.bundle_is(self.bundle.id)
        eligible = eligibility(self.bundle, query, user)
        found, degradations = self._ask(plans, user, eligible, budget)
        with observe.stage("merge"):
            merged = self._merge(found, plans, query, user.regime)
        if query.fill is Fill.BACKFILL:
            with observe.stage("backfill"):
                merged, failed = self._fill(merged, user, query, eligible)
            degradations = tuple(dict.fromkeys((*degradations, *failed)))
        observe.kept(merged.columns)
        empty_reason = self._empty_reason(merged, query, degradations)
        return Retrieved(merged, self.bundle.id, user.regime, degradations, empty_reason)

    def ask(self, query: Query) -> tuple[Regime, dict[str, Found]]:
        """Return what is known of the user, and what each source finds: for learning how to merge it."""
        user = resolve_user(self.bundle.schema, self.bundle.catalog, query)
        plans = query.plans or self.bundle.plans[user.regime]
        return user.regime, self._ask(plans, user, eligibility(self.bundle, query, user), Budget())[0]

    def _merge(
        self, found: Mapping[str, Found], plans: Sequence[SourcePlan], query: Query, regime: Regime
    ) -> CandidateBatch:
        """Merge by what was learned for the regime; by rank where nothing was, or where the caller weighs himself."""
        weights = {plan.source: plan.weight for plan in plans}
        guaranteed = _guaranteed(found, plans, query.max_results)

        def keep(rows: NDArray[np.int32]) -> NDArray[np.intp]:
            return _kept(rows, query.max_results, guaranteed)

        learned = self.bundle.blends.get(regime)
        if learned is None or query.plans:
            return rank_fusion(found, weights, keep)
        return blend(found, learned.with_defaults(weights), keep)

    def _ask(
        self, plans: Sequence[SourcePlan], user: User, eligible: Eligibility, budget: Budget
    ) -> tuple[dict[str, Found], tuple[Degradation, ...]]:
        """Ask one source after another: each takes less time than a thread switch. The late and broken are left out.

        So are those that have nothing to say of this user, of any item: they would travel as columns of zeros.
        """
        found: dict[str, Found] = {}
        answered = False
        left_out: list[Degradation] = []
        for plan in plans:
            if budget.expired():
                left_out.append(Degradation(DegradationKind.SOURCE_LATE, plan.source, "no time left"))
                continue
            try:
                with observe.source(plan.source):
                    each = self.bundle.sources[plan.source].find(user, eligible, plan.limit)
                answered = True
                observe.found(plan.source, len(each))
                if len(each) or each.score_rows is not None:
                    found[plan.source] = each
            except Exception:  # one broken source must not take the others with it; it is logged and declared
                log.exception("source failed", extra={"source": plan.source, "bundle_id": self.bundle.id})
                left_out.append(Degradation(DegradationKind.SOURCE_FAILED, plan.source, "see the service's log"))
        if plans and not answered and budget.expired():
            raise DeadlineExceeded("the deadline passed before any source was asked")
        return found, tuple(left_out)

    def _fill(
        self, merged: CandidateBatch, user: User, query: Query, eligible: Eligibility
    ) -> tuple[CandidateBatch, tuple[Degradation, ...]]:
        missing = query.max_results - len(merged)
        if missing <= 0:
            return merged, ()
        # Without a deadline: it takes microseconds, and what the sources found must not be lost now.
        names = [name for name in ("popularity", LIVE) if name in self.bundle.sources]  # live items are popular last
        found, failed = self._ask([SourcePlan(name, query.max_results) for name in names], user, eligible, Budget())
        rows = np.concatenate([Found().rows, *(each.rows for each in found.values())])
        scores = np.concatenate([Found().scores, *(each.scores for each in found.values())])
        new = ~np.isin(rows, merged.rows)
        return append(merged, "backfill", Found(rows[new][:missing], scores[new][:missing])), failed

    def _empty_reason(self, merged: CandidateBatch, query: Query, left_out: Sequence[Degradation]) -> str:
        if len(merged):
            return ""
        if left_out:
            return "no source that answered found an eligible item; the degradations say which did not answer"
        if query.fill is Fill.STRICT:
            return "no source found an eligible item, and fill_policy is STRICT"
        if query.condition is not None:
            return "no item matches the filter that the user has not seen and the request does not exclude"
        return "the user has seen every item of the catalogue, or the request excludes it"


def _guaranteed(found: Mapping[str, Found], plans: Sequence[SourcePlan], most: int) -> NDArray[np.int32]:
    """Return the rows, rising, that must stay among the `most` candidates: of each source its first `quota`.

    All quotas together take at most a third of the list: they are meant for hundreds, and would fill one of ten.
    """
    asked = sum(plan.quota for plan in plans if plan.source in found)
    share = min(1.0, most // 3 / max(asked, 1))
    rows = [found[plan.source].rows[: int(plan.quota * share)] for plan in plans if plan.quota and plan.source in found]
    return np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int32)


def _kept(rows: NDArray[np.int32], most: int, guaranteed: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return the places, in order, of the first `most` rows, with the last of them giving way to guaranteed ones."""
    if len(rows) <= most or not len(guaranteed):
        return np.arange(min(len(rows), most))
    near = np.minimum(np.searchsorted(guaranteed, rows), len(guaranteed) - 1)
    must = guaranteed[near] == rows
    above = np.cumsum(must)
    # Place i stays if it is guaranteed, or if all guaranteed rows still find room after those before it.
    others = np.arange(1, len(rows) + 1) - above
    return np.flatnonzero(np.where(must, above <= most, others <= most - above[-1]))


def check_query(bundle: Bundle, query: Query) -> None:
    """Raise InvalidRequest where a query names sources or columns that the bundle does not have."""
    for i, plan in enumerate(query.plans):
        if plan.source not in bundle.sources:
            known = ", ".join(bundle.sources)
            raise InvalidRequest(
                FieldViolation(f"sources[{i}].source", f"no source {plan.source!r}; there are {known}")
            )
    if query.condition is not None:
        query.condition.check(bundle.catalog, "filter")


def eligibility(bundle: Bundle, query: Query, user: User) -> Eligibility:
    """Return which rows the request may return: not excluded by it, not seen or served unless allowed, matching its
    filter."""
    excluded = bundle.catalog.rows(query.exclude_item_ids)
    if query.interacted in (Seen.EXCLUDE, None):
        excluded = np.concatenate([excluded, user.interacted])
        if query.seed_item_ids:
            excluded = np.concatenate([excluded, bundle.catalog.rows(query.seed_item_ids)])
    if query.served is Seen.EXCLUDE and query.served_within_s:
        shown = query.shown.rows_within(bundle.catalog, query.now_ms, query.served_within_s)
        excluded = np.concatenate([excluded, shown])
    return Eligibility(bundle.catalog, excluded, query.condition)
