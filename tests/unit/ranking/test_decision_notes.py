"""Which answered requests can be made again, and what the record of another says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tandem.ranking.v1 import ranking_pb2
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.decision_log import DecisionLog, read_decisions, segments
from tandem_core.decisions import Decision, policy_hash
from tandem_core.live.view import LiveView
from tandem_core.policy import PlacementPolicy
from tandem_core.query import Query, UserEvents
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.replay import CannotReplay, replay
from tandem_core.retrieval_pipeline import RetrievalPipeline
from tandem_core.stores.live import Added, Changes, Cursor, Encoding, LiveItem
from tandem_ranking.decision_notes import DecisionNotes, Made

POLICY = PlacementPolicy()


@pytest.fixture(scope="module")
def live(bundle: Bundle) -> Bundle:
    """The bundle with one item that came later, like the first one."""
    view = LiveView(bundle)
    encoding = Encoding(bundle.item_vectors[0], bundle.content_vectors[0])
    view.apply(Changes([], [Added(1, LiveItem("new", "New", "", {}, {}), encoding)], Cursor(), more=False))
    return view.bundle


def noted(folder: Path, query: Query, bundle: Bundle, *, with_live: bool = True) -> Decision:
    """Return the record of an answer, as it is read back. with_live: live items are among the candidates."""
    pipeline = RankingPipeline(bundle, {"default": POLICY})
    retrieved = RetrievalPipeline(bundle).retrieve(replace(query, max_results=50), Budget())
    if not with_live:
        bundled = retrieved.candidates.rows < bundle.catalog.bundle_size
        retrieved = replace(retrieved, candidates=retrieved.candidates.take(bundled))
    slate = pipeline.arrange(query, retrieved, Budget())
    log = DecisionLog(folder, sample=1.0)
    notes = DecisionNotes(log, {"default": POLICY})
    notes.note(ranking_pb2.RecommendRequest(), query, {"": Made(query, retrieved, slate)}, slate, bundle)
    log.close()
    (decision,) = read_decisions(segments(folder))
    return decision


def asked_by(*item_ids: str) -> Query:
    n = len(item_ids)
    events = UserEvents(item_ids, np.arange(n) + 1, ["click"] * n, np.full(n, np.nan, np.float32))
    return Query(request_id="r", now_ms=1_752_000_000_000, max_results=10, placement="default", events=events)


def test_a_decision_with_live_candidates_says_that_no_bundle_holds_them(
    live: Bundle, bundle: Bundle, tmp_path: Path
) -> None:
    decision = noted(tmp_path, asked_by(*bundle.catalog.item_ids[:8]), live)
    assert decision.retrieved is None
    assert decision.not_replayable == "live items, which no bundle holds, are among its candidates"
    with pytest.raises(CannotReplay, match="live items"):
        replay(decision, live, {policy_hash(POLICY): POLICY})


def test_a_decision_for_a_user_with_live_items_in_the_history_says_so(
    live: Bundle, bundle: Bundle, tmp_path: Path
) -> None:
    decision = noted(tmp_path, asked_by("new", *bundle.catalog.item_ids[:8]), live, with_live=False)
    assert decision.not_replayable == "live items, which no bundle holds, are in its history"


def test_while_there_are_live_items_other_decisions_are_made_again_from_the_bundle_alone(
    live: Bundle, bundle: Bundle, tmp_path: Path
) -> None:
    decision = noted(tmp_path, asked_by(*bundle.catalog.item_ids[:8]), live, with_live=False)
    assert not decision.not_replayable
    assert replay(decision, bundle, {policy_hash(POLICY): POLICY}).identical
