"""Two lists as one: whose items are whose, and that neither side is favoured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.budget import Budget
from tandem_core.candidates import CandidateBatch
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.interleaving import interleave, once, shown, team_draft
from tandem_core.query import Query, Regime, SourcePlan
from tandem_core.ranking_pipeline import Slate
from tandem_core.reasons import Reason, ReasonKind
from tandem_core.retrieval_pipeline import Retrieved

LIST = st.lists(st.integers(0, 30), unique=True, max_size=25)
SEED = st.integers(0, 2**64 - 1)
LENGTH = st.integers(1, 40)


@given(LIST, LIST, LENGTH, SEED)
def test_no_row_comes_twice_and_the_list_is_as_long_as_it_can_be(a: Any, b: Any, length: int, seed: int) -> None:
    rows = [pick.row for pick in team_draft(a, b, length, seed)]
    assert len(rows) == len(set(rows)) == min(length, len(set(a) | set(b)))
    for pick in team_draft(a, b, length, seed):
        assert (a, b)[pick.team][pick.place] == pick.row


@given(LIST, LIST, LENGTH, SEED)
def test_the_same_seed_gives_the_same_list(a: Any, b: Any, length: int, seed: int) -> None:
    assert team_draft(a, b, length, seed) == team_draft(a, b, length, seed)


@given(LIST, LIST, LENGTH, SEED)
def test_no_prefix_favours_a_team_by_more_than_one_pick(a: Any, b: Any, length: int, seed: int) -> None:
    teams = [pick.team for pick in team_draft(a, b, length, seed) if pick.credited]
    ahead = np.cumsum([1 if team == 0 else -1 for team in teams])
    assert (np.abs(ahead) <= 1).all()
    assert not ahead[1::2].any()  # after every round both have as many


@given(LIST, LIST, LENGTH, SEED)
def test_every_pick_is_the_best_of_its_team_that_was_left(a: Any, b: Any, length: int, seed: int) -> None:
    taken: set[int] = set()
    for pick in team_draft(a, b, length, seed):
        assert pick.row == next(row for row in (a, b)[pick.team] if row not in taken)
        taken.add(pick.row)


@given(LIST, LIST, LENGTH, SEED)
def test_nobody_is_credited_once_a_list_has_nothing_left(a: Any, b: Any, length: int, seed: int) -> None:
    taken: set[int] = set()
    over = False
    for pick in team_draft(a, b, length, seed):
        over = over or not pick.credited
        assert pick.credited != over
        if over:
            assert not set((a, b)[1 - pick.team]) - taken
        taken.add(pick.row)


def test_both_teams_go_first_equally_often_and_rounds_do_not_depend_on_each_other() -> None:
    firsts = np.zeros((2000, 3), int)
    for seed in range(2000):
        picks = team_draft(range(10), range(100, 110), 6, seed)
        firsts[seed] = [pick.team for pick in picks[::2]]
    assert np.abs(firsts.mean(axis=0) - 0.5).max() < 0.045  # 4 standard deviations
    assert np.abs(np.corrcoef(firsts.T) - np.eye(3)).max() < 0.09


def test_the_longest_list_there_is_stays_a_fair_draft() -> None:
    picks = team_draft(range(1000), range(1000, 2000), 1000, 5)
    assert sum(pick.team for pick in picks) == 500


def slate(*rows: int, sources: str = "a", bundle_id: str = "b1", **fields: Any) -> Slate:
    n = len(rows)
    columns: dict[str, Any] = {"events": np.array(rows, np.int32) * 10}
    for source in sources:
        columns[f"rank:{source}"] = np.arange(1, n + 1, dtype=np.int32)
        columns[f"score:{source}"] = np.linspace(1, 0.5, n, dtype=np.float32)
    batch = CandidateBatch(np.array(rows, np.int32), np.linspace(0.9, 0.1, n, dtype=np.float32), columns)
    reasons = tuple((Reason(ReasonKind.BECAUSE_OF_ITEM, f"{sources}{row}"),) for row in rows)
    declared, empty = fields.get("degradations", ()), "" if n else "nothing there"
    return Slate(batch, reasons, bundle_id, Regime.WARM, declared, empty, np.zeros(n))


def query(max_results: int = 10, **fields: Any) -> Query:
    return Query(request_id="r", now_ms=0, max_results=max_results, seed=7, **fields)


def test_every_item_brings_what_its_own_list_said_of_it() -> None:
    mixed = interleave(query(6), {"old": slate(1, 2, 3, 4), "new": slate(9, 2, 8, 1, sources="xa")})
    for place, row in enumerate(mixed.items.rows.tolist()):
        source = {"old": "a", "new": "xa"}[mixed.teams[place]] if mixed.teams[place] else None
        (reason,) = mixed.reasons[place]
        assert reason.parameter.removeprefix("x").removeprefix("a") == str(row)
        assert source is None or reason.parameter == f"{source}{row}"
        assert mixed.items.columns["events"][place] == row * 10
        asked_x = mixed.items.columns["rank:x"][place] > 0
        assert source is None or asked_x == (source == "xa")
    assert mixed.items.sources == ["a", "x"]
    assert (np.diff(mixed.items.scores) <= 0).all()
    assert set(mixed.teams[:4]) == {"old", "new"}


def test_what_was_left_out_of_either_list_is_declared_once() -> None:
    late = Degradation(DegradationKind.SOURCE_LATE, "a")
    skipped = Degradation(DegradationKind.RANKER_SKIPPED, "ranker")
    mixed = interleave(query(), {"a": slate(1, degradations=(late,)), "b": slate(2, degradations=(late, skipped))})
    assert mixed.degradations == (late, skipped)


def test_an_empty_list_leaves_the_others_items_to_nobody() -> None:
    mixed = interleave(query(), {"a": slate(), "b": slate(2, 3)})
    assert (mixed.items.rows.tolist(), mixed.teams, mixed.empty_reason) == ([2, 3], ("", ""), "")
    nothing = interleave(query(), {"a": slate(), "b": slate()})
    assert (len(nothing.items), nothing.teams, nothing.empty_reason) == (0, (), "nothing there")


def test_lists_of_two_bundles_are_not_mixed() -> None:
    mixed = interleave(query(), {"a": slate(1, 2), "b": slate(3, 4, bundle_id="b2")})
    assert (mixed.items.rows.tolist(), mixed.bundle_id, mixed.teams) == ([1, 2], "b1", ())
    assert [(d.kind, d.component) for d in mixed.degradations] == [(DegradationKind.BUNDLE_MISMATCH, "interleaving")]


def test_each_team_ranks_under_its_own_policy_and_no_teams_mean_one_list() -> None:
    policies: list[str] = []

    def slate_of(asked: Query) -> Slate:
        policies.append(asked.policy)
        return slate(1, 2)

    assert shown(query(policy="p"), {}, slate_of).teams == ()
    shown(query(), {"a": "", "b": "home?x=b"}, slate_of)
    assert policies == ["p", "", "home?x=b"]


@pytest.mark.parametrize(
    ("fields", "calls"), [({}, 1), ({"plans": (SourcePlan("als", 5),)}, 2), ({"exclude_item_ids": ["i"]}, 2)]
)
def test_retrieval_is_asked_again_only_for_other_candidates(fields: dict[str, Any], calls: int) -> None:
    asked: list[Query] = []

    def retrieve(wanted: Query, budget: Budget) -> Retrieved:
        asked.append(wanted)
        return Retrieved(slate(1).items, "b1", Regime.WARM, (), "")

    ask = once(retrieve)
    first = query()
    ask(first, Budget())
    ask(replace(first, policy="home?x=b", **fields), Budget())
    assert len(asked) == calls
