"""Small data sets for the comparison: synthetic ones, and one written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import pytest

from tandem_trainer.config import DataSettings, TrainConfig
from tandem_trainer.data import Dataset, TableSchema, validate
from tandem_trainer.inputs import load_data
from tandem_trainer.tower_training_settings import TowerTrainingSettings

CONFIG = TrainConfig(
    data=DataSettings(adapter="synthetic", synthetic_users=150, synthetic_items=80),
    towers=TowerTrainingSettings(most_examples=1024, validations=1),
)


@pytest.fixture(scope="session")
def synthetic() -> Dataset:
    """150 users, 80 items, some items chosen again by the same user."""
    return load_data(CONFIG, None)


ByHand = Callable[..., Dataset]


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    """Settings of runs on `synthetic`."""
    return CONFIG


@pytest.fixture(scope="session")
def by_hand() -> ByHand:
    """by_hand(events, items=()) makes a data set of (user, item, second); items: their order in the catalogue."""

    def make(events: Sequence[tuple[str, str, int]], items: Sequence[str] = ()) -> Dataset:
        table = pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]).assign(event_type="view", value=None)
        catalogue = pd.DataFrame({"item_id": list(items), "title": ""}) if items else None
        return validate(table, catalogue, None, TableSchema(), name="by hand", time_unit="s")

    return make
