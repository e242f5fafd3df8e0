from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.blend import BlendWeights
from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.degradation import DegradationKind
from tandem_core.errors import DeadlineExceeded, InvalidRequest
from tandem_core.features import User
from tandem_core.filters import Eligibility, Exists, InRange, InSet
from tandem_core.query import Fill, Query, Regime, Seen, SourcePlan, UserEvents
from tandem_core.retrieval_pipeline import RetrievalPipeline, Retrieved, _kept
from tandem_core.sources.base import Found, Source

MakeBundle = Callable[..., Bundle]
MakeQuery = Callable[..., Query]
MakeEvents = Callable[..., UserEvents]
MakeSource = Callable[..., Source]

ALL = [f"i{row}" for row in range(12)]


@pytest.fixture(scope="module")
def pipeline(make_bundle: MakeBundle, list_source: MakeSource) -> RetrievalPipeline:
    """Source a gives rows 9, 8 and 7, b gives 8 and 1."""
    return RetrievalPipeline(make_bundle({"a": list_source((9, 8, 7)), "b": list_source((8, 1))}))


def rows(retrieved: Retrieved) -> list[int]:
    found: list[int] = retrieved.candidates.rows.tolist()
    return found


def declared(retrieved: Retrieved) -> list[tuple[DegradationKind, str]]:
    return [(each.kind, each.component) for each in retrieved.degradations]


def test_sources_are_merged_and_the_list_filled_up_with_what_is_popular(
    pipeline: RetrievalPipeline, make_query: MakeQuery
) -> None:
    retrieved = pipeline.retrieve(make_query(max_results=6), Budget())
    # 8 is found twice; 9 is a's first, 1 b's second, 7 a's third; then the most popular ones.
    assert rows(retrieved) == [8, 9, 1, 7, 0, 2]
    assert np.all(np.diff(retrieved.candidates.scores) < 0)
    assert retrieved.candidates.columns["rank:a"].tolist() == [2, 1, 0, 3, 0, 0]
    assert retrieved.candidates.columns["rank:backfill"].tolist() == [0, 0, 0, 0, 1, 2]
    assert (retrieved.bundle_id, retrieved.regime) == ("b1", Regime.UNKNOWN)
    assert retrieved.degradations == ()
    assert retrieved.empty_reason == ""


def test_strict_gives_what_the_sources_found_and_no_more(pipeline: RetrievalPipeline, make_query: MakeQuery) -> None:
    retrieved = pipeline.retrieve(make_query(max_results=12, fill=Fill.STRICT), Budget())
    assert rows(retrieved) == [8, 9, 1, 7]
    assert retrieved.candidates.sources == ["a", "b"]


def test_a_source_with_nothing_to_say_leaves_no_columns(
    make_bundle: MakeBundle, list_source: MakeSource, make_query: MakeQuery
) -> None:
    pipeline = RetrievalPipeline(make_bundle({"silent": list_source(()), "good": list_source((5,))}))
    retrieved = pipeline.retrieve(make_query(max_results=2, fill=Fill.STRICT), Budget())
    assert retrieved.candidates.sources == ["good"]
    assert not retrieved.degradations


@pytest.mark.parametrize("wanted", [1, 3, 4, 5, 12, 2000])
def test_a_list_is_as_long_as_asked_and_no_longer_than_the_catalogue(
    wanted: int, pipeline: RetrievalPipeline, make_query: MakeQuery
) -> None:
    found = rows(pipeline.retrieve(make_query(max_results=wanted), Budget()))
    assert len(found) == min(wanted, 12) == len(set(found))
    assert found[:4] == [8, 9, 1, 7][:wanted]


def test_the_same_query_gets_the_same_answer_twice(bundle: Bundle, make_query: MakeQuery) -> None:
    ids = bundle.catalog.item_ids
    events = UserEvents(ids[:7], np.arange(7, dtype=np.int64), ["like"] * 7, np.zeros(7, np.float32))
    query = make_query(events=events, attributes={"gender": "female"}, max_results=100)
    one, other = (RetrievalPipeline(bundle).retrieve(query, Budget()) for _ in range(2))
    assert one.regime is Regime.WARM
    assert {*one.candidates.sources} >= {"two_tower", "als"}
    np.testing.assert_array_equal(one.candidates.rows, other.candidates.rows)
    np.testing.assert_array_equal(one.candidates.scores, other.candidates.scores)


def test_a_broken_source_is_left_out_and_declared(
    make_bundle: MakeBundle, list_source: MakeSource, make_query: MakeQuery, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = RetrievalPipeline(make_bundle({"bad": list_source(broken=True), "good": list_source((5,))}))
    with caplog.at_level(logging.ERROR):
        retrieved = pipeline.retrieve(make_query(max_results=2), Budget())
    assert rows(retrieved) == [5, 0]
    assert declared(retrieved) == [(DegradationKind.SOURCE_FAILED, "bad")]
    assert "broken" not in retrieved.degradations[0].message  # what went wrong is for our log alone
    (record,) = caplog.records
    assert vars(record)["source"] == "bad"
    assert record.exc_info is not None


def test_when_every_source_breaks_popular_items_are_left(
    make_bundle: MakeBundle, list_source: MakeSource, make_query: MakeQuery
) -> None:
    pipeline = RetrievalPipeline(make_bundle({"a": list_source(broken=True), "b": list_source(broken=True)}))
    retrieved = pipeline.retrieve(make_query(max_results=3), Budget())
    assert rows(retrieved) == [0, 1, 2]
    assert [component for _, component in declared(retrieved)] == ["a", "b"]


def test_a_broken_popularity_costs_the_fill_and_not_what_was_found(
    make_bundle: MakeBundle, list_source: MakeSource, make_query: MakeQuery
) -> None:
    bundle = make_bundle({"a": list_source((4,)), "popularity": list_source(broken=True)})
    retrieved = RetrievalPipeline(bundle).retrieve(make_query(max_results=5), Budget())
    assert rows(retrieved) == [4]
    assert declared(retrieved) == [(DegradationKind.SOURCE_FAILED, "popularity")]  # asked twice, said once
    nothing = RetrievalPipeline(make_bundle({"popularity": list_source(broken=True)}))
    retrieved = nothing.retrieve(make_query(), Budget())
    assert retrieved.empty_reason.startswith("no source that answered found an eligible item")


class Slow:
    """A source that takes all the time there is."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock

    def find(self, user: User, eligible: Eligibility, limit: int) -> Found:
        self._clock[0] += 10
        return Found(np.array([6], np.int32), np.ones(1, np.float32))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, as its only entry."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_sources_after_the_deadline_are_left_out_and_declared_late(
    make_bundle: MakeBundle, list_source: MakeSource, make_query: MakeQuery, clock: list[float]
) -> None:
    late = list_source((9,))
    pipeline = RetrievalPipeline(make_bundle({"slow": Slow(clock), "late": late}))
    retrieved = pipeline.retrieve(make_query(max_results=3), Budget.of(5))
    assert rows(retrieved) == [6, 0, 1]  # the fill takes no time
    assert declared(retrieved) == [(DegradationKind.SOURCE_LATE, "late")]
    assert late.asked == []  # type: ignore[attr-defined]


def test_when_all_are_late_nobody_waits_any_more(
    pipeline: RetrievalPipeline, make_query: MakeQuery, clock: list[float]
) -> None:
    with pytest.raises(DeadlineExceeded, match="before any source was asked"):
        pipeline.retrieve(make_query(), Budget.of(0))


@given(
    st.sets(st.sampled_from(ALL)),
    st.lists(st.sampled_from(ALL), max_size=4),
    st.lists(st.sampled_from(ALL), max_size=2),
    st.integers(1, 14),
    st.sampled_from([Fill.STRICT, Fill.BACKFILL]),
)
def test_excluded_seen_and_seed_items_are_never_returned(
    pipeline: RetrievalPipeline,
    make_query: MakeQuery,
    events_of: MakeEvents,
    excluded: set[str],
    seen: list[str],
    seeds: list[str],
    wanted: int,
    fill: Fill,
) -> None:
    query = make_query(
        exclude_item_ids=sorted(excluded), events=events_of(*seen), seed_item_ids=seeds, max_results=wanted, fill=fill
    )
    retrieved = pipeline.retrieve(query, Budget())
    found = rows(retrieved)
    forbidden = {int(item_id[1:]) for item_id in [*excluded, *seen, *seeds]}
    assert not forbidden & set(found)
    assert len(found) == len(set(found)) <= wanted
    if fill is Fill.BACKFILL:
        assert len(found) == min(wanted, 12 - len(forbidden))
    assert bool(retrieved.empty_reason) == (not found)


@pytest.mark.parametrize("treatment", [Seen.ALLOW, Seen.DISCOUNT])
def test_seen_items_may_be_asked_for(
    treatment: Seen, pipeline: RetrievalPipeline, make_query: MakeQuery, events_of: MakeEvents
) -> None:
    asked = make_query(events=events_of("i9", "i8"), seed_item_ids=["i7"], interacted=treatment, max_results=4)
    assert rows(pipeline.retrieve(asked, Budget())) == [8, 9, 1, 7]
    assert rows(pipeline.retrieve(replace(asked, interacted=None), Budget())) == [1, 0, 2, 3]


def test_disliked_items_do_not_come_back(
    pipeline: RetrievalPipeline, make_query: MakeQuery, events_of: MakeEvents
) -> None:
    retrieved = pipeline.retrieve(make_query(events=events_of("i8", types=["dislike"])), Budget())
    assert 8 not in rows(retrieved)


def test_a_filter_that_matches_three_items_returns_those_three(
    pipeline: RetrievalPipeline, make_query: MakeQuery, bundle: Bundle
) -> None:
    three = InSet("item_id", frozenset({"i3", "i8", "i11"}))
    retrieved = pipeline.retrieve(make_query(condition=three), Budget())
    assert rows(retrieved) == [8, 3, 11]
    ids = [bundle.catalog.item_ids[row] for row in (5, 150, 299)]
    real = RetrievalPipeline(bundle).retrieve(
        make_query(condition=InSet("item_id", frozenset(ids)), seed_item_ids=[bundle.catalog.item_ids[7]]), Budget()
    )
    assert sorted(rows(real)) == [5, 150, 299]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"fill": Fill.STRICT, "condition": InRange("price", high=0)}, "fill_policy is STRICT"),
        ({"condition": InRange("price", low=1000)}, "no item matches the filter"),
        ({"exclude_item_ids": ALL}, "has seen every item of the catalogue, or the request excludes it"),
    ],
)
def test_an_empty_list_says_why(
    fields: dict[str, object], reason: str, pipeline: RetrievalPipeline, make_query: MakeQuery
) -> None:
    retrieved = pipeline.retrieve(make_query(**fields), Budget())
    assert rows(retrieved) == []
    assert reason in retrieved.empty_reason


def test_a_request_may_bring_its_own_plan(pipeline: RetrievalPipeline, make_query: MakeQuery) -> None:
    plans = (SourcePlan("b", 1), SourcePlan("a", 2, weight=0.1))
    retrieved = pipeline.retrieve(make_query(plans=plans, fill=Fill.STRICT), Budget())
    assert rows(retrieved) == [8, 9]
    assert retrieved.candidates.scores.tolist() == pytest.approx([1 / 61 + 0.1 / 62, 0.1 / 61])
    assert retrieved.candidates.sources == ["b", "a"]


def test_unknown_sources_and_columns_name_the_field(pipeline: RetrievalPipeline, make_query: MakeQuery) -> None:
    with pytest.raises(InvalidRequest) as caught:
        pipeline.retrieve(make_query(plans=(SourcePlan("a", 1), SourcePlan("c", 1))), Budget())
    assert caught.value.violations[0].field == "sources[1].source"
    assert "popularity_category, a, b" in caught.value.violations[0].description
    with pytest.raises(InvalidRequest) as caught:
        pipeline.retrieve(make_query(condition=Exists("colour")), Budget())
    assert caught.value.violations[0].field == "filter.exists.column"


def test_guaranteed_rows_take_the_last_places_and_the_order_stays() -> None:
    rows = np.array([9, 8, 7, 6, 5, 4, 3], np.int32)
    assert rows[_kept(rows, 4, np.array([3, 8], np.int32))].tolist() == [9, 8, 7, 3]
    assert rows[_kept(rows, 4, np.array([], np.int32))].tolist() == [9, 8, 7, 6]
    assert rows[_kept(rows, 9, np.array([3], np.int32))].tolist() == rows.tolist()
    assert rows[_kept(rows, 2, np.array([3, 4, 5], np.int32))].tolist() == [5, 4]


@given(st.permutations(range(12)), st.integers(0, 14), st.sets(st.integers(0, 15), max_size=6))
def test_a_quota_never_changes_the_length_and_loses_a_guaranteed_row_only_to_others(
    rows: list[int], most: int, guaranteed: set[int]
) -> None:
    kept = [rows[i] for i in _kept(np.array(rows, np.int32), most, np.array(sorted(guaranteed), np.int32))]
    assert len(kept) == min(most, len(rows))
    assert kept == [row for row in rows if row in kept]
    present = guaranteed & set(rows)
    assert len(present & set(kept)) == min(len(present), most)


def test_a_source_with_a_quota_reaches_the_candidates_however_little_it_weighs(
    make_bundle: MakeBundle, list_source: MakeSource, make_query: MakeQuery
) -> None:
    sources = {"a": list_source((9, 8, 7, 6)), "new": list_source((2, 3))}
    plan = (SourcePlan("a", 10), SourcePlan("new", 10, weight=0.001, quota=1))
    pipeline = RetrievalPipeline(make_bundle(sources, plans=dict.fromkeys(Regime, plan)))
    assert rows(pipeline.retrieve(make_query(max_results=3), Budget())) == [9, 8, 2]


def test_quotas_for_hundreds_of_candidates_do_not_fill_a_list_of_ten(
    make_bundle: MakeBundle, list_source: MakeSource, make_query: MakeQuery
) -> None:
    sources = {"a": list_source((11, 10, 9, 8, 7, 6)), "new": list_source((0, 1, 2)), "cold": list_source((3, 4, 5))}
    low = {"limit": 10, "weight": 0.001, "quota": 10}
    plan = (SourcePlan("a", 10), SourcePlan("new", **low), SourcePlan("cold", **low))
    pipeline = RetrievalPipeline(make_bundle(sources, plans=dict.fromkeys(Regime, plan)))
    assert rows(pipeline.retrieve(make_query(max_results=6), Budget())) == [11, 10, 9, 8, 0, 3]
    assert rows(pipeline.retrieve(make_query(max_results=2), Budget())) == [11, 10]


def test_learned_weights_merge_unless_the_request_brings_its_own(
    make_bundle: MakeBundle, list_source: MakeSource, make_query: MakeQuery
) -> None:
    sources = {"a": list_source((9, 8, 7)), "b": list_source((1, 2, 3))}
    only_b = BlendWeights({"a": 0.0, "b": 1.0}, {"a": 0.0, "b": 1.0}, head=2)
    pipeline = RetrievalPipeline(make_bundle(sources, blends={Regime.UNKNOWN: only_b}))
    assert rows(pipeline.retrieve(make_query(max_results=3), Budget())) == [1, 2, 3]
    own = (SourcePlan("a", 10, 2.0), SourcePlan("b", 10, 0.1))
    assert rows(pipeline.retrieve(make_query(max_results=3, plans=own), Budget())) == [9, 8, 7]
