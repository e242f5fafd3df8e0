"""Keeping forgotten users out of training data, wherever that data came from."""

from __future__ import annotations

from tandem_core.stores.base import UserStore
from tandem_trainer.data import Dataset
from tandem_trainer.data.tables import without_users


def without_forgotten(dataset: Dataset, store: UserStore) -> Dataset:
    """Return the data set without the users on the store's suppression list; raises StoreUnavailable, DataError."""
    users = dataset.users["user_id"].tolist()
    return without_users(dataset, store.forgotten_among(users), "user asked to be forgotten")
