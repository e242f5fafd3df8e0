"""ExplainItem, the parts of a score, and decisions made again from their records: through a real server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from tandem.common.v1 import filter_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_cli.main import app
from tandem_core.bundle import load_bundle
from tandem_core.decision_log import DecisionLog, read_decisions, segments, write_policies
from tandem_core.experiments import Experiments
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.policy import PlacementPolicy
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.registry import Registry
from tandem_core.serving_bundles import Held
from tandem_ranking.decision_notes import DecisionNotes
from tandem_ranking.servicer import RankingServicer
from tandem_testing import serve

Stub = ranking_pb2_grpc.RankingServiceStub
LATER_S = 1_752_000_000


@pytest.fixture(scope="module")
def stub(ranking_servicer: Any) -> Iterator[Stub]:
    with serve(ranking_servicer, interceptors=[ErrorInterceptor()]) as running:
        yield Stub(running.channel)


def request_of(user: str = "warm", placement: str = "default", **fields: Any) -> ranking_pb2.RecommendRequest:
    context = {
        "user_id": user,
        "placement": placement,
        "request_id": f"{user}-{placement}",
        "event_time": {"seconds": LATER_S},
    }
    return ranking_pb2.RecommendRequest(context=context, **{"max_results": 10, **fields})


def explained(stub: Stub, item_id: str, request: ranking_pb2.RecommendRequest) -> ranking_pb2.ExplainItemResponse:
    return stub.ExplainItem(ranking_pb2.ExplainItemRequest(request=request, item_id=item_id))


def ids(response: ranking_pb2.RecommendResponse) -> list[str]:
    return [item.item_id for item in response.items]


def test_an_item_of_the_list_stands_where_the_list_has_it_with_every_stage(stub: Stub) -> None:
    request = request_of()
    shown = ids(stub.Recommend(request))
    for position, item_id in enumerate(shown[:4], start=1):
        found = explained(stub, item_id, request)
        assert (found.position, found.lost_at) == (position, "")
        stages = [part.stage for part in found.parts]
        assert any(stage.startswith("source:") for stage in stages)
        assert found.parts[-1].position_after == position
        rules = [part for part in found.parts if not part.stage.startswith("source:")]
        assert all(a.after == b.before for a, b in itertools.pairwise(rules))


def test_what_is_not_eligible_is_named(stub: Stub, seen_by: Callable[[str], set[str]]) -> None:
    request = request_of(exclude_item_ids=["i005"])
    assert explained(stub, "i005", request).lost_at == "filter:exclude_item_ids"
    seen = next(iter(seen_by("warm")))
    assert explained(stub, seen, request_of()).lost_at == "filter:seen"
    cheap = request_of(
        filter={"all_of": {"filters": [{"exists": {"column": "price"}}, {"in_range": {"column": "price", "max": -1}}]}}
    )
    assert explained(stub, "i006", cheap).lost_at == "filter:price"


def test_what_was_shown_lately_is_named_where_the_request_leaves_it_out_and_lowered_where_it_does_not(
    stub: Stub,
) -> None:
    plain = request_of(placement="plain")
    top = ids(stub.Recommend(plain))[0]
    before = [part.stage for part in explained(stub, top, plain).parts]
    lately = request_of(placement="plain", seen_policy={"served_within": {"seconds": 3600}})
    lately.context.recent_events.add(item_id=top, event_type="impression")
    stages = [part.stage for part in explained(stub, top, lately).parts]
    assert "served" not in before
    assert [stage for stage in stages if stage != "served"] == before
    assert "served" in stages
    lately.seen_policy.served_mode = filter_pb2.SEEN_MODE_EXCLUDE
    assert explained(stub, top, lately).lost_at == "filter:served"


def test_what_stood_too_low_is_told_from_what_a_rule_took_out(stub: Stub) -> None:
    plain, capped = request_of(placement="plain", max_results=40), request_of(placement="capped", max_results=40)
    top = ids(stub.Recommend(plain))
    lost = [item_id for item_id in top if item_id not in ids(stub.Recommend(capped))]
    assert lost, "the cap changes nothing here: the test needs another policy"
    reasons = {item_id: explained(stub, item_id, capped).lost_at for item_id in lost}
    assert all(reason.startswith(("rule:", "score")) for reason in reasons.values())
    assert any("cap" in reason for reason in reasons.values())
    longer = ids(stub.Recommend(request_of(placement="plain", max_results=60)))
    assert explained(stub, longer[-1], plain).lost_at == "score"


def test_an_item_that_no_source_found_has_no_rank_and_one_cut_off_has(stub: Stub) -> None:
    # Few candidates are asked for, so that most items are no candidates; the plans of the bundle name the sources.
    lost = {explained(stub, f"i{i:03}", request_of("nobody", "plain")).lost_at for i in range(1, 300, 37)}
    assert lost <= {"", "score", "merge", "source"}


def test_a_ranking_that_holds_no_source_knows_which_of_them_found_an_item(
    two_bundles: Registry, ranking_servicer: RankingServicer
) -> None:
    """As the service runs: the sources that learned from behaviour are retrieval's alone."""
    policies = {"default": PlacementPolicy(recency=None, mmr=None, cold_items=None, candidates=10)}
    bundle = load_bundle(two_bundles.path_of("newer"), retrieval=False)
    held = Held("newer", "", (("newer", RankingPipeline(bundle, policies)),), "", "")
    alone = RankingServicer(
        SimpleNamespace(held=held),  # type: ignore[arg-type]  # bundles that stay as they are
        ranking_servicer._store,
        ranking_servicer._retrieval,
        Experiments(("default",), policies, {}),
    )
    with serve(alone, interceptors=[ErrorInterceptor()]) as running:
        stub = Stub(running.channel)
        request = request_of(max_results=10)
        listed = ids(stub.Recommend(request))
        others = [item_id for item_id in bundle.catalog.item_ids if item_id not in listed][:60]
        found = [explained(stub, item_id, request) for item_id in others]
    assert {each.lost_at for each in found} <= {"filter:seen", "merge", "source", "score"}
    stages = {part.stage for each in found if each.lost_at == "merge" for part in each.parts}
    assert {"source:two_tower", "source:als"} <= stages


def test_an_unknown_item_is_not_found_and_a_missing_id_refused(stub: Stub, refused: Callable[..., Any]) -> None:
    unknown = ranking_pb2.ExplainItemRequest(request=request_of(), item_id="unheard-of")
    assert refused(stub.ExplainItem, unknown).code is grpc.StatusCode.NOT_FOUND
    got = refused(stub.ExplainItem, ranking_pb2.ExplainItemRequest(request=request_of()))
    assert "item_id" in got.violations
    wrong = ranking_pb2.ExplainItemRequest(request=request_of(max_results=501), item_id="i001")
    assert "max_results" in refused(stub.ExplainItem, wrong).violations


def test_parts_come_with_each_item_where_they_are_asked_for(stub: Stub) -> None:
    without, with_parts = stub.Recommend(request_of()), stub.Recommend(request_of(explain=True))
    assert ids(without) == ids(with_parts)
    assert not any(item.parts for item in without.items)
    for item in with_parts.items:
        assert item.parts[-1].position_after == item.position


@pytest.fixture(scope="module")
def recorded(
    ranking_servicer: RankingServicer, two_bundles: Registry, tmp_path_factory: pytest.TempPathFactory, policies: Any
) -> Path:
    """A folder with the records of requests to every placement, by users known and unknown."""
    folder = tmp_path_factory.mktemp("decisions")
    write_policies(folder, ranking_servicer._experiments.policies.values())
    log = DecisionLog(folder, sample=1.0)
    noting = RankingServicer(
        ranking_servicer._bundles,
        ranking_servicer._store,
        ranking_servicer._retrieval,
        ranking_servicer._experiments,
        DecisionNotes(log, ranking_servicer._experiments.policies),
    )
    with serve(noting, interceptors=[ErrorInterceptor()]) as running:
        stub = Stub(running.channel)
        for placement in policies:
            for user in ("warm", "few", "profile", "nobody"):
                stub.Recommend(request_of(user, placement))
    log.close()
    return folder


def test_a_record_says_what_was_asked_and_shown(recorded: Path, stub: Stub, policies: Any) -> None:
    decisions = list(read_decisions(segments(recorded)))
    assert len(decisions) == 4 * len(policies)
    first = decisions[0]
    answer = stub.Recommend(ranking_pb2.RecommendRequest.FromString(first.request))
    assert list(first.shown.item_ids) == ids(answer)
    assert first.decision_id == answer.decision_id
    assert list(first.shown.scores) == [item.score for item in answer.items]


def test_every_decision_replays_to_the_bit(recorded: Path, two_bundles: Registry) -> None:
    done = CliRunner().invoke(app, ["replay", str(recorded), "--registry", str(two_bundles.root)])
    assert done.exit_code == 0, done.output
    decisions = list(read_decisions(segments(recorded)))
    n = len(decisions)
    assert all(decision.retrieved is not None for decision in decisions)
    assert ("order", "popular") in {pair for decision in decisions for pair in decision.experiments.items()}
    mixed = [decision for decision in decisions if "interleaved" in decision.experiments.values()]
    assert mixed
    assert all(len(decision.teams) == 2 and set(decision.shown.teams) - {""} for decision in mixed)
    # Retrieval was asked once, and what it gave is kept once.
    assert all(team.retrieved is decision.retrieved for decision in mixed for team in decision.teams)
    assert f"{n} of {n} replayed decisions are identical" in done.output


def test_a_decision_that_comes_out_otherwise_is_named(recorded: Path, two_bundles: Registry, tmp_path: Path) -> None:
    copy = tmp_path / "decisions-1.jsonl"
    lines = segments(recorded)[0].read_text().splitlines()
    first = read_decisions(segments(recorded)).__next__()
    swapped = lines[0].replace(f'"{first.shown.item_ids[0]}"', '"i299"', 1)
    copy.write_text(swapped + "\n")
    (tmp_path / "policies").symlink_to(recorded / "policies")
    done = CliRunner().invoke(app, ["replay", str(copy), "--registry", str(two_bundles.root)])
    assert done.exit_code == 1
    assert "i299 was shown" in done.output


def test_other_rules_are_previewed_on_recorded_requests(recorded: Path, two_bundles: Registry, tmp_path: Path) -> None:
    rules = tmp_path / "policy.toml"
    rules.write_text("[placements.default]\nrecency = {weight = 1.0, half_life_days = 1.0}\n")
    arguments = ["preview-rules", str(recorded), "--policy", str(rules), "--registry", str(two_bundles.root)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "would look different" in done.output
    assert "left out" in done.output  # placements that the file does not have
    assert "does not have it" in done.output
    same = tmp_path / "same.toml"
    same.write_text("")
    unchanged = CliRunner().invoke(app, [*arguments[:3], str(same), *arguments[4:]])
    assert "4 decisions: 0 would look different" in unchanged.output


def test_records_that_are_not_there_are_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["replay", str(tmp_path)])
    assert done.exit_code == 2
