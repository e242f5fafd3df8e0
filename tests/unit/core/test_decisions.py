"""Decision records: every bit survives, files can be read back, and a user can be forgotten in them."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tandem_core.candidates import CandidateBatch
from tandem_core.decision_log import (
    DecisionLog,
    forget,
    read_decisions,
    read_policy,
    segments,
    write_policies,
)
from tandem_core.decisions import (
    Decision,
    DecisionUnreadable,
    Shown,
    from_line,
    policy_hash,
    to_line,
    without_candidates,
)
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Query, Regime, Seen, UserEvents
from tandem_core.retrieval_pipeline import Retrieved


def decision(decision_id: str = "d-1", user_id: str = "ann", n: int = 3) -> Decision:
    query = Query(
        request_id="r-1",
        now_ms=1_752_000_000_123,
        max_results=2,
        user_id=user_id,
        seed=2**63 + 5,
        interacted=Seen.DISCOUNT,
        attributes={"country": "DE"},
        events=UserEvents(["a"], np.array([5], np.int64), ["click"], np.array([np.nan], np.float32)),
    )
    batch = CandidateBatch(
        np.arange(n, dtype=np.int32),
        np.linspace(1, 0, n, dtype=np.float32),
        {"rank:als": np.arange(n, dtype=np.int32), "score:als": np.full(n, 1 / 3, np.float32)},
    )
    late = Degradation(DegradationKind.SOURCE_LATE, "als", "no time left")
    return Decision(
        decision_id,
        "r-1",
        query.now_ms,
        "b-1",
        "default",
        "p-1",
        user_id,
        "",
        query.seed,
        Regime.WARM,
        {"e": "v"},
        (late,),
        Shown(("x", "y"), (0.1 + 0.2, 1e-45), (0.0, 0.125), (("POPULAR",), ())),
        b"\x00\xff",
        query,
        Retrieved(batch, "b-1", Regime.WARM, (late,), ""),
    )


def written(folder: Path, *decisions: Decision, sample: float = 1.0) -> DecisionLog:
    log = DecisionLog(folder, sample)
    for each in decisions:
        log.add(each)
    return log


def test_a_record_read_back_is_the_same_to_the_bit() -> None:
    before = decision()
    after = from_line(to_line(before))
    assert to_line(after) == to_line(before)
    assert "\n" not in to_line(before)
    assert (after.shown, after.seed, after.request) == (before.shown, before.seed, before.request)
    assert after.query is not None
    assert after.query.interacted is Seen.DISCOUNT
    assert np.isnan(after.query.events.values[0])


@given(arrays(np.float32, 4, elements=st.floats(width=32)))
def test_scores_of_candidates_keep_every_bit(scores: np.ndarray) -> None:
    before = decision(n=4)
    assert before.retrieved is not None
    before = replace(
        before, retrieved=replace(before.retrieved, candidates=before.retrieved.candidates.with_scores(scores))
    )
    after = from_line(to_line(before)).retrieved
    assert after is not None
    assert after.candidates.scores.tobytes() == scores.tobytes()
    assert after.candidates.columns["score:als"].dtype == np.float32


@pytest.mark.parametrize(
    "line",
    ["", "{}", "[]", "not json", '{"format": 2}', to_line(decision()).replace("<f4", "|O"), to_line(decision())[:-9]],
)
def test_what_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(DecisionUnreadable):
        from_line(line)


def test_all_decisions_are_kept_and_a_sample_of_them_with_their_candidates(tmp_path: Path) -> None:
    made = [decision(f"d-{i}") for i in range(200)]
    written(tmp_path, *made, sample=0.25).close()
    kept = list(read_decisions(segments(tmp_path)))
    assert [each.decision_id for each in kept] == [each.decision_id for each in made]
    whole = {each.decision_id for each in kept if each.retrieved is not None}
    assert 20 < len(whole) < 90
    written(again := tmp_path / "again", *made, sample=0.25).close()
    assert {d.decision_id for d in read_decisions(segments(again)) if d.retrieved is not None} == whole
    assert kept[0].request in (b"", made[0].request)


def test_a_forgotten_user_is_in_no_file_and_comes_back_from_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem_core.decision_log._IN_FLIGHT_MS", 0)
    log = written(tmp_path, decision("d-1", "ann"), decision("d-2", "bob"))
    log.close()
    waiting = DecisionLog(tmp_path, 1.0)
    waiting.add(decision("d-3", "ann"))  # in memory while she is forgotten, or just written: both must be gone
    deleted = forget(tmp_path, "ann")
    waiting.close()
    left = list(read_decisions(segments(tmp_path)))
    assert {each.user_id for each in left} == {"bob"}
    assert deleted in (1, 2)
    assert not any(b'"ann"' in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    later = DecisionLog(tmp_path, 1.0)
    time.sleep(0.002)
    later.add(decision("d-4", "ann"))  # she is back, with a decision of her own
    later.close()
    assert [each.decision_id for each in read_decisions(segments(tmp_path))][-1] == "d-4"
    assert forget(tmp_path / "nowhere", "ann") == 0


def test_a_request_under_way_while_its_user_is_forgotten_leaves_no_record(tmp_path: Path) -> None:
    log = written(tmp_path, decision("d-1", "bob"))
    forget(tmp_path, "ann")
    time.sleep(0.002)
    log.add(decision("d-2", "ann"))  # it had read her history before
    log.close()
    assert [each.user_id for each in read_decisions(segments(tmp_path))] == ["bob"]


def test_a_line_that_a_dying_process_left_half_written_keeps_nobody_from_being_forgotten(tmp_path: Path) -> None:
    written(tmp_path, decision("d-1", "ann"), decision("d-2", "bob")).close()
    (path,) = segments(tmp_path)
    with path.open("a") as file:
        file.write(to_line(decision("d-3", "ann"))[:-20] + "\n")
    assert forget(tmp_path, "ann") == 2
    assert [each.user_id for each in read_decisions(segments(tmp_path))] == ["bob"]
    assert b'"ann"' not in path.read_bytes()


def test_what_cannot_be_written_does_not_end_the_records_to_come(tmp_path: Path) -> None:
    (tmp_path / "forgotten.jsonl").write_text("damaged\n")
    log = written(tmp_path, decision("d-1"))
    deadline = time.monotonic() + 30
    while not log.dropped:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (tmp_path / "forgotten.jsonl").unlink()
    log.add(decision("d-2"))
    log.close()
    assert [each.decision_id for each in read_decisions(segments(tmp_path))] == ["d-2"]


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_disk_that_fills_up_within_a_record_costs_that_record_alone(tmp_path: Path) -> None:
    written(tmp_path, decision("d-1")).close()
    (path,) = segments(tmp_path)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, most))
    try:
        full = written(tmp_path, replace(decision("d-2"), request=b"long" * 10_000))
        full.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert full.dropped == 1
    written(tmp_path, decision("d-3")).close()
    assert [each.decision_id for each in read_decisions(segments(tmp_path))] == ["d-1", "d-3"]


def test_a_record_that_a_killed_process_left_half_written_costs_no_other(tmp_path: Path) -> None:
    written(tmp_path, decision("d-1")).close()
    (path,) = segments(tmp_path)
    with path.open("a") as file:
        file.write(to_line(decision("d-2"))[:-20])
    assert [each.decision_id for each in read_decisions([path])] == ["d-1"]
    written(tmp_path, decision("d-3")).close()  # a container's processes have the same numbers after a restart
    assert [each.decision_id for each in read_decisions(segments(tmp_path))] == ["d-1", "d-3"]


def test_old_segments_are_deleted(tmp_path: Path) -> None:
    written(tmp_path, decision()).close()
    (old,) = segments(tmp_path)
    kept = old.with_name("decisions-20200101T00-1.jsonl")
    old.rename(kept)
    os.utime(kept, (0, 0))
    written(tmp_path, decision("d-2")).close()
    assert [each.decision_id for each in read_decisions(segments(tmp_path))] == ["d-2"]


def test_a_damaged_line_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "decisions-1.jsonl"
    path.write_text(to_line(decision()) + "\nbroken\n")
    with pytest.raises(DecisionUnreadable, match=r"decisions-1\.jsonl:2"):
        list(read_decisions([path]))


def test_a_full_queue_drops_and_counts_instead_of_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem_core.decision_log._MOST_WAITING", 3)
    monkeypatch.setattr("tandem_core.decision_log._FLUSH_S", 60.0)
    log = written(tmp_path, *(without_candidates(decision(f"d-{i}")) for i in range(10)))
    assert log.dropped == 7
    log.close()
    assert len(list(read_decisions(segments(tmp_path)))) == 3


def test_a_policy_is_kept_under_its_hash(tmp_path: Path) -> None:
    policy = PlacementPolicy(candidates=77, interacted=Seen.ALLOW)
    write_policies(tmp_path, [policy, PlacementPolicy()])
    assert read_policy(tmp_path, policy_hash(policy)) == policy
    assert policy_hash(policy) != policy_hash(PlacementPolicy())
    assert json.loads((tmp_path / "policies" / f"{policy_hash(policy)}.json").read_text())["candidates"] == 77
    with pytest.raises(DecisionUnreadable, match=r"nothing\.json"):
        read_policy(tmp_path, "nothing")
