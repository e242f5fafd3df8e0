"""Tables that rating models are made from, written out for others to look at or to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tandem_trainer.data import Dataset
from tandem_trainer.losses import with_negatives
from tandem_trainer.ratings.compare import RatingConfig, rating_parts
from tandem_trainer.ratings.export import fusion_inputs
from tandem_trainer.ratings.inputs import RatingData

KINDS = (".csv", ".parquet")
PARTS = ("train", "validation", "test")


def check_kind(path: Path | None) -> None:
    """Raise ValueError for a file of a kind that tables are not written as."""
    if path is not None and path.suffix not in KINDS:
        raise ValueError(f"{path} must end in {' or '.join(KINDS)}")


def negatives_table(data: RatingData, seed: int, k: int = 3) -> pd.DataFrame:
    """Return user_id, item_id, rating and is_negative: the training ratings, then up to k negatives of each.

    Negatives are drawn by popularity in the training part, with a rating between 0 and 2, and are never an item that
    their user rated in it. Held-out ratings are not looked at, so that a few of them may stand here as negatives:
    leaving them out would tell a model which they are.
    """
    train = data.train
    rng = np.random.default_rng(seed)
    pairs = with_negatives(train.users, train.items, train.values, len(data.item_ids), rng, k=k)
    return pd.DataFrame(
        {
            "user_id": data.user_ids[pairs.users],
            "item_id": data.item_ids[pairs.items],
            "rating": pairs.ratings,
            "is_negative": pairs.is_negative,
        }
    )


def ratings_table(dataset: Dataset, data: RatingData, config: RatingConfig) -> pd.DataFrame:
    """Return a row per rating: ids, timestamp (UNIX ms), rating, part, what is known of user and item, model inputs.

    part: train, validation or test. user_ratings, item_ratings: their ratings in the training part. Then the users'
    attributes, the items' title, creator and categories (joined by |), and the inputs of the towers with the fusion
    head under the names that its ONNX file gives them: user_als, user_text, user_anonymous, item_als, item_text.
    """
    parts = rating_parts(dataset, config)
    columns = ["user_id", "item_id", "timestamp", "value"]
    table = pd.concat([part[columns].assign(part=name) for name, part in zip(PARTS, parts, strict=True)])
    table = table.rename(columns={"value": "rating"}).reset_index(drop=True)
    for side in ("user", "item"):
        counts = parts[0][f"{side}_id"].value_counts()
        table[f"{side}_ratings"] = table[f"{side}_id"].map(counts).fillna(0).astype(np.int64)
    people = dataset.users.drop_duplicates("user_id", keep="last")
    table = table.merge(people[["user_id", *dataset.schema.user_attributes]], on="user_id", how="left")
    items = dataset.items[["item_id", "title", "creator"]].assign(categories=dataset.items["categories"].str.join("|"))
    table = table.merge(items, on="item_id", how="left")
    return table.assign(**{name: list(vectors) for name, vectors in fusion_inputs(data).items()})


def write_table(table: pd.DataFrame, path: Path) -> int:
    """Write as the ending of `path` says and return the number of rows; CSV leaves out columns of vectors."""
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        vectors = [name for name in table if len(table) and isinstance(table[name].iloc[0], np.ndarray)]
        table.drop(columns=vectors).to_csv(path, index=False, float_format="%.6g")
    return len(table)
