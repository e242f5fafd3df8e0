"""Rating models against each other and against simple means, on the same held-out ratings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.metrics import roc_auc_score

from tandem_core.metrics.bootstrap import Interval, mean_intervals, paired_difference
from tandem_core.settings import Settings
from tandem_trainer.data import Dataset
from tandem_trainer.losses import KnownPositives, NegativeSampler
from tandem_trainer.progress import Progress
from tandem_trainer.ratings.baselines import fit_biases
from tandem_trainer.ratings.fit import Fitted, Metrics, RatingTraining, fit_pairs, fit_ratings, predict
from tandem_trainer.ratings.inputs import RatingData, RatingInputSettings, Ratings, prepare_ratings
from tandem_trainer.ratings.models import (
    DotModel,
    IdTowers,
    IdTowerSettings,
    RatingModel,
    VectorTowers,
    VectorTowerSettings,
)
from tandem_trainer.ratings.rounding import prediction_table
from tandem_trainer.split import random_within_user

BASELINE = "user + item bias"  # what every model is compared with
FUSION = "towers on ALS and text"


class RatingConfig(Settings):
    """All models of a comparison; shapes as in the systems they come from, training chosen on validation ratings."""

    seed: int = 7
    threads: int = Field(default=1, ge=1)
    test_fraction: float = Field(default=0.1, gt=0, lt=1)
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    event_type: str = "rating"  # its values are what is predicted: other types' are dwell shares or quantities
    like_threshold: float = 4.0  # a rating of so much or more is a like
    inputs: RatingInputSettings = RatingInputSettings()
    factors: int = Field(default=32, ge=1)
    factors_training: RatingTraining = RatingTraining(
        optimizer="nadam", learning_rate=0.01, batch_size=10_000, epochs=35, patience=35
    )
    towers: VectorTowerSettings = VectorTowerSettings()
    towers_training: RatingTraining = RatingTraining()
    id_towers: IdTowerSettings = IdTowerSettings()
    deep_id_towers: IdTowerSettings = IdTowerSettings(id_dim=64, hidden=(256, 128), vector_dim=128)
    id_training: RatingTraining = RatingTraining()
    pair_training: RatingTraining = RatingTraining(batch_size=512)


@dataclass(frozen=True, slots=True)
class Arm:
    """One model on the held-out ratings. mse, mae: mean and interval over ratings. gain: MSE of the bias baseline
    minus its own, paired. history: figures by epoch, with the best one's number; empty for baselines.
    """

    name: str
    mse: Interval
    mae: Interval
    gain: Interval
    parameters: int = 0
    seconds: float = 0.0
    history: list[Metrics] = field(default_factory=list)
    best_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was measured. low, high: range of training ratings, predictions are clipped to it. ratings: of each part.

    like_auc: of the second head, and of the first one's rating as a score. pair_accuracy: of BPR towers and of
    popularity, share of held-out likes that outscore an item the user never rated. predictions: user_id, item_id,
    rating, predicted, pred_rating of the model with the smallest validation MSE, named by `best`. data: what all were
    fitted and measured on. models: those fitted by squared error, in evaluation mode, by the name of their arm.
    """

    arms: list[Arm]
    low: float
    high: float
    ratings: dict[str, int]
    like_auc: dict[str, float]
    pair_accuracy: dict[str, Interval]
    best: str
    predictions: pd.DataFrame
    data: RatingData
    models: dict[str, RatingModel]


def compare(dataset: Dataset, config: RatingConfig, progress: Progress) -> Comparison:
    """Split each user's ratings at random, fit on train, choose epochs on validation, measure all on test.

    Raises ValueError for data without ratings.
    """
    torch.set_num_threads(config.threads)
    with progress.step("inputs from the training cut"):
        data = prepare_ratings(dataset, rating_parts(dataset, config), config.inputs, config.seed)
    train, test = data.train, data.test
    low, high = float(train.values.min()), float(train.values.max())
    table = _Table(test, low, high, config.seed)
    biases = fit_biases(train, len(data.user_ids), len(data.item_ids))
    items_alone = fit_biases(train, len(data.user_ids), len(data.item_ids), user_shrink=np.inf)
    table.add(BASELINE, biases.predict(test))
    table.add("constant mean", np.full(len(test), biases.mean))
    table.add("item bias", items_alone.predict(test))
    best, best_mse = "", np.inf
    models: dict[str, RatingModel] = {}
    like_auc = {}
    for name, (make, training) in _models(data, config, biases.mean).items():
        with progress.step(name), torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            started = time.monotonic()
            fitted = fit_ratings(make(), train, data.validation, training, config.seed)
            seconds = time.monotonic() - started
        models[name] = fitted.model
        answers = predict(fitted.model, test)
        table.add(name, answers[:, 0], fitted, seconds)
        found = fitted.history[fitted.best_epoch]["validation_mse"]
        if found < best_mse:
            best, best_mse = name, found
        likes = test.values >= config.like_threshold
        if answers.shape[1] > 1 and 0 < likes.sum() < len(likes):
            scores = {"like head": answers[:, 1], "rating head": answers[:, 0]}
            like_auc = {head: float(roc_auc_score(likes, score)) for head, score in scores.items()}
    if not best:
        raise ValueError("no model had a finite validation error; lower the learning rates")
    with progress.step("id towers by BPR"):
        pair_accuracy = _pairs(data, config)
    predicted = np.clip(predict(models[best], test)[:, 0], low, high)
    return Comparison(
        arms=table.arms,
        low=low,
        high=high,
        ratings={"train": len(train), "validation": len(data.validation), "test": len(test)},
        like_auc=like_auc,
        pair_accuracy=pair_accuracy,
        best=best,
        predictions=prediction_table(
            data.user_ids[test.users], data.item_ids[test.items], test.values, predicted, round(low), round(high)
        ),
        data=data,
        models=models,
    )


def rating_parts(dataset: Dataset, config: RatingConfig) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the ratings to fit on, to choose by and to measure on, as rows of the events; ValueError for none."""
    events = dataset.events[dataset.events["value"].notna() & (dataset.events["event_type"] == config.event_type)]
    if events.empty:
        types = sorted(dataset.events["event_type"].unique())
        raise ValueError(
            f"{dataset.name}: no events of type {config.event_type!r} with a value, so there is nothing to predict; "
            f"it has the types {', '.join(types)}"
        )
    outer = random_within_user(events, config.test_fraction, seed=config.seed)
    inner = random_within_user(outer.train, config.validation_fraction, seed=config.seed + 1)
    return inner.train, inner.test, outer.test


def _models(
    data: RatingData, config: RatingConfig, mean: float
) -> dict[str, tuple[Callable[[], RatingModel], RatingTraining]]:
    features = data.features
    both = config.towers.model_copy(update={"like": True})
    like = config.towers_training.model_copy(update={"like_threshold": config.like_threshold})
    n_users, n_items = len(data.user_ids) - 1, len(data.item_ids) - 1
    return {
        "factors, relu of dot": (lambda: DotModel(n_users, n_items, config.factors, mean), config.factors_training),
        FUSION: (lambda: VectorTowers(features, config.towers, mean), config.towers_training),
        "the same, rating and like": (lambda: VectorTowers(features, both, mean), like),
        "id towers": (lambda: IdTowers(features, config.id_towers, mean), config.id_training),
        "deep id towers": (lambda: IdTowers(features, config.deep_id_towers, mean), config.id_training),
    }


def _pairs(data: RatingData, config: RatingConfig) -> dict[str, Interval]:
    """Return the share of held-out likes that score above an item their user never rated."""
    train, validation, test = (
        _only(part, part.values >= config.like_threshold) for part in (data.train, data.validation, data.test)
    )
    if not (len(train) and len(validation) and len(test)):
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = IdTowers(data.features, config.id_towers, 0.0)
    fitted = fit_pairs(model, train, validation, config.pair_training, config.seed)
    n_items, rng = len(data.item_ids), np.random.default_rng(config.seed)
    parts = (data.train, data.validation, data.test)
    users, items = (np.concatenate([getattr(part, side) for part in parts]) for side in ("users", "items"))
    counts = np.bincount(train.items, minlength=n_items)
    against = NegativeSampler(counts, 0.0, rng, KnownPositives(users, items, n_items)).draw_for(
        test.items, 1, test.users
    )[:, 0]
    found = against >= 0
    users, items, against = test.users[found], test.items[found], against[found]
    with torch.no_grad():
        ours, theirs = (
            fitted.model.score(torch.from_numpy(users), torch.from_numpy(rows)).numpy() for rows in (items, against)
        )
    columns = {"id towers by BPR": _right(ours, theirs), "popularity": _right(counts[items], counts[against])}
    return mean_intervals(columns, rng=rng)


def _right(liked: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return 1 where the liked one is above the other, a half where both are equal."""
    return np.asarray((liked > other) + 0.5 * (liked == other), np.float64)


def _only(ratings: Ratings, kept: NDArray[np.bool_]) -> Ratings:
    return Ratings(ratings.users[kept], ratings.items[kept], ratings.values[kept], ratings.text[kept])


def _size(model: RatingModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class _Table:
    """Collects arms, all measured on the same ratings; the first one added is the baseline of the others."""

    def __init__(self, test: Ratings, low: float, high: float, seed: int) -> None:
        self.arms: list[Arm] = []
        self._test, self._low, self._high, self._seed = test, low, high, seed
        self._baseline: NDArray[np.float64] | None = None

    def add(
        self, name: str, predicted: NDArray[np.floating], fitted: Fitted[RatingModel] | None = None, seconds: float = 0
    ) -> None:
        """predicted: [P], unclipped. seconds: of fitting."""
        errors = np.clip(predicted, self._low, self._high).astype(np.float64) - self._test.values
        squares = errors**2
        if self._baseline is None:
            self._baseline = squares
        # One seed for all: arms are resampled alike.
        means = mean_intervals({"mse": squares, "mae": np.abs(errors)}, rng=np.random.default_rng(self._seed))
        gain = paired_difference(self._baseline, squares, rng=np.random.default_rng(self._seed))
        found = (_size(fitted.model), seconds, fitted.history, fitted.best_epoch) if fitted is not None else ()
        self.arms.append(Arm(name, means["mse"], means["mae"], gain, *found))


def to_json(found: Comparison, config: RatingConfig) -> dict[str, Any]:
    """Return all figures and the settings they were made with, without the predictions, ready for JSON."""
    return {
        "config": config.model_dump(mode="json"),
        "ratings": found.ratings,
        "range": [found.low, found.high],
        "baseline": BASELINE,
        "best_on_validation": found.best,
        "like_auc": found.like_auc,
        "pair_accuracy": {name: asdict(interval) for name, interval in found.pair_accuracy.items()},
        "arms": {arm.name: {k: v for k, v in asdict(arm).items() if k != "name"} for arm in found.arms},
    }
