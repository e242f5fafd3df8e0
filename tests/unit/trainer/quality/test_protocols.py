"""What each protocol holds back, and that nothing of it reaches a fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset, load_dataset
from tandem_trainer.quality.cache import Fit
from tandem_trainer.quality.context import Context, Fitting
from tandem_trainer.quality.log import Queries
from tandem_trainer.quality.protocols import PROTOCOLS, Cut, make_cut
from tandem_trainer.quality.rows import ROWS
from tandem_trainer.quality.rows.base import Row, Scorer, Scores
from tandem_trainer.quality.run import compare
from tandem_trainer.split import LeakError, SplitError

ByHand = Callable[..., Dataset]

DATA = os.environ.get("TANDEM_DATA_DIR", "")


class Spy(Row):
    """Remembers all that it is given."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.fitted_on: list[np.ndarray] = []
        self.tables: list[int] = []
        self.asked: list[Queries] = []

    def fit(self, fitting: Fitting) -> Fit:
        self.fitted_on.append(fitting.training.places)
        self.tables.append(len(fitting.dataset.events))
        assert np.array_equal(fitting.dataset.events.index, fitting.training.places)
        assert fitting.catalog.event_counts.sum() == len(fitting.training)
        return Fit({})

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        n = fitting.training.n_items

        def scores(queries: Queries) -> Scores:
            self.asked.append(queries)
            return np.zeros((len(queries), n), np.float32)

        return scores


def spied(cut: Cut, part: str) -> Spy:
    spy = Spy("spy")
    compare(Context(cut, TrainConfig(), {"spy": spy}), ["spy"], part=part)  # type: ignore[arg-type]
    return spy


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_fit_sees_the_training_part_alone_and_a_refit_the_validation_part_too(
    protocol: str, synthetic: Dataset, config: TrainConfig
) -> None:
    cut = make_cut(protocol, synthetic, config)
    chosen, reported = spied(cut, "validation"), spied(cut, "test")
    assert np.array_equal(chosen.fitted_on[0], cut.train)
    assert np.array_equal(reported.fitted_on[0], np.sort(np.concatenate([cut.train, cut.more])))
    assert not np.isin(chosen.fitted_on[0], cut.validation.places).any()
    for spy in (chosen, reported):
        assert not np.isin(spy.fitted_on[0], cut.test.places).any()
        assert spy.tables == [len(spy.fitted_on[0])]
    assert sum(len(queries) for queries in reported.asked) == 2 * len(cut.test)  # once with repeats, once without


@pytest.mark.parametrize("protocol", ["loo", "time", "warm-time", "strong"])
def test_the_history_of_a_question_is_older_than_its_answers(
    protocol: str, synthetic: Dataset, config: TrainConfig
) -> None:
    cut = make_cut(protocol, synthetic, config)
    for part in (cut.validation, cut.test):
        last = np.full(len(part), -1, np.int64)
        np.maximum.at(last, part.queries.owners, part.queries.times)
        first = np.full(len(part), np.iinfo(np.int64).max)
        np.minimum.at(first, part.owners, cut.log.times[part.places])
        assert (last <= first).all()
        assert (part.queries.now_ms >= last).all()
        assert (part.queries.now_ms <= first).all()


def test_by_time_nothing_is_fitted_that_is_not_older_than_the_cut(synthetic: Dataset, config: TrainConfig) -> None:
    for protocol in ("time", "warm-time"):
        cut = make_cut(protocol, synthetic, config)
        now = cut.test.queries.now_ms
        assert (now == now[0]).all()
        assert cut.log.times[cut.more].max() < now[0] <= cut.log.times[cut.test.places].min()
        assert cut.log.times[cut.train].max() < cut.validation.queries.now_ms[0]
    assert (cut.test.queries.sizes >= 5).all()


def test_time_tells_users_with_a_history_from_new_ones(synthetic: Dataset, config: TrainConfig) -> None:
    test = make_cut("time", synthetic, config).test
    masks = list(test.slices.values())
    assert list(test.slices) == ["at least 5 earlier events", "1 to 4 earlier events", "new users, no earlier event"]
    assert np.array_equal(np.sum(masks, axis=0), np.ones(len(test)))
    assert (test.queries.sizes[masks[0]] >= 5).all()
    assert (test.queries.sizes[masks[2]] == 0).all()


def test_strong_trains_on_no_user_it_asks_about(synthetic: Dataset, config: TrainConfig) -> None:
    cut = make_cut("strong", synthetic, config)
    asked = set(cut.test.queries.user_ids)
    assert asked.isdisjoint(cut.log.user_ids[cut.log.users[np.concatenate([cut.train, cut.more])]])
    known, wanted = cut.test.queries.sizes, np.bincount(cut.test.owners)
    assert set(known - wanted) <= {0, 1}


def test_cold_items_are_in_no_training_event_and_are_all_that_is_ranked(
    synthetic: Dataset, config: TrainConfig
) -> None:
    cut = make_cut("cold-item", synthetic, config)
    cold = cut.test.candidates
    assert cold is not None
    assert len(cold) == 8
    assert not np.isin(cut.log.rows[np.concatenate([cut.train, cut.more])], cold).any()
    assert not np.isin(cut.test.queries.rows, cold).any()
    assert np.isin(cut.test.rows, cold).all()
    names = ["random", "genre_profile", "tfidf_neighbours", "popularity_true"]
    report = compare(Context(cut, config, ROWS), names, repeats="exclude")
    found = {row.name: row.figures["repeats excluded"]["all users"].metrics["ndcg@20"] for row in report.rows}
    assert found["popularity_true"] > found["random"]
    assert [row.leaks for row in report.rows] == [False, False, False, True]
    assert report.shown[:2] == ("recall@20", "ndcg@20")


def test_only_a_row_marked_as_leaking_gets_test_answers(synthetic: Dataset, config: TrainConfig) -> None:
    context = Context(make_cut("cold-item", synthetic, config), config, ROWS)
    with pytest.raises(ValueError, match="without being marked as leaking"):
        Fitting(context, ROWS["popularity"], "train").leaked_counts()


def test_other_test_events_change_no_fit(synthetic: Dataset, config: TrainConfig) -> None:
    cut = make_cut("time", synthetic, config)
    events = cut.log.dataset.events.copy()
    items = synthetic.items["item_id"].to_numpy()
    events.loc[cut.test.places, "item_id"] = np.random.default_rng(0).choice(items, len(cut.test.places))
    other = make_cut("time", replace(synthetic, events=events), config)
    assert not np.array_equal(other.test.rows, cut.test.rows)
    for name in ("popularity", "als"):
        for part in ("train", "train+validation"):
            fits = [Context(each, config, ROWS).fitted(name, part).fit for each in (cut, other)]
            for array in fits[0].arrays:
                assert np.array_equal(fits[0].arrays[array], fits[1].arrays[array])


def test_a_cut_whose_training_part_holds_an_answer_is_refused(synthetic: Dataset, config: TrainConfig) -> None:
    cut = make_cut("loo", synthetic, config)
    leaking = np.sort(np.append(cut.train, cut.test.places[0]))
    with pytest.raises(LeakError, match="1 test answers in the training part"):
        replace(cut, train=leaking)


def test_of_events_at_one_moment_the_last_in_the_file_is_held_out(by_hand: ByHand) -> None:
    items = ["a", "b", "c", "d", "e"]
    events = [(f"u{user}", item, 7) for user in range(5) for item in items]
    cut = make_cut("loo", by_hand(events, items), TrainConfig())
    assert cut.test.rows.tolist() == [4] * 5
    assert cut.validation.rows.tolist() == [3] * 5
    assert cut.test.queries.history(0).tolist() == [3, 2, 1, 0]  # newest first


def test_an_unknown_protocol_is_named(by_hand: ByHand) -> None:
    with pytest.raises(SplitError, match="unknown protocol 'fold'"):
        make_cut("fold", by_hand([("u", "a", 1)]), TrainConfig())


@pytest.mark.skipif(not DATA, reason="needs MovieLens 1M: set TANDEM_DATA_DIR to the folder that holds ml-1m")
def test_leave_one_out_on_the_real_ml_1m_is_the_cut_of_published_figures() -> None:
    cut = make_cut("loo", load_dataset("ml-1m", Path(DATA) / "ml-1m"), TrainConfig())
    assert (cut.counts["users"], cut.counts["items"], cut.counts["events"]) == (6040, 3416, 999_611)
    assert cut.counts["repeated events"] == 0
    assert (len(cut.test), len(cut.test.places), len(cut.train)) == (6040, 6040, 999_611 - 2 * 6040)
