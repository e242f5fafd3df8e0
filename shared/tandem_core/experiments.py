"""Experiments on placements: who is in which variant, and which policy that means.

A variant is a part of a placement policy, laid over the placement's own. Everything that can go wrong with one does so
at start; a request costs a hash or two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tandem_core.errors import FieldViolation, InvalidRequest
from tandem_core.experiment_hash import bucket, namespace_bucket
from tandem_core.experiment_settings import INTERLEAVED, ExperimentSettings
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Query


@dataclass(frozen=True, slots=True)
class Experiment:
    """A running experiment. excludes: names of those that a request in this one cannot be in as well.

    ranges: variant (INTERLEAVED alone where two lists are mixed) -> its buckets.
    """

    name: str
    settings: ExperimentSettings
    excludes: frozenset[str]
    ranges: Mapping[str, tuple[float, float]]

    def variant_of(self, query: Query) -> str:
        """Return the variant that the request's unit falls into, "" where it is not in the experiment."""
        settings = self.settings
        unit = next((found for name in settings.hash_by if (found := getattr(query, name))), "")
        if not unit:
            return ""
        if settings.namespace is not None:
            start, end = settings.namespace.range
            if not start <= namespace_bucket(settings.namespace.name, unit) < end:
                return ""
        at = bucket(settings.seed or self.name, unit, settings.hash_version)
        return next((variant for variant, (start, end) in self.ranges.items() if start <= at < end), "")

    def has(self, variant: str) -> bool:
        return variant in self.settings.variants or variant in self.ranges

    def changes(self, variant: str) -> bool:
        """Whether a variant's policy is another than the placement's."""
        return variant in self.settings.variants and bool(self.settings.variants[variant].policy)


@dataclass(frozen=True, slots=True)
class Assigned:
    """A request with its experiments decided.

    query: its `experiments` are those of the caller and then ours; its `policy` is the one to use. teams: where two
    lists are to be mixed, variant -> policy of each; else empty.
    """

    query: Query
    teams: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Experiments:
    """All that run. policies: of placements by name, and of variants by `policy_key`.

    running: placement -> its experiments in order of name.
    """

    placements: tuple[str, ...]
    policies: Mapping[str, PlacementPolicy]
    running: Mapping[str, tuple[Experiment, ...]]

    def assign(self, query: Query) -> Assigned:
        """Decide the request's experiments; raises InvalidRequest where there is no such placement.

        What the caller decided stands, in the caller's order, where it names a variant of an experiment that runs on
        this placement and that no earlier one excludes. Everything the caller sent is echoed, known or not.
        """
        if query.placement not in self.placements:
            known = ", ".join(self.placements)
            raise InvalidRequest(
                FieldViolation("context.placement", f"no placement {query.placement!r}; there are {known}")
            )
        running = self.running.get(query.placement)
        if not running:
            return Assigned(query, {})
        taken, ours = _decide(query, running)
        decided = (*query.experiments, *ours)
        of_it = [experiment for experiment in running if experiment.name in taken]
        for each in of_it:
            if taken[each.name] == INTERLEAVED and INTERLEAVED in each.ranges:
                teams = {team: _policy(query, of_it, {**taken, each.name: team}) for team in each.settings.variants}
                return Assigned(replace(query, experiments=decided), teams)
        return Assigned(replace(query, experiments=decided, policy=_policy(query, of_it, taken)), {})


def _decide(query: Query, running: Sequence[Experiment]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return experiment -> variant of all that the request is in, and those of them that the caller did not name."""
    taken: dict[str, str] = {}
    excluded: set[str] = set()
    named = {name for name, _ in query.experiments}
    for name, variant in query.experiments:
        forced = next((each for each in running if each.name == name), None)
        if forced is not None and name not in taken and name not in excluded and forced.has(variant):
            taken[name] = variant
            excluded |= forced.excludes
    ours: list[tuple[str, str]] = []
    for each in running:
        # An unknown variant is the caller's word all the same: no second one is put beside it.
        if each.name not in named and each.name not in excluded and (variant := each.variant_of(query)):
            taken[each.name] = variant
            ours.append((each.name, variant))
    return taken, ours


def _policy(query: Query, experiments: Sequence[Experiment], variants: Mapping[str, str]) -> str:
    """Return the name of the variants' policy, "" where none of them changes the placement's."""
    chosen = [(each.name, variants[each.name]) for each in experiments if each.changes(variants[each.name])]
    return policy_key(query.placement, chosen) if chosen else ""


def policy_key(placement: str, variants: Sequence[tuple[str, str]]) -> str:
    """Return the name of the policy of a placement under variants that change it, in order of experiment."""
    return f"{placement}?{'&'.join(f'{name}={variant}' for name, variant in variants)}"
