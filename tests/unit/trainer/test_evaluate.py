"""Queries of the past, and what evaluation makes of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tandem_core.bundle import Bundle
from tandem_core.sources.popularity import Popularity
from tandem_trainer.evaluate import SHOWN, WrongBundle, check_fits, evaluate, make_arms, queries_of_test, to_json
from tandem_trainer.offline_queries import make_queries
from tandem_trainer.train import Trained


def events(*rows: tuple[str, str, int]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    return frame.assign(event_type="click", value=np.nan).sort_values("timestamp", kind="stable")


def test_a_query_is_asked_when_its_first_held_out_event_happened_and_knows_only_what_was_before(bundle: Bundle) -> None:
    first, second, third = bundle.catalog.item_ids[:3]
    before = events(("u", first, 10), ("v", second, 20), ("u", second, 30))
    after = events(("u", third, 50), ("u", first, 60))
    offline = make_queries(before, after, pd.DataFrame({"user_id": ["u", "v"]}), [], bundle.catalog, max_results=5)
    (query,) = offline.queries
    assert (query.user_id, query.now_ms, list(query.events.item_ids)) == ("u", 50, [first, second])
    assert offline.relevant.rows.tolist() == [2]  # the first item was seen: a list without seen items cannot have it
    assert offline.history_sizes.tolist() == [2]


def test_a_query_says_of_itself_what_the_event_that_follows_says_of_its_request(bundle: Bundle) -> None:
    first, second, third = bundle.catalog.item_ids[:3]
    after = events(("u", first, 50), ("v", second, 55), ("u", third, 60))
    after = after.assign(device=["tv", None, "phone"], app="web")
    users = pd.DataFrame({"user_id": ["u", "v"]})
    told = [
        make_queries(after[:0], after, users, [], bundle.catalog, context=names, max_results=5, moments=2).queries
        for names in (["device", "app", "shoe"], [])
    ]
    assert [query.context for query in told[0]] == [
        {"device": "tv", "app": "web"}, {"device": "phone", "app": "web"}, {"app": "web"}
    ]  # fmt: skip
    assert [query.context for query in told[1]] == [{}] * 3


def test_a_sample_of_users_is_seeded(bundle: Bundle) -> None:
    after = events(*((f"u{i}", bundle.catalog.item_ids[i % 50], i) for i in range(100)))
    users = pd.DataFrame({"user_id": sorted(set(after["user_id"]))})
    asked = [
        [
            query.user_id
            for query in make_queries(
                after.head(0), after, users, [], bundle.catalog, max_results=5, most_users=10, seed=seed
            ).queries
        ]
        for seed in (1, 1, 2)
    ]
    assert asked[0] == asked[1] != asked[2]
    assert len(asked[0]) == 10


def test_every_arm_leaves_out_seen_items_and_gives_full_lists(trained: Trained, bundle: Bundle) -> None:
    offline = queries_of_test(bundle, trained.dataset, trained.split, most_users=20, seed=0)
    for name, (arm, length) in make_arms(bundle).items():
        for i, query in enumerate(offline.queries):
            found = arm(query).rows
            seen = offline.history.rows[offline.history.indptr[i] : offline.history.indptr[i + 1]]
            assert not set(found.tolist()) & set(seen.tolist()), name
            assert len(found) == min(length, len(bundle.catalog) - len(seen)), name


def test_the_popularity_arm_is_the_order_of_training_counts(trained: Trained, bundle: Bundle) -> None:
    offline = queries_of_test(bundle, trained.dataset, trained.split, most_users=1, seed=0)
    arm, _ = make_arms(bundle)["popularity"]
    source = bundle.sources["popularity"]
    assert isinstance(source, Popularity)
    table = source.tables.everybody
    weights = table.scores[np.argsort(table.rows)]
    shown = weights[arm(offline.queries[0]).rows]
    assert (np.diff(shown) <= 0).all()


def test_an_evaluation_reports_all_arms_and_is_plain_json(trained: Trained, bundle: Bundle) -> None:
    evaluation = evaluate(bundle, trained.dataset, trained.split, most_users=60)
    assert evaluation.users == 60
    assert set(evaluation.reports) == set(make_arms(bundle))
    assert f"ndcg@{SHOWN}" in evaluation.reports["ranked"].values
    assert "recall@500" in evaluation.reports["retrieval"].values
    written = json.loads(json.dumps(to_json(evaluation, bundle), allow_nan=False))
    assert (
        written["arms"]["retrieval"]["values"]["hit_rate@10"] == evaluation.reports["retrieval"].values["hit_rate@10"]
    )
    assert {target["name"] for target in written["targets"]} >= {"recall@500", "mrr", "ann_recall@300"}


def test_a_bundle_of_another_cut_or_of_other_data_is_refused(trained: Trained, bundle: Bundle) -> None:
    check_fits(bundle, trained.dataset, "leave_last_out")
    with pytest.raises(WrongBundle, match="trained on the cut of leave_last_out, not of global_time"):
        check_fits(bundle, trained.dataset, "global_time")
    fewer = replace(trained.dataset, events=trained.dataset.events.iloc[:-1])
    with pytest.raises(WrongBundle, match="other events"):
        check_fits(bundle, fewer, "leave_last_out")
