"""The studies behind `tandem bench`, on small data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_core.bundle import Bundle
from tandem_core.clusters import Clusters
from tandem_core.features import resolve_user
from tandem_core.metrics import Interval
from tandem_core.registry import Registry
from tandem_trainer.clusters import ClusterSettings
from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset, SyntheticConfig, write_tables
from tandem_trainer.data.synthetic import generate
from tandem_trainer.evaluate import queries_of_test
from tandem_trainer.progress import Progress
from tandem_trainer.split import Split, user_disjoint
from tandem_trainer.studies.clusters import study_clusters
from tandem_trainer.studies.plots import draw_clusters, draw_tradeoff
from tandem_trainer.studies.report import StudyReport, StudyTable
from tandem_trainer.studies.ridge_ratings import ItemRatings, fit_items, predict_user
from tandem_trainer.studies.rolling import study_rolling
from tandem_trainer.studies.tradeoff import (
    ERROR,
    SPEED,
    Half,
    error_rows,
    made_up,
    percentiles,
    speed_rows,
    study_tradeoff,
)
from tandem_trainer.studies.unseen import BASELINE, K, make_lists, rated_user, study_unseen
from tandem_trainer.studies.unseen_bundle import config_for, find_or_train
from tandem_trainer.train import Trained

FEW = ClusterSettings(count=12)


@pytest.fixture(scope="module")
def rated(trained: Trained) -> Dataset:
    """The data of the trained bundle with a rating on every event."""
    events = trained.dataset.events
    stars = np.random.default_rng(0).integers(1, 6, len(events)).astype(np.float32)
    return replace(trained.dataset, events=events.assign(value=stars))


@pytest.fixture(scope="module")
def halves(rated: Dataset) -> Split:
    """A random half of 30 users. The bundle has met them: what is tested here is not how good it is."""
    return user_disjoint(rated.events, n_users=30, seed=3, shuffle_history=True)


@pytest.fixture(scope="module")
def unseen(bundle: Bundle, rated: Dataset, halves: Split) -> StudyReport:
    earlier = user_disjoint(rated.events, n_users=30, seed=3)
    return study_unseen(bundle, rated, halves, FEW, earlier=earlier)


def test_a_table_whose_rows_do_not_fit_its_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        StudyTable("t", ("a", "b"), ((1, 2), (3,)))


def test_a_report_becomes_plain_json_without_nan() -> None:
    table = StudyTable("t", ("arm", "x"), (("a", Interval(0.5, 0.4, 0.6, 7)), ("b", float("nan"))))
    written = StudyReport("s", {"n": 3}, (table,), ("a note",)).to_json()
    assert written["tables"]["t"] == [
        {"arm": "a", "x": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 7}},
        {"arm": "b", "x": None},
    ]


def test_all_arms_are_asked_for_the_same_users_and_judged_by_the_held_out_half(
    bundle: Bundle, rated: Dataset, halves: Split
) -> None:
    lists = make_lists(bundle, rated, halves, FEW, seed=0)
    assert halves.test_history is not None
    for i, query in enumerate(lists.offline.queries):
        mine = (part[part["user_id"] == query.user_id]["item_id"] for part in (halves.test, halves.test_history))
        truth, known = (set(bundle.catalog.rows(items).tolist()) for items in mine)
        relevant = lists.offline.relevant
        assert set(relevant.rows[relevant.indptr[i] : relevant.indptr[i + 1]].tolist()) == truth - known
        for name, ranked in lists.ranked.items():
            assert (ranked[i] >= 0).all(), name  # never short
            assert not known & set(ranked[i].tolist()), name  # nothing seen
    assert {len(ranked) for ranked in lists.ranked.values()} == {30}


def test_the_weighted_average_arm_is_brute_force_over_rated_items(
    bundle: Bundle, rated: Dataset, halves: Split
) -> None:
    lists = make_lists(bundle, rated, halves, FEW, seed=0)
    query = lists.offline.queries[4]
    rows = bundle.catalog.rows(query.events.item_ids)
    user = resolve_user(bundle.schema, bundle.catalog, query)
    liked = np.isin(rows, user.history.rows)
    last_rating = dict(zip(rows.tolist(), query.events.values.tolist(), strict=True))
    mean = sum(last_rating[row] * bundle.item_vectors[row].astype(np.float64) for row in rows[liked].tolist())
    scores = bundle.item_vectors @ mean
    scores[rows] = -np.inf
    assert lists.ranked[BASELINE][4].tolist() == np.argsort(-scores)[:K].tolist()


def test_ratings_weigh_where_there_are_any_and_event_types_elsewhere(
    bundle: Bundle, rated: Dataset, halves: Split
) -> None:
    query = queries_of_test(bundle, rated, halves, most_users=1, seed=0).queries[0]
    assert set(rated_user(bundle, query).history.weights.tolist()) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    bare = replace(query, events=replace(query.events, values=np.full(len(query.events), np.nan, np.float32)))
    plain = resolve_user(bundle.schema, bundle.catalog, bare)
    np.testing.assert_array_equal(rated_user(bundle, bare).history.weights, plain.history.weights)


def test_the_table_of_unseen_users_holds_what_the_definitions_of_ap_and_ndcg_give(
    bundle: Bundle, rated: Dataset, halves: Split, unseen: StudyReport
) -> None:
    lists = make_lists(bundle, rated, halves, FEW, seed=0)
    relevant = lists.offline.relevant
    row = dict(zip(unseen.tables[0].columns, next(r for r in unseen.tables[0].rows if r[0] == "K-means"), strict=True))
    ap, ndcg = [], []
    for i, ranked in enumerate(lists.ranked["K-means"].tolist()):
        wanted = set(relevant.rows[relevant.indptr[i] : relevant.indptr[i + 1]].tolist())
        if not wanted:
            continue
        hit = [item in wanted for item in ranked]
        best = min(K, len(wanted))
        ap.append(sum(sum(hit[: n + 1]) / (n + 1) for n in range(K) if hit[n]) / best)
        ndcg.append(sum(hit[n] / np.log2(n + 2) for n in range(K)) / sum(1 / np.log2(n + 2) for n in range(best)))
    for name, values in (("map@10", ap), ("ndcg@10", ndcg)):
        cell = row[name]
        assert isinstance(cell, Interval)
        assert cell.mean == pytest.approx(np.mean(values))
        assert cell.low <= cell.mean <= cell.high
        variant = row[f"{name[:-3]}_seed2_variant@10"]
        assert isinstance(variant, Interval)
        assert variant.mean >= cell.mean
    assert "not comparable" in unseen.notes[0]


def test_both_halves_are_of_the_same_users_and_other_users_are_refused(
    bundle: Bundle, rated: Dataset, halves: Split, unseen: StudyReport
) -> None:
    random, earlier, _ = unseen.tables
    assert random.column("arm") == earlier.column("arm")
    assert random.rows != earlier.rows
    with pytest.raises(ValueError, match="hold out other users"):
        study_unseen(bundle, rated, halves, FEW, earlier=user_disjoint(rated.events, n_users=30, seed=4))


def test_a_bundle_of_the_same_settings_and_data_is_used_again(trained: Trained, registry: Registry) -> None:
    config = TrainConfig.model_validate(trained.manifest.config)
    assert find_or_train(config, trained.dataset, registry, Progress()).id == trained.bundle_id


def test_the_protocol_holds_out_whole_users_and_a_random_half_of_their_events(trained: Trained) -> None:
    split = config_for(TrainConfig(), trained.dataset, None).split
    assert (split.protocol, split.shuffle_history, split.test_users) == ("user_disjoint", True, 60)
    assert config_for(TrainConfig(), trained.dataset, 5).split.test_users == 5


def test_the_clusters_study_prints_its_rule_and_the_choice_and_draws_it(bundle: Bundle, tmp_path: Path) -> None:
    report = study_clusters(bundle.item_vectors, "tiny", [5, 10, 20], FEW, 0)
    assert f"{report.facts['chosen']} clusters, mean rank" in report.notes[0]
    drawn = draw_clusters(bundle.item_vectors, report, FEW, 0, tmp_path / "new")
    assert len(drawn) == 7
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_the_tradeoff_compares_fewer_vectors_and_judges_the_same_users_in_both_arms(
    bundle: Bundle, rated: Dataset, halves: Split, tmp_path: Path
) -> None:
    report = study_tradeoff(bundle, rated, halves, FEW, seed=0, scale=0)
    speed, error = report.tables
    assert (speed.title, error.title) == (SPEED, ERROR)
    distances = [float(str(cell)) for cell in speed.column("distances")]
    assert distances[0] == len(bundle.catalog)
    assert distances[1] < distances[2] < distances[0]
    users = error.column("users")
    assert users[::2] == users[1::2]
    rows = [int(str(cell)) for cell in error.column("rows")]
    assert all(inside < everything for everything, inside in zip(rows[::2], rows[1::2], strict=True))
    assert len(draw_tradeoff(report, tmp_path)) == 2
    with pytest.raises(ValueError, match="needs ratings on all events"):
        study_tradeoff(bundle, replace(rated, events=rated.events.assign(value=np.nan)), halves, FEW, 0, 0)


def test_errors_in_the_nearest_cluster_are_those_of_its_held_out_rows_alone() -> None:
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2]]
    clusters = Clusters.of(vectors, np.eye(4, dtype=np.float32)[:3])
    inside = Half(np.array([0]), np.array([4.0]), np.array([1, 2]), np.array([5.0, 1.0]))
    outside = Half(np.array([2]), np.array([4.0]), np.array([4]), np.array([5.0]))  # in neither arm
    items = ItemRatings(3.0, np.zeros(5), 1.0, 5.0)
    everything, near = error_rows([inside, outside], items, 1e12, vectors, {"c": clusters}, seed=0)
    assert everything[1:4] == (2, 1, 2)
    assert near[1:4] == (2, 1, 1)
    assert (everything[5], near[5]) == (pytest.approx((4 + 4) / 2), pytest.approx(4))
    user_bias = 1 / 6  # (4 - 3) / (1 + 5)
    assert near[4] == pytest.approx((5 - 3 - user_bias) ** 2, abs=1e-6)


def test_percentiles_rise_and_every_warm_call_is_measured() -> None:
    called: list[int] = []
    p50, p95, p99 = percentiles(called.append, calls=1000)
    assert 0 < p50 <= p95 <= p99
    assert len(called) > 1000


def test_made_up_catalogues_have_unit_vectors_and_queries_with_near_neighbours() -> None:
    vectors, queries = made_up(2000, 16, 0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    exact, *probed = speed_rows(vectors, Clusters.of(vectors, vectors[::100]), queries[:20])
    assert exact[2] == 2000
    assert all(0 < float(str(row[-1])) <= 1 for row in probed)


def test_ridge_ratings_find_a_planted_taste_and_stay_on_the_scale() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(200, 4)).astype(np.float32)
    taste = np.array([1.0, -0.5, 0.3, 0.0])
    truth = 3 + vectors @ taste
    known, wanted = np.arange(150), np.arange(150, 200)
    items = ItemRatings(3.0, np.zeros(200), -10.0, 10.0)
    predicted = predict_user(items, vectors, known, truth[known], wanted, 0.01)
    assert np.abs(predicted - truth[wanted]).max() < 0.1
    narrow = replace(items, low=2.5, high=3.5)
    clipped = predict_user(narrow, vectors, known, truth[known], wanted, 0.01)
    assert clipped.min() == 2.5
    assert clipped.max() == 3.5
    nothing = predict_user(items, vectors, known[:0], truth[:0], wanted, 1.0)
    np.testing.assert_array_equal(nothing, np.full(50, 3.0))


def test_items_with_few_ratings_are_drawn_to_the_mean() -> None:
    items = fit_items(np.array([0, 0, 1]), np.array([5.0, 5.0, 2.0]), 3)
    assert items.mean == 4
    np.testing.assert_allclose(items.bias, [2 / 7, -2 / 6, 0])
    assert (items.low, items.high) == (2, 5)


def test_rolling_origin_prints_folds_means_deviations_and_ties(trained: Trained) -> None:
    report = study_rolling(trained.dataset, TrainConfig(), 3)
    folds, known, everybody = report.tables
    assert folds.column("fold") == [1, 2, 3]
    trains = [int(str(cell)) for cell in folds.column("training events")]
    tests = [int(str(cell)) for cell in folds.column("test events")]
    assert [one + window for one, window in zip(trains, tests, strict=True)] == [
        *trains[1:],
        len(trained.dataset.events),
    ]
    for table in (known, everybody):
        assert {row[0] for row in table.rows} == {"ndcg@10", "hit_rate@10", "recall@100", "score_ties@10"}
        for row in table.rows:
            values = [float(str(cell)) for cell in row[2:5]]
            assert float(str(row[5])) == pytest.approx(np.mean(values))
            assert float(str(row[6])) == pytest.approx(pd.Series(values).std())


def test_a_study_is_run_from_the_command_line_and_written_as_json(tmp_path: Path) -> None:
    write_tables(generate(SyntheticConfig(n_users=120, n_items=60, seed=1)), tmp_path / "data")
    arguments = [
        "bench",
        "rolling",
        "--data",
        str(tmp_path / "data"),
        "--folds",
        "2",
        "--json",
        str(tmp_path / "r.json"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "recent popularity" in result.output
    assert '"study": "rolling"' in (tmp_path / "r.json").read_text()


@pytest.mark.parametrize("study", ["unseen", "clusters", "tradeoff", "rolling", "tutorial", "encoders"])
def test_a_study_of_data_that_is_not_there_ends_in_one_clear_line(study: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", study, "--data", str(tmp_path / "nowhere")])
    assert result.exit_code == 2
