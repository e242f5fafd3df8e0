"""From tables to what rating models read: numbered pairs, and vectors that know nothing of held-out ratings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from tandem_core.index.exact import ExactIndex
from tandem_core.settings import Settings
from tandem_core.sources.als import Als
from tandem_trainer.als import AlsSettings, fit_als
from tandem_trainer.content import content_vectors, fit_content
from tandem_trainer.data import Dataset, anonymous_users
from tandem_trainer.data.schema import EVENT_TEXT
from tandem_trainer.prepare import build_catalog
from tandem_trainer.ratings.text_means import previous_means

ScalarT = TypeVar("ScalarT", bound=np.generic)


class RatingInputSettings(Settings):
    """What is computed from the training cut before a model is fitted."""

    als_factors: int = Field(default=64, ge=0)  # 0: none
    text_dims: int = Field(default=64, ge=1)
    most_codes: int = Field(default=8, ge=1)  # categories of an item beyond these are left out


@dataclass(frozen=True, slots=True)
class RatingFeatures:
    """What is known of U users and N items; place 0 of each table is for those without a training rating.

    user_codes: int64 [U + 1, A], one per attribute, 0 unknown. item_codes: int64 [N + 1, C] per column, 0 pads.
    user_sizes, item_sizes: codes of each without 0. user_als, item_als: float32 [.., F]. item_text: float32 [N + 1, T].
    anonymous: bool [U + 1].
    """

    user_codes: NDArray[np.int64]
    user_sizes: tuple[int, ...]
    item_codes: tuple[NDArray[np.int64], ...]
    item_sizes: tuple[int, ...]
    user_als: NDArray[np.float32]
    item_als: NDArray[np.float32]
    item_text: NDArray[np.float32]
    anonymous: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ratings:
    """P ratings. users: int64 [P], 1 .. U, 0 unknown. items: int64 [P], 1 .. N, 0 unknown. values: float32 [P].

    text: float32 [P, T], mean over what the user wrote before, or of the items rated before where events have no text.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    values: NDArray[np.float32]
    text: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True, slots=True)
class RatingData:
    """Features and the three parts; user_ids and item_ids: names of the numbers, place 0 stands for unknown."""

    features: RatingFeatures
    train: Ratings
    validation: Ratings
    test: Ratings
    user_ids: NDArray[np.str_]
    item_ids: NDArray[np.str_]


def prepare_ratings(
    dataset: Dataset,
    parts: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame],
    settings: RatingInputSettings,
    seed: int,
    anonymous: Collection[str] | None = None,
) -> RatingData:
    """Number users and items by the training part and compute all vectors from it alone.

    parts: train, validation and test, rows of `dataset.events` with a value. anonymous: user ids that mean nobody;
    None: those that the data marks so.
    """
    train = parts[0]
    events = pd.concat(parts)
    user_ids = np.concatenate([[""], np.unique(train["user_id"].to_numpy(dtype=str))])
    item_ids = np.concatenate([[""], np.unique(train["item_id"].to_numpy(dtype=str))])
    users, items = _numbers(user_ids, events["user_id"]), _numbers(item_ids, events["item_id"])
    known = np.arange(len(events)) < len(train)
    nobody = np.isin(user_ids, list(anonymous_users(dataset) if anonymous is None else anonymous))
    item_codes, item_text = _item_side(dataset, train, item_ids, settings, seed)
    user_als, item_als = _als(users[known], items[known], nobody, len(item_ids), settings.als_factors, seed)
    said = item_text[items]
    if dataset.schema.event_text:
        said = _written(events[EVENT_TEXT], known, settings.text_dims, seed)
        item_text, said = _of_one_width(item_text, said)
    text = previous_means(users, events["timestamp"].to_numpy(dtype=np.int64), said, known & (users > 0), nobody[users])
    features = RatingFeatures(*_user_side(dataset, user_ids), *item_codes, user_als, item_als, item_text, nobody)
    values = events["value"].to_numpy(dtype=np.float32, copy=True)  # pandas lends what torch must not write to
    ends = np.cumsum([len(part) for part in parts])[:-1]
    columns = (np.split(column, ends) for column in (users, items, values, text))
    fit, validation, test = (Ratings(*part) for part in zip(*columns, strict=True))
    return RatingData(features, fit, validation, test, user_ids, item_ids)


def _written(texts: pd.Series[str], known: NDArray[np.bool_], dims: int, seed: int) -> NDArray[np.float32]:
    """Return float32 [P, d] of the events' own texts, by words and weights of the known ones; d <= dims."""
    documents, n = texts.tolist(), len(texts)
    return fit_content([""] * n, documents, [()] * n, [None] * n, dims, known, seed)


def _of_one_width(*tables: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Put zeros behind the narrower ones."""
    width = max(table.shape[1] for table in tables)
    return tuple(np.pad(table, ((0, 0), (0, width - table.shape[1]))) for table in tables)


def _numbers(names: NDArray[np.str_], column: pd.Series[str]) -> NDArray[np.int64]:
    return np.maximum(pd.Index(names).get_indexer(pd.Index(column)), 0).astype(np.int64)


def _user_side(dataset: Dataset, user_ids: NDArray[np.str_]) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    table = dataset.users.drop_duplicates("user_id", keep="last").set_index("user_id").reindex(user_ids)
    columns, sizes = [], []
    for name in dataset.schema.user_attributes:
        codes, found = pd.factorize(table[name], sort=True)  # -1: unknown
        columns.append(codes.astype(np.int64) + 1)
        sizes.append(len(found))
    codes_of = np.stack(columns, axis=1) if columns else np.zeros((len(user_ids), 0), np.int64)
    return codes_of, tuple(sizes)


def _item_side(
    dataset: Dataset, train: pd.DataFrame, item_ids: NDArray[np.str_], settings: RatingInputSettings, seed: int
) -> tuple[tuple[tuple[NDArray[np.int64], ...], tuple[int, ...]], NDArray[np.float32]]:
    catalog = build_catalog(dataset, train, settings.most_codes)
    text = content_vectors(dataset, catalog.event_counts, settings.text_dims, seed)
    rows = pd.Index(catalog.item_ids).get_indexer(pd.Index(item_ids[1:]))
    codes = tuple(_after_unknown(column.codes[rows].astype(np.int64) + 1) for column in catalog.codes.values())
    sizes = tuple(len(column.vocabulary) for column in catalog.codes.values())
    return (codes, sizes), _after_unknown(text[rows])


def _after_unknown(table: NDArray[ScalarT]) -> NDArray[ScalarT]:
    """Put a row of zeros in front."""
    return np.concatenate([np.zeros_like(table[:1]), table])


def _als(
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    nobody: NDArray[np.bool_],
    n_items: int,
    factors: int,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return user and item vectors, float32 [.., F], zeros for the unknown and the anonymous.

    From who rated what, every rating weighing 1: with its value a training row would be told its own answer.
    """
    user_vectors, item_vectors = np.zeros((len(nobody), factors), np.float32), np.zeros((n_items, factors), np.float32)
    named = ~nobody[users]
    users, items = users[named], items[named]
    if not factors or not len(users):
        return user_vectors, item_vectors
    settings = AlsSettings(factors=factors)
    model = fit_als(users, items, np.ones(len(users)), len(nobody), n_items, settings, seed)
    item_vectors = model.item_factors
    als = Als(ExactIndex(item_vectors), model.alpha, model.regularization, half_life=1.0)
    order = np.argsort(users, kind="stable")
    names, starts = np.unique(users[order], return_index=True)
    for user, rows in zip(names, np.split(items[order], starts[1:]), strict=True):
        user_vectors[user] = als.fold_in(rows.astype(np.int32), np.ones(len(rows), np.float32))
    return user_vectors, item_vectors
