"""The rows: what they give on data whose answer is known, and how the registry and its context hold together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.quality.cache import Fit
from tandem_trainer.quality.context import Context, Fitting
from tandem_trainer.quality.log import Queries, held_out, joined, make_log
from tandem_trainer.quality.protocols import Cut, Part, make_cut
from tandem_trainer.quality.rows import ROWS, default_rows, register
from tandem_trainer.quality.rows.base import Need, Row, Scorer, Scores
from tandem_trainer.quality.rows.blend import BlendRow
from tandem_trainer.quality.rows.linear import NO_DECAY, history_matrix, linear_scorer
from tandem_trainer.quality.rows.popularity import PopularityRow, WindowPopularityRow
from tandem_trainer.quality.run import compare

ByHand = Callable[..., Dataset]

DAY = 86_400


def cut_of(dataset: Dataset, train: int, validation: int) -> Cut:
    """The first events train, the next validate, the rest are asked for at the time of each user's first answer."""
    log = make_log(dataset)
    places = np.arange(len(log))
    first, more, rest = places[:train], places[train : train + validation], places[train + validation :]
    questions = held_out(log, first, more, now_ms=None), held_out(log, joined(first, more), rest, now_ms=None)
    return Cut("time", log, first, more, *questions, ())


def test_a_window_counts_the_days_before_the_question_and_falls_back_on_all_events(by_hand: ByHand) -> None:
    events = [
        *(("x", "a", second) for second in range(5)),  # long ago
        ("x", "b", 3), ("x", "c", 20 * DAY), ("y", "c", 25 * DAY), ("y", "d", 28 * DAY), ("z", "a", 30 * DAY),
    ]  # fmt: skip
    cut = cut_of(by_hand(events, ["a", "b", "c", "d", "e"]), 8, 1)
    week = Context(cut, TrainConfig(), {"w": WindowPopularityRow("w", 7)}).fitted("w", "train+validation")
    assert np.argsort(-week.scores(cut.test.queries)[0], kind="stable").tolist() == [2, 3, 0, 1, 4]
    months = Context(cut, TrainConfig(), {"w": WindowPopularityRow("w", 40)}).fitted("w", "train")
    assert np.argsort(-months.scores(cut.test.queries)[0], kind="stable").tolist() == [0, 2, 1, 3, 4]


def test_chunks_score_as_the_whole(synthetic: Dataset, config: TrainConfig) -> None:
    cut = make_cut("loo", synthetic, config)
    context = Context(cut, config, ROWS)
    for name in (
        "popularity_7d",
        "als",
        "als_fold_in",
        "item_knn",
        "ease_decayed",
        "slist",
        "random",
        "tfidf_neighbours",
    ):
        scorer = context.fitted(name).scorer
        parts = [scorer(cut.test.queries.part(start, start + 40)) for start in range(0, len(cut.test), 40)]
        assert np.allclose(np.concatenate(parts), scorer(cut.test.queries), atol=1e-5)


def test_towers_and_the_pipeline_score_what_training_fitted(synthetic: Dataset, config: TrainConfig) -> None:
    cut = make_cut("loo", synthetic, config)
    context = Context(cut, config, ROWS)
    report = compare(context, ["two_tower", "retrieval", "als_fold_in"], repeats="exclude")
    rows = {row.name: row for row in report.rows}
    assert rows["two_tower"].notes["events_per_second"] > 0
    assert 0 < rows["two_tower"].notes["loading_share"] < 1
    assert rows["two_tower"].refit  # on validation events too: they have happened
    assert {(d.better, d.than) for d in report.differences} == {
        ("retrieval", "two_tower"),
        ("retrieval", "als_fold_in"),
    }
    towers, als = (context.fitted(name, "train+validation").core_seconds for name in ("two_tower", "als"))
    assert rows["retrieval"].fit_core_seconds == pytest.approx(towers + als)


def test_towers_are_fitted_again_where_time_moves_on(synthetic: Dataset, config: TrainConfig) -> None:
    context = Context(make_cut("time", synthetic, config), config, ROWS)
    assert context.part_for_test("two_tower") == "train+validation"
    both, first = (context.fitted("two_tower", part) for part in ("train+validation", "train"))
    assert both.core_seconds > first.core_seconds
    assert not np.array_equal(both.fit.arrays["item_vectors"], first.fit.arrays["item_vectors"])


def test_a_history_weighs_its_newest_events_most_and_an_item_by_its_newest_or_by_all(by_hand: ByHand) -> None:
    log = make_log(
        by_hand([("u", "a", 1), ("u", "b", 2), ("u", "a", 3), ("v", "c", 4), ("u", "c", 5)], ["a", "b", "c"])
    )
    queries = held_out(log, np.arange(4), np.array([4]), now_ms=None).queries
    newest, all_of_them, alike = (
        history_matrix(queries, 3, half_life, add_up=add_up).toarray()
        for half_life, add_up in ((1.0, False), (1.0, True), (NO_DECAY, False))
    )
    assert newest.tolist() == [[1.0, 0.5, 0.0]]
    assert all_of_them.tolist() == [[1.25, 0.5, 0.0]]
    assert alike.tolist() == [[1.0, 1.0, 0.0]]


def test_a_linear_model_lists_nothing_for_a_user_it_does_not_know(by_hand: ByHand) -> None:
    log = make_log(by_hand([("u", "a", 1), ("u", "b", 2), ("v", "b", 3)], ["a", "b"]))
    queries = held_out(log, np.array([0]), np.array([1, 2]), now_ms=None).queries
    matrix = np.array([[0, 2], [3, 0]], np.float32)
    for form in (matrix, csr_matrix(matrix)):
        assert linear_scorer(form, 5.0)(queries).tolist() == [[0.0, 2.0], [-np.inf, -np.inf]]


class Blend(Row):
    """Learns from validation scores of a fit on train, and adds up scores of the fit it reports with."""

    single = False

    def needs(self, part: Part) -> Sequence[Need]:
        return (("one", "train"), ("one", part))

    def fit(self, fitting: Fitting) -> Fit:
        held = fitting.validation
        scores = fitting.fitted("one", "train").scores(held.queries)
        return Fit({"weight": np.array([scores[held.owners, held.rows].mean()])})

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        below, weight = fitting.fitted("one"), np.float32(fit.arrays["weight"][0])

        def scores(queries: Queries) -> Scores:
            return weight * below.scores(queries)

        return scores


def test_a_blend_learns_on_validation_from_fits_on_train_and_scores_with_the_refit(
    synthetic: Dataset, config: TrainConfig
) -> None:
    cut = make_cut("loo", synthetic, config)
    context = Context(cut, config, {"one": PopularityRow("one"), "blend": Blend("blend")})
    blend = context.fitted("blend", "train+validation")
    held = cut.validation
    on_train = context.fitted("one", "train").scores(held.queries)[held.owners, held.rows].mean()
    assert blend.fit.arrays["weight"][0] == pytest.approx(on_train)
    expected = on_train * context.fitted("one", "train+validation").scores(cut.test.queries)
    assert np.allclose(blend.scores(cut.test.queries), expected, rtol=1e-5)


class KnowsAnswers(PopularityRow):
    """Knows what validation users turn to, of those with a history (`warm`) or of those without."""

    def __init__(self, name: str, *, warm: bool) -> None:
        super().__init__(name)
        self.warm = warm

    def scorer(self, fitting: Fitting, fit: Fit) -> Scorer:
        held, n = fitting.validation, fitting.training.n_items

        def scores(queries: Queries) -> Scores:
            found = np.random.default_rng(0).random((len(queries), n)).astype(np.float32)
            if len(queries) == len(held):
                told = (held.queries.sizes > 0)[held.owners] == self.warm
                found[held.owners[told], held.rows[told]] += 1
            return found

        return scores


def test_users_without_a_history_have_weights_of_their_own(synthetic: Dataset, config: TrainConfig) -> None:
    settings = config.blend.model_copy(update={"fewest_requests": 5})
    features = config.features.model_copy(update={"cold_user_events": 1})
    config = config.model_copy(update={"blend": settings, "features": features})
    rows = [KnowsAnswers("warm", warm=True), KnowsAnswers("new", warm=False), BlendRow("fused", ("warm", "new"))]
    cut = make_cut("time", synthetic, config)
    new = np.count_nonzero(cut.validation.queries.sizes == 0)
    assert new >= 5
    assert len(cut.validation) - new >= 5
    top = Context(cut, config, {row.name: row for row in rows}).fitted("fused").fit.arrays["top"]
    assert top[0, 0] > top[0, 1]
    assert top[2, 0] < top[2, 1]


def test_a_row_cannot_read_fits_that_it_does_not_declare(synthetic: Dataset, config: TrainConfig) -> None:
    class Sly(PopularityRow):
        def fit(self, fitting: Fitting) -> Fit:
            return fitting.fitted("one", "train+validation").fit

    context = Context(make_cut("loo", synthetic, config), config, {"one": PopularityRow("one"), "sly": Sly("sly")})
    with pytest.raises(ValueError, match=r"row sly does not declare that it needs \('one', 'train\+validation'\)"):
        context.fitted("sly", "train")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="there is a row 'popularity' already"):
        register(PopularityRow("popularity"))


@pytest.mark.parametrize("protocol", ["loo", "cold-item"])
def test_all_default_rows_are_registered(protocol: str) -> None:
    assert set(default_rows(protocol)) <= set(ROWS)
