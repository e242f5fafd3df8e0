"""The rules of one placement over the items of one bundle, in their order of precedence.

Strongest first: hard filters, pins, caps, promotions, exploration and cold-start slots, diversity, boosts and recency,
score. They are applied weakest first, but for filters, which come before all; pins, caps, promotions and slots decide
together, slot by slot, so that none undoes what a stronger one did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from tandem_core.candidates import CandidateBatch, order
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.filters import Condition
from tandem_core.query import Query
from tandem_core.rule_trace import Stage
from tandem_core.rules.base import (
    Array,
    FilterRule,
    Given,
    ItemTables,
    Order,
    OrderRule,
    RuleRequest,
    ScoreRule,
    Scores,
)
from tandem_core.rules.caps import Cap
from tandem_core.rules.exploration import Exploration, RankerScores
from tandem_core.rules.pins import Pin
from tandem_core.rules.policy_filters import PolicyFilter
from tandem_core.rules.promotions import Promotion
from tandem_core.rules.slots import Claim, ClaimRule, Filled, fill_slots
from tandem_core.rules.value_weights import ValueWeights

Rule = TypeVar("Rule")


@dataclass(frozen=True, slots=True)
class Named(Generic[Rule]):
    """A rule and what it is called in traces, drops and degradations."""

    name: str
    rule: Rule


@dataclass(frozen=True, slots=True)
class Arranged:
    """What the chain made of a batch of n candidates: kept + dropped = given.

    batch: the k kept candidates in the order and with the scores they came with. order: intp [k], positions in it,
    best first. scores: float32 [k], of its positions, after all rules; those of rules that only move items follow no
    order. placed (int8, see `Placed`) and propensities (float64, 0 where chance took no part): of the shown slots.
    dropped: rule -> int32 rows. stages: only where a trace was asked for.
    """

    batch: CandidateBatch
    order: Order
    scores: Scores
    placed: NDArray[np.int8]
    propensities: NDArray[np.float64]
    dropped: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)
    relaxed: tuple[Degradation, ...] = ()
    stages: tuple[Stage, ...] = ()

    def shown(self) -> CandidateBatch:
        """Return the items of the shown slots, best first, with scores that never increase down the list."""
        at = self.order[: len(self.placed)]
        return self.batch.take(at).with_scores(np.minimum.accumulate(self.scores[at]))


@dataclass(frozen=True, slots=True)
class RuleChain:
    """Built once per placement and bundle. Pure: the same batch and request give the same answer.

    unusable: rules that this bundle lacks a column for; declared with every answer.
    """

    items: ItemTables
    filters: tuple[Named[FilterRule], ...] = ()
    scoring: tuple[Named[ScoreRule], ...] = ()
    diversity: tuple[Named[OrderRule], ...] = ()
    slots: tuple[ClaimRule, ...] = ()  # cold-start and exploration slots
    promotions: tuple[Promotion, ...] = ()
    caps: tuple[Cap, ...] = ()
    pins: tuple[Pin, ...] = ()
    unusable: tuple[Degradation, ...] = ()

    def apply(
        self, batch: CandidateBatch, request: RuleRequest, *, with_diversity: bool = True, trace: bool = False
    ) -> Arranged:
        """Put candidates in order. batch: with source columns, and those of `base.BROUGHT` where they are known."""
        tracer = _Tracer(trace)
        tracer.note("given", batch.rows, batch.scores)
        batch, dropped = self._filter(batch, request, tracer)
        given = Given(batch, request, self.items)
        scores = batch.scores
        for named in self.scoring:
            scores = named.rule(scores, given)
            tracer.note(named.name, batch.rows, scores)
        ordered = order(scores, batch.rows)
        for each in self.diversity if with_diversity else ():
            ordered, scores = each.rule(ordered, scores, given)
            tracer.note(each.name, batch.rows, scores, ordered)
        filled, relaxed = self._fill(ordered, given, scores, tracer)
        return Arranged(
            batch, filled.order, scores, filled.placed, filled.propensities, dropped, relaxed, tuple(tracer.stages)
        )

    def conditions(self, query: Query) -> list[Condition]:
        """Return the conditions of the hard filters that hold for a request: what retrieval need not look for."""
        request = RuleRequest(slots=query.max_results, now_ms=query.now_ms, facts=query.facts)
        rules = [named.rule for named in self.filters if isinstance(named.rule, PolicyFilter)]
        return [rule.condition(request.facts) for rule in rules if rule.when.holds(request)]

    def named_rows(self, request: RuleRequest) -> NDArray[np.int32]:
        """Return the rows of items that pins and promotions name for this request, none twice."""
        pinned = [pin.row for pin in self.pins if pin.row >= 0 and pin.slot < request.slots and pin.when.holds(request)]
        promoted = [promotion.rows for promotion in self.promotions if promotion.when.holds(request)]
        return np.unique(np.concatenate([np.array(pinned, np.int32), *promoted]))

    def _filter(
        self, batch: CandidateBatch, request: RuleRequest, tracer: _Tracer
    ) -> tuple[CandidateBatch, dict[str, NDArray[np.int32]]]:
        dropped: dict[str, NDArray[np.int32]] = {}
        for named in self.filters:
            keep = named.rule.keep(Given(batch, request, self.items))
            if not keep.all():
                dropped[named.name] = batch.rows[~keep]
                batch = batch.take(keep)
            tracer.note(named.name, batch.rows, batch.scores)
        return batch, dropped

    def _fill(
        self, ordered: Order, given: Given, scores: Scores, tracer: _Tracer
    ) -> tuple[Filled, tuple[Degradation, ...]]:
        """Fill the slots; a trace fills them again with one kind of rule more each time, weakest first."""
        pins, misplaced = self._pinned(given)
        drawn = _claims(self.slots, given)
        claims = _claims(self.promotions, given) + drawn
        caps = [(cap, given.column(f"code:{cap.column}")) for cap in self.caps]
        slots = given.request.slots
        if tracer.on:
            for name, some_claims, some_caps in (
                ("slots", drawn, []),
                ("promotions", claims, []),
                ("caps", claims, caps),
            ):
                partly = fill_slots(ordered, slots, {}, some_claims, some_caps)
                tracer.note(name, given.batch.rows, scores, partly.order)
        filled = fill_slots(ordered, slots, pins, claims, caps)
        tracer.note("pins", given.batch.rows, scores, filled.order)
        broken = [
            _relaxed(cap.name, cap.broken(excess))
            for cap, codes in caps
            if (excess := cap.excess(codes[filled.order[: len(filled.placed)]]))
        ]
        missed = [
            _relaxed(claim.name, text)
            for claim in claims
            if claim.name in filled.missed and (text := claim.missed(filled.missed[claim.name]))
        ]
        return filled, (*self.unusable, *self._without_heads(given), *misplaced, *broken, *missed)

    def _without_heads(self, given: Given) -> list[Degradation]:
        """Return what must be said where the placement reads heads that the ranker gave no scores of."""
        if not len(given):
            return []
        lacking = [
            _relaxed(named.name, f"the ranker gave no {', '.join(missing)}: its own score was used")
            for named in self.scoring
            if isinstance(named.rule, ValueWeights) and (missing := named.rule.missing(given))
        ]
        return lacking + [
            _relaxed(rule.name, "the ranker did not say how sure it is: click rates were used")
            for rule in self.slots
            if isinstance(rule, Exploration) and rule.by_ranker and not RankerScores.known(given)
        ]

    def _pinned(self, given: Given) -> tuple[dict[int, int], list[Degradation]]:
        """Return slot -> position of the pins that hold now, and what must be said of those that cannot."""
        pins: dict[int, int] = {}
        missing: list[Degradation] = []
        shown = min(given.request.slots, len(given))
        for pin in self.pins:
            if not pin.when.holds(given.request) or pin.slot >= given.request.slots:
                continue
            at = np.flatnonzero(given.batch.rows == pin.row)
            if not len(at) or pin.slot >= shown:
                missing.append(_relaxed(pin.name, "not among the candidates" if not len(at) else "the list is shorter"))
            else:
                pins[pin.slot] = int(at[0])
        return pins, missing


def _claims(rules: Sequence[ClaimRule], given: Given) -> list[Claim]:
    return [claim for rule in rules if (claim := rule.claim(given)) is not None]


def _relaxed(component: str, message: str) -> Degradation:
    return Degradation(DegradationKind.RULE_RELAXED, component, message)


class _Tracer:
    """Keeps the list after each stage, or does nothing."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self.stages: list[Stage] = []

    def note(self, name: str, rows: NDArray[np.int32], scores: Array, ordered: Order | None = None) -> None:
        if self.on:
            at = order(scores, rows) if ordered is None else ordered
            self.stages.append(Stage(name, rows[at], scores[at].astype(np.float32, copy=False)))
