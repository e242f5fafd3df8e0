from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from tandem_core.metrics import (
    Interval,
    MetricsReport,
    Relevant,
    SliceMean,
    Target,
    evaluate_lists,
    lists,
    targets,
)


def inputs(seed: int = 0, users: int = 60, items: int = 80, width: int = 20) -> dict[str, Any]:
    """Arguments for evaluate_lists, of random lists; some users have neither relevant items nor history."""
    rng = np.random.default_rng(seed)
    pairs = 5 * users
    return {
        "ranked": np.argsort(rng.random((users, items)), axis=1)[:, :width].astype(np.int32),
        "relevant": Relevant.from_pairs(rng.integers(3, users, pairs), rng.integers(0, items, pairs), users),
        "scores": rng.random((users, width)),
        "catalogue_size": items,
        "item_vectors": rng.normal(size=(items, 8)).astype(np.float32),
        "item_counts": rng.integers(0, 50, items),
        "user_counts": rng.integers(0, 150, users),
        "history": Relevant.from_pairs(rng.integers(5, users, pairs), rng.integers(0, items, pairs), users),
        "rng": np.random.default_rng(seed),
        "ks": (5, 10, 50),
        "resamples": 50,
    }


def two_users() -> MetricsReport:
    """User 0 (3 events) finds item 2, at place 2; user 1 (30 events) finds neither of items 0 and 3."""
    return evaluate_lists(
        np.array([[1, 2], [1, 2]], np.int32),
        Relevant.from_lists([[2], [0, 3]]),
        ks=(1, 2),
        catalogue_size=4,
        item_counts=np.array([50, 30, 2, 18]),
        user_counts=np.array([3, 30]),
        rng=np.random.default_rng(0),
        resamples=20,
    )


def test_a_report_worked_out_by_hand() -> None:
    values = two_users().values
    assert values["recall@1"] == 0
    assert values["recall@2"] == 1 / 2
    assert values["hit_rate@2"] == 1 / 2
    assert values["precision@2"] == 1 / 4
    assert values["ndcg@2"] == pytest.approx(1 / math.log2(3) / 2)
    assert values["mrr"] == values["mrr@2"] == 1 / 4
    assert values["map@2"] == 1 / 4
    assert values["coverage@2"] == 2 / 4
    assert values["gini@2"] == pytest.approx(1 / 2)
    assert values["cold_users_listed"] == 1
    assert values["cold_user_hit_rate@2"] == 1
    assert values["cold_items_listed@2"] == 1  # item 2
    assert values["cold_item_hit_rate@2"] == 1
    assert "diversity@2" not in values
    assert "score_ties@2" not in values


def test_slices_show_for_whom_it_works() -> None:
    slices = two_users().slices
    recall = slices["activity"]["recall@2"]
    assert recall["cold <5"] == SliceMean(1.0, 1)
    assert recall["20-99"] == SliceMean(0.0, 1)
    assert recall["100+"].n == 0
    # Items 0 and 3 hold 50 and 18 events of 100; item 2 has two.
    found = slices["popularity"]["recall@2"]
    assert found["cold"] == SliceMean(1.0, 1)
    assert found["head"] == SliceMean(0.0, 1)
    assert sum(each.n for each in found.values()) == 3


def test_a_cut_off_longer_than_the_lists_is_named_and_not_reported() -> None:
    report = evaluate_lists(**inputs())
    assert report.not_computed == (50,)
    assert not [name for name in report.values if name.endswith("@50")]


def test_what_lists_are_like_is_measured_on_the_places_shown() -> None:
    given = inputs()
    given["scores"][:, 7] = given["scores"][:, 8]  # every user has a tie, below the first five
    found = evaluate_lists(**given).values
    assert (found["score_ties@5"], found["score_ties@10"]) == (0, 1)
    shown = given["ranked"][:, :5]
    taste = lists.centroids(given["history"], given["item_vectors"])
    expected = {
        "diversity@5": lists.intra_list_diversity(shown, given["item_vectors"]),
        "novelty@5": lists.novelty(shown, given["item_counts"]),
        "centroid_distance@5": lists.centroid_distance(shown, given["item_vectors"], taste),
    }
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.nanmean(values)), name
    assert found["coverage@5"] == len(set(shown.ravel().tolist())) / 80


def test_users_without_relevant_items_are_counted_and_left_out() -> None:
    given = inputs()
    report = evaluate_lists(**given)
    without = int((given["relevant"].sizes == 0).sum())
    assert without >= 3
    assert (report.users, report.users_without_relevant) == (60, without)
    assert report.intervals["recall@10"].n == 60 - without
    assert report.intervals["diversity@10"].n == 60
    assert report.intervals["centroid_distance@10"].n == int((given["history"].sizes > 0).sum())


def test_every_interval_surrounds_its_value() -> None:
    report = evaluate_lists(**inputs())
    for name, interval in report.intervals.items():
        if interval.n == 0:  # no cold user is judged in some draws
            assert math.isnan(report.values[name])
            continue
        assert interval.mean == report.values[name]
        assert interval.low <= interval.mean <= interval.high, name


def test_permuting_users_changes_no_value() -> None:
    given = inputs()
    order = np.random.default_rng(1).permutation(60)
    shuffled = given | {name: given[name][order] for name in ("ranked", "scores", "user_counts")}
    for name in ("relevant", "history"):
        rows = np.split(given[name].rows, given[name].indptr[1:-1])
        shuffled[name] = Relevant.from_lists([rows[user].tolist() for user in order])
    before, after = evaluate_lists(**given), evaluate_lists(**shuffled)
    assert after.values == pytest.approx(before.values, nan_ok=True)
    assert after.slices["popularity"] == before.slices["popularity"]


def test_the_same_seed_gives_the_same_report() -> None:
    assert evaluate_lists(**inputs()).to_json() == evaluate_lists(**inputs()).to_json()


def test_json_is_strict_and_holds_all_of_it() -> None:
    report = two_users()
    read = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert read["values"]["recall@2"] == 0.5
    assert read["intervals"]["recall@2"].keys() == {"mean", "low", "high", "n"}
    assert read["slices"]["activity"]["recall@2"]["100+"] == {"mean": None, "n": 0}
    assert read["users"] == 2
    assert read["not_computed"] == []


def test_targets_must_be_exceeded_and_say_what_was_not_computed() -> None:
    values = {"recall@500": 0.61, "hit_rate@50": 0.4, "ndcg@10": math.nan, "mrr": 0.2}
    report = MetricsReport(values, {"recall@500": Interval(0.61, 0.6, 0.62, 9)}, {}, 9, 0)
    assert targets(report) == [
        Target("recall@500", 0.6, 0.61, True),
        Target("hit_rate@50", 0.4, 0.4, False),
        Target("ndcg@10", 0.35, None, None),
        Target("mrr", 0.25, 0.2, False),
        Target("ann_recall@300", 0.98, None, None),
    ]


def test_no_users_at_all_give_a_report_of_nans() -> None:
    report = evaluate_lists(
        np.empty((0, 10), np.int32),
        Relevant.from_lists([]),
        ks=(10,),
        catalogue_size=3,
        item_vectors=np.ones((3, 2), np.float32),
        item_counts=np.ones(3, np.int64),
        user_counts=np.empty(0, np.int64),
        rng=np.random.default_rng(0),
    )
    assert math.isnan(report.values["recall@10"])
    assert report.intervals["recall@10"].n == 0
    json.loads(report.to_json())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"user_counts": np.ones(3, np.int64)}, "user_counts has 3, not 60"),
        ({"item_counts": np.ones(3, np.int64)}, "item_counts has 3, not 80"),
        ({"item_vectors": np.ones((3, 2), np.float32)}, "item_vectors has 3, not 80"),
        ({"item_vectors": None}, "history alone"),
        ({"relevant": Relevant.from_lists([[1]])}, "relevant has 1, not 60"),
        ({"relevant": Relevant.from_lists([[80]] * 60)}, "relevant row 80 is outside"),
        ({"history": Relevant.from_lists([[1]])}, "history has 1, not 60"),
        ({"scores": np.ones((60, 3))}, "pass one per item"),
        ({"ks": (0, 5)}, "cut-off below 1"),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        evaluate_lists(**(inputs() | change))
