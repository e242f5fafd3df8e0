"""Fit a rating model: by squared error (and likes) or by pairs; the best epoch is what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from tandem_core.settings import Settings
from tandem_trainer.losses import KnownPositives, NegativeSampler, bpr_loss, rating_mse
from tandem_trainer.ratings.inputs import Ratings
from tandem_trainer.ratings.models import IdTowers, RatingBatch, RatingModel

Metrics = dict[str, float]
ModelT = TypeVar("ModelT", bound=nn.Module)

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "nadam": torch.optim.NAdam,
    "adagrad": torch.optim.Adagrad,
}


class RatingTraining(Settings):
    """How a model is fitted."""

    optimizer: Literal["adam", "nadam", "adagrad"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    batch_size: int = Field(default=256, ge=1)
    epochs: int = Field(default=12, ge=1)
    patience: int = Field(default=3, ge=1)  # epochs without a better validation before stopping
    like_threshold: float | None = None  # a rating of so much or more is a like; for models that answer it
    like_weight: float = Field(default=0.3, gt=0)  # of its loss beside the squared error
    bpr_temperature: float = Field(default=0.1, gt=0)  # cosines are divided by it


@dataclass(frozen=True, slots=True)
class Fitted(Generic[ModelT]):
    """The model of the best epoch (from 0), in evaluation mode, and the figures of all epochs."""

    model: ModelT
    history: list[Metrics]
    best_epoch: int


def fit_ratings(
    model: RatingModel, train: Ratings, validation: Ratings, settings: RatingTraining, seed: int
) -> Fitted[RatingModel]:
    """Fit by squared error, and cross-entropy of likes where settings say what a like is; stop by validation MSE."""
    columns = [torch.from_numpy(c) for c in (train.users, train.items, train.text, train.values)]

    def loss_of(rows: Tensor) -> Tensor:
        users, items, text, values = (column[rows] for column in columns)
        answers = model(RatingBatch(users, items, text))
        loss = rating_mse(answers[:, 0], values)
        if settings.like_threshold is None:
            return loss
        likes = (values >= settings.like_threshold).float()
        return loss + settings.like_weight * F.binary_cross_entropy_with_logits(answers[:, 1], likes)

    def validate() -> Metrics:
        errors = predict(model, validation)[:, 0] - validation.values
        return {"validation_mse": float(np.mean(errors**2)), "validation_mae": float(np.mean(np.abs(errors)))}

    return _run(model, len(train), loss_of, validate, "validation_mse", settings, seed)


def fit_pairs(
    model: IdTowers, train: Ratings, validation: Ratings, settings: RatingTraining, seed: int
) -> Fitted[IdTowers]:
    """Fit by BPR, one uniform negative per rating, never rated by its user; stop by wrong validation pairs.

    Whether a rating is high or low does not matter: give only those that count as liked.
    """
    rng = np.random.default_rng(seed)
    n_items = model.item_id.num_embeddings
    sampler = NegativeSampler(
        np.bincount(train.items, minlength=n_items), 0.0, rng, KnownPositives(train.users, train.items, n_items)
    )
    users, items = torch.from_numpy(train.users), torch.from_numpy(train.items)

    def loss_of(rows: Tensor) -> Tensor:
        at = rows.numpy()
        negative = sampler.draw_for(train.items[at], 1, train.users[at])
        user = model.user_vectors(users[rows])
        positive = (user * model.item_vectors(items[rows])).sum(1)
        against = (user * model.item_vectors(torch.from_numpy(np.maximum(negative[:, 0], 0)))).sum(1, keepdim=True)
        scale = settings.bpr_temperature
        return bpr_loss(positive / scale, against / scale, None, torch.from_numpy(negative >= 0))

    def validate() -> Metrics:
        users, items = torch.from_numpy(validation.users), torch.from_numpy(validation.items)
        with torch.no_grad():
            wrong = model.score(users, items) <= model.score(users, others)
        return {"validation_wrong": float(wrong.float().mean())}

    known = KnownPositives(
        np.concatenate([train.users, validation.users]), np.concatenate([train.items, validation.items]), n_items
    )
    against = NegativeSampler(np.bincount(train.items, minlength=n_items), 0.0, np.random.default_rng(seed), known)
    others = torch.from_numpy(np.maximum(against.draw_for(validation.items, 1, validation.users)[:, 0], 0))
    return _run(model, len(train), loss_of, validate, "validation_wrong", settings, seed)


@torch.no_grad()
def predict(model: RatingModel, ratings: Ratings, chunk: int = 8192) -> NDArray[np.float32]:
    """Return float32 [P, K], what the model answers in evaluation mode; unclipped."""
    was_training = model.training
    model.eval()
    parts = []
    for start in range(0, len(ratings), chunk):
        rows = slice(start, start + chunk)
        columns = (torch.from_numpy(c[rows]) for c in (ratings.users, ratings.items, ratings.text))
        parts.append(model(RatingBatch(*columns)).numpy())
    model.train(was_training)
    return np.concatenate(parts)


def _run(
    model: ModelT,
    n: int,
    loss_of: Callable[[Tensor], Tensor],
    validate: Callable[[], Metrics],
    key: str,
    settings: RatingTraining,
    seed: int,
) -> Fitted[ModelT]:
    """Run the epochs; `key` names the validation figure that shall be small."""
    optimizer = _OPTIMIZERS[settings.optimizer](
        model.parameters(),
        lr=settings.learning_rate,  # type: ignore[call-arg]
        weight_decay=settings.weight_decay,
    )
    history: list[Metrics] = []
    best, best_epoch, best_weights = np.inf, 0, _weights(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(settings.epochs):
            model.train()
            losses = []
            for rows in torch.split(torch.randperm(n), settings.batch_size):
                loss = loss_of(rows)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses.append(loss.item() * len(rows))
            model.eval()
            history.append({"loss": sum(losses) / n} | validate())
            if history[-1][key] < best:
                best, best_epoch, best_weights = history[-1][key], epoch, _weights(model)
            elif epoch - best_epoch >= settings.patience:
                break
    model.load_state_dict(best_weights)
    return Fitted(model.eval(), history, best_epoch)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
