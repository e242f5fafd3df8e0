"""Who is in which variant, and what that makes of the placement's policy."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import growthbook
import pytest
from growthbook.core import gbhash, getBucketRanges, inNamespace
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.errors import InvalidRequest
from tandem_core.experiment_file import MOST_POLICIES, load_experiments, make_experiments
from tandem_core.experiment_hash import bucket, bucket_ranges, fnv1a32, namespace_bucket
from tandem_core.experiments import Experiments
from tandem_core.policy import PlacementPolicy, load_policies
from tandem_core.query import Query
from tandem_core.settings import ConfigError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
POLICIES = {"default": PlacementPolicy(), "home": PlacementPolicy(candidates=50)}
B = {"a": {}, "b": {"policy": {"candidates": 99}}}


def made(**tables: Any) -> Experiments:
    return make_experiments({name: {"placement": "home", **values} for name, values in tables.items()}, POLICIES, "f")


def asked(user: str = "", **fields: Any) -> Query:
    return Query(**{"request_id": "r", "now_ms": 0, "max_results": 10, "placement": "home", "user_id": user, **fields})


def variants(experiments: Experiments, *queries: Query) -> list[dict[str, str]]:
    return [dict(experiments.assign(query).query.experiments) for query in queries]


def test_fnv_has_the_published_values() -> None:
    # From the authors' own test vectors (draft-eastlake-fnv, 32-bit FNV-1a).
    assert [fnv1a32(text) for text in ("", "a", "foobar")] == [0x811C9DC5, 0xE40C292C, 0xBF9CF968]


@given(TEXT, TEXT, st.sampled_from([1, 2]))
def test_every_key_falls_into_growthbooks_bucket(seed: str, unit: str, version: Any) -> None:
    assert bucket(seed, unit, version) == gbhash(seed, unit, version)


@given(TEXT, TEXT, st.floats(0, 1), st.floats(0, 1))
def test_namespaces_are_growthbooks(name: str, unit: str, start: float, end: float) -> None:
    assert (start <= namespace_bucket(name, unit) < end) == inNamespace(unit, (name, start, end))


@given(st.integers(2, 6), st.floats(0, 1), st.data())
def test_ranges_are_growthbooks(n: int, coverage: float, data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.integers(1, 100), min_size=n, max_size=n))
    weights = [part / sum(parts) for part in parts]
    assert list(bucket_ranges(weights, coverage)) == getBucketRanges(n, coverage, weights)


@pytest.mark.parametrize("version", [1, 2])
def test_a_growthbook_client_and_the_service_put_every_user_into_the_same_variant(version: int) -> None:
    settings = {
        "hash_version": version,
        "seed": "s",
        "coverage": 0.7,
        "namespace": {"name": "front", "range": [0.1, 0.9]},
        "variants": {"a": {"weight": 0.5}, "b": {"weight": 0.2}, "c": {"weight": 0.3}},
    }
    experiments = made(button=settings)
    theirs = growthbook.Experiment(
        key="button",
        variations=["a", "b", "c"],
        weights=[0.5, 0.2, 0.3],
        coverage=0.7,
        hashVersion=version,
        seed="s",
        namespace=("front", 0.1, 0.9),
    )
    told: Counter[str] = Counter()
    for i in range(2000):
        result = growthbook.GrowthBook(attributes={"id": f"user-{i}"}).run(theirs)
        (mine,) = variants(experiments, asked(f"user-{i}"))
        assert mine.get("button", "") == (result.value if result.inExperiment else "")
        told[mine.get("button", "")] += 1
    assert min(told.values()) > 100  # all three, and those outside


def test_a_variant_is_the_placements_policy_with_its_own_keys_laid_over(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        """
        [placements.home]
        candidates = 50
        popularity_blend = { few_events = 0.3, unknown = 0.9 }
        [experiments.blend]
        placement = "home"
        [experiments.blend.variants.control]
        [experiments.blend.variants.popular.policy]
        popularity_blend = { few_events = 0.8 }
        caps = [{ column = "creator", limit = 2 }]
        """
    )
    experiments = load_experiments(path, load_policies(path))
    assert set(experiments.policies) == {"default", "home", "home?blend=popular"}
    laid_over = experiments.policies["home?blend=popular"]
    assert laid_over.candidates == 50
    assert (laid_over.popularity_blend.few_events, laid_over.popularity_blend.unknown) == (0.8, 0.9)
    assert laid_over.caps[0].column == "creator"
    seen = {
        (dict(a.query.experiments)["blend"], a.query.policy)
        for i in range(50)
        for a in [experiments.assign(asked(f"u{i}"))]
    }
    assert seen == {("control", ""), ("popular", "home?blend=popular")}


def test_the_example_file_has_experiments_that_could_be_started(tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "deploy" / "config" / "policy.toml"
    assert not any(load_experiments(example, load_policies(example)).running.values())
    started = tmp_path / "policy.toml"
    started.write_text(example.read_text().replace('status = "stopped"', 'status = "running"'))
    running = load_experiments(started, load_policies(started)).running
    assert [each.name for each in running["discover"]] == ["newer_first"]
    assert [each.name for each in running["default"]] == ["popular_duel"]


def test_without_experiments_nothing_is_decided() -> None:
    experiments = load_experiments(None, POLICIES)
    query = asked("u", experiments=(("theirs", "x"),))
    assert experiments.assign(query).query == query
    with pytest.raises(InvalidRequest, match="no placement 'home\\?x=b'; there are default, home"):
        made(x={"variants": B}).assign(asked("u", placement="home?x=b"))


def test_other_placements_are_not_touched() -> None:
    assert variants(made(x={"variants": B}), asked("u", placement="default")) == [{}]


def test_a_user_stays_in_the_variant_and_a_session_counts_where_there_is_no_user() -> None:
    experiments = made(x={"variants": B})
    by_user = variants(experiments, *(asked("ann", session_id=f"s{i}", request_id=f"r{i}") for i in range(20)))
    assert len({each["x"] for each in by_user}) == 1
    by_session = variants(experiments, *(asked(session_id=f"s{i}") for i in range(20)))
    assert {each["x"] for each in by_session} == {"a", "b"}
    assert variants(experiments, *(asked(session_id=f"s{i}", request_id="r2") for i in range(20))) == by_session


def test_who_has_no_id_is_in_no_experiment_unless_requests_are_the_unit() -> None:
    assert variants(made(x={"variants": B}), asked()) == [{}]
    by_request = made(x={"variants": B, "hash_by": ["user_id", "request_id"]})
    told = variants(by_request, *(asked(request_id=f"r{i}") for i in range(20)))
    assert {each["x"] for each in told} == {"a", "b"}


def test_a_stopped_experiment_decides_nothing_even_when_forced_and_is_checked_all_the_same() -> None:
    experiments = made(x={"variants": B, "status": "stopped"})
    assert variants(experiments, asked("u")) == [{}]
    forced = experiments.assign(asked("u", experiments=(("x", "b"),)))
    assert (forced.query.experiments, forced.query.policy) == ((("x", "b"),), "")
    with pytest.raises(ConfigError, match=r"experiments\.x\.variants\.b\.policy: candidatez"):
        made(x={"variants": {"a": {}, "b": {"policy": {"candidatez": 1}}}, "status": "stopped"})


def test_what_the_caller_decided_stands_and_the_unknown_is_echoed() -> None:
    experiments = made(x={"variants": B}, y={"variants": {"a": {}, "b": {"policy": {"seen_factor": 0.1}}}})
    for i in range(10):
        said = (("button", "green"), ("x", "b"))
        query = experiments.assign(asked(f"u{i}", experiments=said)).query
        assert query.experiments[:2] == said
        assert [name for name, _ in query.experiments[2:]] == ["y"]
        assert query.policy.startswith("home?x=b")
    query = experiments.assign(asked("u", experiments=(("x", "of another time"), ("x", "b")))).query
    assert query.policy.startswith("home?x=b")  # the first that is known counts
    query = experiments.assign(asked("u", experiments=(("x", "of another time"),))).query
    assert [name for name, _ in query.experiments] == ["x", "y"]
    assert "x=" not in query.policy


def test_one_request_can_be_in_several_experiments_at_once() -> None:
    experiments = made(x={"variants": B}, y={"variants": {"a": {}, "b": {"policy": {"seen_factor": 0.1}}}})
    policies = {experiments.assign(asked(f"u{i}")).query.policy for i in range(100)}
    assert policies == {"", "home?x=b", "home?y=b", "home?x=b&y=b"}
    both = experiments.policies["home?x=b&y=b"]
    assert (both.candidates, both.seen_factor) == (99, 0.1)


def in_namespace(start: float, end: float, **values: Any) -> dict[str, Any]:
    return {"variants": B, "namespace": {"name": "n", "range": [start, end]}, **values}


def test_experiments_of_one_namespace_exclude_each_other() -> None:
    experiments = made(x=in_namespace(0, 0.5), y=in_namespace(0.5, 1))
    told = variants(experiments, *(asked(f"u{i}") for i in range(200)))
    assert all(len(each) == 1 for each in told)
    assert 60 < sum("x" in each for each in told) < 140
    assert "home?x=b&y=b" not in experiments.policies
    for i in range(20):  # also where the caller puts a unit where its hash would not
        query = experiments.assign(asked(f"u{i}", experiments=(("y", "b"),))).query
        assert (query.experiments, query.policy) == ((("y", "b"),), "home?y=b")
    query = experiments.assign(asked("u", experiments=(("y", "b"), ("x", "b")))).query
    assert query.policy == "home?y=b"


def test_shares_are_as_the_weights_and_the_coverage_say() -> None:
    settings = {"variants": {"a": {"weight": 0.2}, "b": {"weight": 0.8}}, "coverage": 0.5}
    told = Counter(each.get("x") for each in variants(made(x=settings), *(asked(f"u{i}") for i in range(4000))))
    assert told["a"] == pytest.approx(400, abs=80)  # 4 standard deviations
    assert told["b"] == pytest.approx(1600, abs=125)


def test_an_interleaving_experiment_gives_two_teams_and_a_forced_variant_gives_one_list() -> None:
    experiments = made(
        duel={"kind": "interleaving", "variants": B}, y={"variants": {"a": {}, "b": {"policy": {"seen_factor": 0.1}}}}
    )
    teams = {tuple(experiments.assign(asked(f"u{i}")).teams.items()) for i in range(50)}
    assert teams == {(("a", ""), ("b", "home?duel=b")), (("a", "home?y=b"), ("b", "home?duel=b&y=b"))}
    assert dict(experiments.assign(asked("u")).query.experiments)["duel"] == "interleaved"
    alone = experiments.assign(asked("u", experiments=(("duel", "b"), ("y", "a"))))
    assert (alone.query.policy, alone.teams) == ("home?duel=b", {})
    mixed = experiments.assign(asked("u", experiments=(("duel", "interleaved"), ("y", "a"))))
    assert mixed.teams == {"a": "", "b": "home?duel=b"}


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"x": {"variants": {"a": {}}}}, r"experiments\.x: : Value error, has 1 variants; ab needs two"),
        ({"x": {"variants": B, "kind": "duel"}}, r"experiments\.x: kind"),
        ({"x": {"variants": B, "salt": "s"}}, r"experiments\.x: salt: Extra inputs"),
        ({"x": {"variants": B, "placement": "hom"}}, r"experiments\.x: no placement 'hom'; there are default, home"),
        ({"x": {"variants": {"a": {}, "b": {"policy": {"mmr": {"lamda": 1}}}}}}, r"x\.variants\.b\.policy: mmr\.lamda"),
        ({"x": {"variants": {"a": {}, "b": {"policy": {"plans": {"hot": {}}}}}}}, r"b\.policy\.plans: no regimes"),
        ({"x": {"variants": {"a": {"weight": 0.5}, "b": {"weight": 0.3}}}}, r"add up to 0\.8, not to 1"),
        ({"x": {"variants": {"a": {"weight": 0.5}, "b": {}}}}, "give all or none"),
        ({"x": {"variants": {"a": {}, "b" * 129: {}}}}, "1 to 128 characters"),
        ({"x" * 129: {"variants": B}}, "a name has 1 to 128 characters"),
        ({"x": {"variants": B, "hash_by": []}}, r"experiments\.x: hash_by"),
        ({"x": {"variants": B, "hash_by": ["email"]}}, r"experiments\.x: hash_by\.0"),
        ({"x": {"variants": B, "namespace": {"name": "n", "range": [0.5, 0.5]}}}, r"range is \[0\.5, 0\.5\]"),
        ({"x": {"variants": {**B, "c": {}}, "kind": "interleaving"}}, "interleaving needs two variants"),
        ({"x": {"variants": {"a": {"weight": 1}, "b": {}}, "kind": "interleaving"}}, "has no weights"),
        ({"x": {"variants": {"a": {}, "interleaved": {}}, "kind": "interleaving"}}, 'may be called "interleaved"'),
        ({"x": {"variants": B}, "y": {"variants": B}}, r"experiments\.x and y both set candidates: give them one name"),
        ({"x": in_namespace(0, 0.6), "y": in_namespace(0.5, 1)}, "x and y both set candidates"),
        ({"x": in_namespace(0, 0.5), "y": in_namespace(0.5, 1, hash_by=["session_id"])}, "the same hash_by"),
        (
            {name: {"variants": {"a": {}, "b": {}}, "kind": "interleaving"} for name in "xy"},
            "x and y both mix lists of home",
        ),
    ],
)
def test_whatever_is_wrong_is_named(tables: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        made(**tables)


def test_a_part_of_a_key_that_another_experiment_sets_is_a_conflict_too() -> None:
    with pytest.raises(ConfigError, match=r"both set mmr\.lambda_relevance, mmr\.pool_size: "):
        made(
            x={"variants": {"a": {}, "b": {"policy": {"mmr": {"lambda_relevance": 0.5, "pool_size": 3}}}}},
            y={"variants": {"a": {}, "b": {"policy": {"mmr": {"lambda_relevance": 0.6, "pool_size": 4}}}}},
        )
    made(
        x={"variants": {"a": {}, "b": {"policy": {"mmr": {"lambda_relevance": 0.5}}}}},
        y={"variants": {"a": {}, "b": {"policy": {"mmr": {"pool_size": 4}}}}},
    )


def test_too_many_ways_to_meet_are_refused() -> None:
    keys = ["seen_factor", "ranker_needs_s", "diversity_needs_s", *(f"popularity_blend.{r}" for r in REGIMES)]
    tables = {}
    for i, key in enumerate(keys):
        table, _, leaf = key.rpartition(".")
        values = [{table: {leaf: v}} if table else {leaf: v} for v in (0.1, 0.2)]
        tables[f"x{i}"] = {"variants": {"a": {}, **{f"b{j}": {"policy": v} for j, v in enumerate(values)}}}
    with pytest.raises(ConfigError, match=f"more than {MOST_POLICIES} policies"):
        made(**tables)


REGIMES = ("warm", "few_events", "profile_only", "unknown")


def test_a_request_takes_a_policy_that_was_built_at_start() -> None:
    experiments = made(x={"variants": B})
    before = dict(experiments.policies)
    for i in range(100):
        key = experiments.assign(asked(f"u{i}")).query.policy or "home"
        assert experiments.policies[key] is before[key]
