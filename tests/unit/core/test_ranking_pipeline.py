from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.budget import Budget
from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.errors import BundleMismatch, DeadlineExceeded, InvalidRequest, UpstreamUnavailable
from tandem_core.filters import InRange, InSet
from tandem_core.policy import PlacementPolicy, PopularityBlendSettings, load_policies
from tandem_core.query import Query, Regime, Seen, UserEvents
from tandem_core.ranking_pipeline import RankingPipeline, Retrieve, Slate
from tandem_core.retrieval_pipeline import RetrievalPipeline, Retrieved
from tandem_core.scorer import Scored

MakeBundle = Callable[..., Bundle]
MakeQuery = Callable[..., Query]
MakeEvents = Callable[..., UserEvents]

HOUR = 3600.0

# Rules off, so that what is left is the scorer's order.
BARE: dict[str, Any] = {
    "recency": None,
    "mmr": None,
    "caps": (),
    "cold_items": None,
    "popularity_blend": PopularityBlendSettings(few_events=0, profile_only=0, unknown=0),
    "use_ranker": True,
}


class RowScorer:
    """A ranker to which higher rows are better, or one that fails."""

    feature_names = ("log_events",)

    def __init__(self, failure: Exception | None = None, scores: np.ndarray | None = None) -> None:
        self.failure = failure
        self.scores = scores
        self.calls = 0

    def score(self, features: np.ndarray) -> Scored:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        scores = -features[:, 0] if self.scores is None else self.scores[: len(features)]
        return Scored(scores, {"click": np.full(len(scores), 0.25, np.float32)})


@pytest.fixture(scope="module")
def build(make_bundle: MakeBundle) -> Callable[..., RankingPipeline]:
    """build(scorer=..., **policy): a pipeline with one placement, the rules off but for what is given."""

    def make(scorer: RowScorer | None = None, **policy: Any) -> RankingPipeline:
        bundle = make_bundle(scorer=scorer or RowScorer())
        return RankingPipeline(bundle, {"default": PlacementPolicy(**{**BARE, **policy})})

    return make


def found(*rows: int, bundle_id: str = "b1", degradations: tuple[Degradation, ...] = ()) -> Retrieved:
    """Return candidates as retrieval gives them, all from source a."""
    n = len(rows)
    columns = {"rank:a": np.arange(1, n + 1, dtype=np.int32), "score:a": np.linspace(1, 0.5, n, dtype=np.float32)}
    batch = CandidateBatch(np.array(rows, np.int32), np.linspace(0.9, 0.1, n, dtype=np.float32), columns)
    return Retrieved(batch, bundle_id, Regime.UNKNOWN, degradations, "" if n else "nothing there")


def gives(*rows: int) -> Retrieve:
    return lambda query, budget: found(*rows)


def raises(error: Exception) -> Retrieve:
    def retrieve(query: Query, budget: Budget) -> Retrieved:
        raise error

    return retrieve


def notes(asked: list[Query]) -> Retrieve:
    """Return a retrieval that finds one item and keeps what it was asked."""

    def retrieve(query: Query, budget: Budget) -> Retrieved:
        asked.append(query)
        return found(1)

    return retrieve


def shown(slate: Slate) -> list[int]:
    rows: list[int] = slate.items.rows.tolist()
    return rows


def kinds(slate: Slate) -> list[DegradationKind]:
    return [each.kind for each in slate.degradations]


def test_what_the_ranker_says_of_each_answer_are_columns_for_the_rules(
    build: Callable[..., RankingPipeline], make_query: MakeQuery
) -> None:
    slate = build().recommend(make_query(), Budget(), gives(4, 1, 9))
    assert slate.items.columns["head:click"].tolist() == [0.25] * 3


def test_candidates_are_put_in_the_rankers_order(build: Callable[..., RankingPipeline], make_query: MakeQuery) -> None:
    slate = build().recommend(make_query(max_results=3), Budget(), gives(1, 9, 4, 2))
    assert shown(slate) == [9, 4, 2]
    assert slate.items.scores[0] == 1
    assert (slate.bundle_id, slate.regime, slate.degradations, slate.empty_reason) == ("b1", Regime.UNKNOWN, (), "")
    assert len(slate.reasons) == 3


def test_retrieval_is_asked_for_what_the_policy_says(
    build: Callable[..., RankingPipeline], make_query: MakeQuery, events_of: MakeEvents
) -> None:
    asked: list[Query] = []
    plans = {"warm": {"als": {"limit": 7, "weight": 2.0}}}
    pipeline = build(candidates=40, interacted="discount", plans=plans)
    pipeline.recommend(make_query(max_results=5), Budget(), notes(asked))
    excluding = make_query(max_results=50, interacted=Seen.EXCLUDE, events=events_of("i1", "i2", "i3"))
    pipeline.recommend(excluding, Budget(), notes(asked))
    assert [(each.max_results, each.interacted, len(each.plans)) for each in asked] == [
        (40, Seen.DISCOUNT, 0),
        (50, Seen.EXCLUDE, 1),
    ]
    assert (asked[1].plans[0].source, asked[1].plans[0].limit, asked[1].plans[0].weight) == ("als", 7, 2.0)


def test_a_planned_source_that_the_bundle_lacks_is_not_asked_for_and_is_declared(
    build: Callable[..., RankingPipeline], make_query: MakeQuery, events_of: MakeEvents
) -> None:
    asked: list[Query] = []
    pipeline = build(plans={"warm": {"als": {"limit": 7}, "two_towers": {"limit": 9}}})
    slate = pipeline.recommend(make_query(events=events_of("i1", "i2", "i3")), Budget(), notes(asked))
    assert [plan.source for plan in asked[0].plans] == ["als"]
    (declared,) = slate.degradations
    assert declared.kind is DegradationKind.RULE_RELAXED
    assert declared.component == "plans.warm.two_towers"
    assert "two_tower" in declared.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UpstreamUnavailable("no answer"), DegradationKind.RETRIEVAL_UNAVAILABLE),
        (BundleMismatch("not that one"), DegradationKind.BUNDLE_MISMATCH),
    ],
)
def test_without_retrieval_popular_items_under_the_filter_are_left_and_declared(
    error: Exception,
    kind: DegradationKind,
    build: Callable[..., RankingPipeline],
    make_query: MakeQuery,
    events_of: MakeEvents,
) -> None:
    pipeline = build(use_ranker=False)
    query = make_query(condition=InRange("price", low=30), events=events_of("i4"), exclude_item_ids=["i6"])
    slate = pipeline.recommend(query, Budget(), raises(error))
    assert shown(slate) == [3, 7, 8, 9, 10]  # the most popular ones at 30 and more, but for 4 and 6; 5 has no price
    assert kinds(slate) == [kind]
    assert slate.degradations[0].message == str(error)


def test_the_fallback_takes_no_notice_of_a_deadline_that_retrieval_used_up(
    build: Callable[..., RankingPipeline], make_query: MakeQuery
) -> None:
    slate = build().recommend(make_query(), Budget.of(0), raises(UpstreamUnavailable("late")))
    assert len(slate.items) == 5
    assert kinds(slate) == [DegradationKind.RETRIEVAL_UNAVAILABLE, DegradationKind.RANKER_SKIPPED]


@pytest.mark.parametrize("error", [DeadlineExceeded("too late"), InvalidRequest()])
def test_other_errors_of_retrieval_are_the_callers(
    error: Exception, build: Callable[..., RankingPipeline], make_query: MakeQuery
) -> None:
    with pytest.raises(type(error)):
        build().recommend(make_query(), Budget(), raises(error))


@pytest.mark.parametrize(
    "scorer",
    [RowScorer(ValueError("broken")), RowScorer(scores=np.zeros(1, np.float32))],
    ids=["raises", "too few scores"],
)
def test_a_broken_ranker_costs_its_order_and_is_declared(
    scorer: RowScorer,
    build: Callable[..., RankingPipeline],
    make_query: MakeQuery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        slate = build(scorer).recommend(make_query(), Budget(), gives(4, 1, 9))
    assert shown(slate) == [4, 1, 9]
    assert [(each.kind, each.component) for each in slate.degradations] == [(DegradationKind.RANKER_SKIPPED, "ranker")]
    assert [record.message for record in caplog.records] == ["ranker failed"]


def test_scores_that_are_not_finite_sink_and_nothing_else_changes(
    build: Callable[..., RankingPipeline], make_query: MakeQuery
) -> None:
    scorer = RowScorer(scores=np.array([np.nan, 2, np.inf, 5, -np.inf], np.float32))
    slate = build(scorer).recommend(make_query(), Budget(), gives(4, 1, 9, 2, 3))
    assert shown(slate)[0] == 2
    assert sorted(shown(slate)) == [1, 2, 3, 4, 9]
    assert np.isfinite(slate.items.scores).all()


@pytest.mark.parametrize(
    ("use_ranker", "helps", "called"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False)],
)
def test_the_bundle_says_whether_its_ranker_helps_and_the_policy_may_overrule_it(
    use_ranker: bool | None,
    helps: bool,
    called: bool,
    make_bundle: MakeBundle,
    make_manifest: Callable[..., Any],
    make_query: MakeQuery,
) -> None:
    scorer = RowScorer()
    bundle = make_bundle(scorer=scorer, manifest=make_manifest(ranker_helps=helps))
    policy = PlacementPolicy(**{**BARE, "use_ranker": use_ranker})
    slate = RankingPipeline(bundle, {"default": policy}).recommend(make_query(), Budget(), gives(1, 2))
    assert bool(scorer.calls) is called
    assert shown(slate) == ([2, 1] if called else [1, 2])
    assert slate.degradations == ()  # nothing is missing where it was decided so


LADDER = {"ranker_needs_s": 2 * HOUR, "diversity_needs_s": HOUR, "mmr": {"lambda_relevance": 0.5}}


@pytest.mark.parametrize(
    ("left_s", "missing"),
    [
        (3 * HOUR, []),
        (1.5 * HOUR, [DegradationKind.RANKER_SKIPPED]),
        (0.5 * HOUR, [DegradationKind.RANKER_SKIPPED, DegradationKind.DIVERSITY_SKIPPED]),
        (0.0, [DegradationKind.RANKER_SKIPPED, DegradationKind.DIVERSITY_SKIPPED]),
        (None, []),
    ],
)
def test_the_less_time_there_is_the_more_is_left_out_and_declared(
    left_s: float | None, missing: list[DegradationKind], build: Callable[..., RankingPipeline], make_query: MakeQuery
) -> None:
    # Hours instead of milliseconds, so that the test's own time does not count.
    slate = build(**LADDER).recommend(make_query(), Budget.of(left_s), gives(4, 1, 9, 2))
    assert kinds(slate) == missing
    assert sorted(shown(slate)) == [1, 2, 4, 9]
    if DegradationKind.DIVERSITY_SKIPPED in missing:
        assert shown(slate) == [4, 1, 9, 2]  # retrieval's order


def test_what_retrieval_missed_is_passed_on_first(build: Callable[..., RankingPipeline], make_query: MakeQuery) -> None:
    late = Degradation(DegradationKind.SOURCE_LATE, "als")
    pipeline = build(RowScorer(ValueError()))
    slate = pipeline.recommend(make_query(), Budget(), lambda query, budget: found(1, 2, degradations=(late,)))
    assert kinds(slate) == [DegradationKind.SOURCE_LATE, DegradationKind.RANKER_SKIPPED]


@given(
    st.lists(st.integers(0, 11), unique=True, max_size=12),
    st.integers(1, 14),
    st.lists(st.integers(0, 11), max_size=4),
    st.sampled_from([Seen.ALLOW, Seen.DISCOUNT]),
    st.booleans(),
)
def test_under_all_rules_nothing_vanishes_and_scores_never_rise_down_the_list(
    make_bundle: MakeBundle,
    make_query: MakeQuery,
    events_of: MakeEvents,
    rows: list[int],
    wanted: int,
    seen: list[int],
    treatment: Seen,
    with_ranker: bool,
) -> None:
    policy = PlacementPolicy(
        list_length=3,
        use_ranker=with_ranker,
        mmr={"lambda_relevance": 0.4},  # type: ignore[arg-type]
        caps=({"column": "creator", "limit": 1}, {"column": "categories", "limit": 2}),  # type: ignore[arg-type]
    )
    pipeline = RankingPipeline(make_bundle(scorer=RowScorer()), {"default": policy})
    query = make_query(max_results=wanted, interacted=treatment, events=events_of(*(f"i{row}" for row in seen)))
    slate = pipeline.recommend(query, Budget(), gives(*rows))
    got = shown(slate)
    assert len(got) == min(wanted, len(rows)) == len(set(got)) == len(slate.reasons)
    assert set(got) <= set(rows)
    assert np.isfinite(slate.items.scores).all()
    assert np.all(np.diff(slate.items.scores) <= 0)
    again = pipeline.recommend(query, Budget(), gives(*rows))
    assert shown(again) == got
    assert slate.empty_reason == ("" if rows else "nothing there")
    # A cap that is broken is declared, with the number of items above it.
    catalog, said = pipeline.bundle.catalog, {d.component: d.message for d in slate.degradations}
    for cap in policy.caps:
        codes = catalog.codes[cap.column].codes[got, 0]
        above = int(np.maximum(np.bincount(codes[codes >= 0], minlength=1) - cap.limit, 0).sum())
        message = f"{above} more than {cap.limit} of one {cap.column}" if above else None
        assert said.get(f"cap:{cap.column}") == message


def test_a_cap_holds_however_good_the_scores_are(build: Callable[..., RankingPipeline], make_query: MakeQuery) -> None:
    pipeline = build(use_ranker=False, list_length=4, caps=({"column": "creator", "limit": 1},))
    slate = pipeline.recommend(make_query(max_results=4), Budget(), gives(0, 1, 2, 3, 9, 6))
    assert shown(slate) == [0, 3, 9, 6]
    assert slate.items.scores.tolist() == sorted(slate.items.scores.tolist(), reverse=True)
    assert slate.degradations == ()
    short = pipeline.recommend(make_query(max_results=4), Budget(), gives(0, 1, 2, 3))
    assert shown(short) == [0, 3, 1, 2]
    assert [(each.kind, each.component, each.message) for each in short.degradations] == [
        (DegradationKind.RULE_RELAXED, "cap:creator", "2 more than 1 of one creator")
    ]


def test_the_later_of_two_caps_gives_way_first_and_is_declared(
    build: Callable[..., RankingPipeline], make_query: MakeQuery
) -> None:
    # 0 and 2 are Drama of c0, 6 is Drama of c2, 1 is Comedy of c0: after 0, none keeps both caps.
    creator, category = {"column": "creator", "limit": 1}, {"column": "categories", "limit": 1}
    query, candidates = make_query(max_results=2), gives(0, 2, 6, 1)
    for caps, expected, broken in (
        ((creator, category), [0, 6], "cap:categories"),
        ((category, creator), [0, 1], "cap:creator"),
    ):
        slate = build(use_ranker=False, list_length=2, caps=caps).recommend(query, Budget(), candidates)
        assert shown(slate) == expected
        assert [each.component for each in slate.degradations] == [broken]


def test_seen_items_are_shown_lower_where_the_placement_says_so(
    build: Callable[..., RankingPipeline], make_query: MakeQuery, events_of: MakeEvents
) -> None:
    pipeline = build(use_ranker=False, interacted="discount", seen_factor=0.1)
    slate = pipeline.recommend(make_query(events=events_of("i4")), Budget(), gives(4, 1, 9))
    assert shown(slate) == [1, 4, 9]
    assert shown(build(use_ranker=False).recommend(make_query(), Budget(), gives(4, 1, 9))) == [4, 1, 9]


def test_an_unknown_user_sees_popular_items_first_and_a_known_one_the_rankers(
    build: Callable[..., RankingPipeline], make_query: MakeQuery, events_of: MakeEvents
) -> None:
    pipeline = build(popularity_blend=PopularityBlendSettings())
    unknown = pipeline.recommend(make_query(), Budget(), gives(9, 0, 5))
    assert shown(unknown) == [0, 5, 9]
    warm = pipeline.recommend(make_query(events=events_of("i1", "i2", "i3")), Budget(), gives(9, 0, 5))
    assert shown(warm) == [9, 5, 0]


def test_an_unknown_placement_is_named_with_those_there_are(
    build: Callable[..., RankingPipeline], make_query: MakeQuery
) -> None:
    pipeline = build()
    lost = make_query(placement="nowhere")
    calls: list[Callable[[], Slate]] = [
        lambda: pipeline.recommend(lost, Budget(), gives(1)),
        lambda: pipeline.rank(lost, found(1).candidates, Budget()),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest) as caught:
            call()
        assert caught.value.violations[0].field == "context.placement"
        assert "there are default" in caught.value.violations[0].description


def test_ranking_keeps_every_candidate_of_the_caller_that_its_filter_passes(
    build: Callable[..., RankingPipeline], make_query: MakeQuery, events_of: MakeEvents
) -> None:
    query = make_query(max_results=10, events=events_of("i4"), condition=InSet("creator", frozenset({"c1", "c0"})))
    brought = CandidateBatch(np.array([4, 9, 1, 6], np.int32), np.zeros(4, np.float32))
    assert shown(build().rank(query, brought, Budget())) == [4, 1]  # seen items are kept: the caller chose them
    strict = replace(query, interacted=Seen.EXCLUDE)
    assert shown(build().rank(strict, brought, Budget())) == [1]


def test_ranking_nothing_says_why(build: Callable[..., RankingPipeline], make_query: MakeQuery) -> None:
    brought = CandidateBatch(np.array([4], np.int32), np.zeros(1, np.float32))
    slate = build().rank(make_query(condition=InRange("price", high=-1)), brought, Budget())
    assert shown(slate) == []
    assert slate.empty_reason == "no candidate passes the filter and the seen policy"
    assert slate.reasons == ()


@pytest.mark.parametrize("wanted", [1, 300, 500])
def test_a_real_bundle_gives_as_many_items_as_there_are_and_were_asked_for(
    wanted: int, bundle: Bundle, make_query: MakeQuery
) -> None:
    pipeline = RankingPipeline(bundle, load_policies(None))
    ids = bundle.catalog.item_ids
    events = UserEvents(ids[:9], np.arange(9, dtype=np.int64), ["like"] * 9, np.zeros(9, np.float32))
    query = make_query(max_results=wanted, events=events, attributes={"gender": "male"})
    slate = pipeline.recommend(query, Budget(), RetrievalPipeline(bundle).retrieve)
    got = shown(slate)
    assert len(got) == min(wanted, 300 - 9) == len(set(got))
    assert not set(range(9)) & set(got)
    assert np.isfinite(slate.items.scores).all()
    assert np.all(np.diff(slate.items.scores) <= 0)
    assert {each.kind for each in slate.degradations} <= {DegradationKind.RULE_RELAXED}


def test_a_rule_that_is_left_out_is_logged_when_its_bundle_is_warmed_and_not_with_every_live_item(
    make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    policies = {"home": PlacementPolicy(caps=({"column": "colour", "limit": 1},))}  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        pipeline = RankingPipeline(make_bundle(), policies)
        assert not caplog.records
        pipeline.warm()
    (record,) = caplog.records
    assert (record.message, vars(record)["placement"], vars(record)["rule"]) == ("rule left out", "home", "cap:colour")
