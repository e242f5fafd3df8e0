"""Experiments from a policy file: every policy a variant can mean is built and checked here, once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tandem_core.experiment_hash import bucket_ranges
from tandem_core.experiment_settings import LONGEST_NAME, ExperimentSettings
from tandem_core.experiments import Experiment, Experiments, policy_key
from tandem_core.policy import PlacementPolicy, parse_placement
from tandem_core.settings import ConfigError, parse_settings, read_toml

MOST_POLICIES = 256  # of one placement, with all its experiments: the product of their variants


def load_experiments(path: Path | None, policies: Mapping[str, PlacementPolicy]) -> Experiments:
    """Read `[experiments.<name>]` tables from TOML; see make_experiments. policies: of the same file."""
    tables = {} if path is None else read_toml(path).get("experiments", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: experiments must be tables, [experiments.<name>]; it is {tables!r}")
    return make_experiments(tables, policies, str(path))


def make_experiments(tables: Mapping[str, Any], policies: Mapping[str, PlacementPolicy], file: str) -> Experiments:
    """Return experiments, with the policies of all variants. tables: name -> values. file: named in errors.

    Raises ConfigError naming experiment and variant: unknown keys and placements, policies that a placement could not
    have, two experiments that set the same key and can meet in one request.
    """
    settings = {name: _settings(name, tables[name], policies, f"{file}: experiments.{name}") for name in sorted(tables)}
    running: dict[str, tuple[Experiment, ...]] = {}
    built = dict(policies)
    for placement, policy in policies.items():
        of_it = {name: s for name, s in settings.items() if s.placement == placement and s.status == "running"}
        _check_they_can_meet(of_it, f"{file}: experiments")
        running[placement] = tuple(_experiment(name, of_it) for name in of_it)
        built |= _policies(placement, policy, running[placement], f"{file}: experiments")
    return Experiments(tuple(sorted(policies)), built, running)


def _settings(
    name: str, values: dict[str, Any], policies: Mapping[str, PlacementPolicy], where: str
) -> ExperimentSettings:
    """Return checked settings; a stopped experiment is checked too, so that starting it is safe."""
    settings = parse_settings(ExperimentSettings, values, where)
    if not 0 < len(name) <= LONGEST_NAME:
        raise ConfigError(f"{where}: a name has 1 to {LONGEST_NAME} characters")
    if settings.placement not in policies:
        raise ConfigError(f"{where}: no placement {settings.placement!r}; there are {', '.join(sorted(policies))}")
    for variant, part in settings.variants.items():
        _laid_over(policies[settings.placement], part.policy, f"{where}.variants.{variant}.policy")
    return settings


def _experiment(name: str, of_placement: Mapping[str, ExperimentSettings]) -> Experiment:
    settings = of_placement[name]
    excludes = {other for other, s in of_placement.items() if other != name and _never_meet(settings, s)}
    ranges = bucket_ranges(list(settings.weights.values()), settings.coverage)
    return Experiment(name, settings, frozenset(excludes), dict(zip(settings.weights, ranges, strict=True)))


def _never_meet(one: ExperimentSettings, other: ExperimentSettings) -> bool:
    a, b = one.namespace, other.namespace
    if a is None or b is None or a.name != b.name or one.hash_by != other.hash_by:
        return False
    return a.range[1] <= b.range[0] or b.range[1] <= a.range[0]


def _check_they_can_meet(of_placement: Mapping[str, ExperimentSettings], where: str) -> None:
    """Refuse pairs that may share a request and then contradict each other."""
    for (name, one), (other_name, other) in itertools.combinations(of_placement.items(), 2):
        if _never_meet(one, other):
            continue
        ours, theirs = _paths(one), _paths(other)
        both = sorted(".".join(a) for a in ours for b in theirs if a[: len(b)] == b or b[: len(a)] == a)
        remedy = "give them one namespace with ranges that do not meet and the same hash_by, or stop one"
        if both:
            raise ConfigError(f"{where}.{name} and {other_name} both set {', '.join(dict.fromkeys(both))}: {remedy}")
        if one.kind == other.kind == "interleaving":
            raise ConfigError(f"{where}.{name} and {other_name} both mix lists of {one.placement}: {remedy}")


def _paths(settings: ExperimentSettings) -> set[tuple[str, ...]]:
    return {path for variant in settings.variants.values() for path in _leaves(variant.policy)}


def _leaves(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _policies(
    placement: str, policy: PlacementPolicy, running: Sequence[Experiment], where: str
) -> dict[str, PlacementPolicy]:
    """Return the policy of every combination of variants that one request can be in."""
    choices = [[None, *(v for v in each.settings.variants if each.changes(v))] for each in running]
    found: dict[str, PlacementPolicy] = {}
    for combination in itertools.product(*choices):
        chosen = [(e, v) for e, v in zip(running, combination, strict=True) if v is not None]
        names = {e.name for e, _ in chosen}
        if not chosen or any(e.excludes & names for e, _ in chosen):
            continue
        if len(found) == MOST_POLICIES:
            raise ConfigError(
                f"{where}: placement {placement} would have more than {MOST_POLICIES} policies, one for each way its "
                "experiments can meet: put some into one namespace with ranges that do not meet, or stop some"
            )
        part: dict[str, Any] = {}
        for experiment, variant in chosen:
            part = _merged(part, experiment.settings.variants[variant].policy)
        key = policy_key(placement, [(e.name, v) for e, v in chosen])
        found[key] = _laid_over(policy, part, f"{where}, {key}")
    return found


def _laid_over(policy: PlacementPolicy, part: Mapping[str, Any], where: str) -> PlacementPolicy:
    return parse_placement(_merged(policy.model_dump(exclude_unset=True), part), where)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` laid over it: tables key by key, everything else, lists too, replaced."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged
