"""What towers make of the circumstances of a request, where taste depends on them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from tandem_core.catalog import Catalog
from tandem_core.features import EventType, FeatureSchema, item_tower_inputs, months, resolve_user, user_tower_inputs
from tandem_core.query import Query
from tandem_trainer.config import FeatureSettings, TrainConfig
from tandem_trainer.data import Dataset, TableSchema, validate
from tandem_trainer.examples import make_examples
from tandem_trainer.prepare import build_catalog, build_schema
from tandem_trainer.season import shows_season
from tandem_trainer.towers import TowerSettings
from tandem_trainer.train_towers import FittedTowers, TowerTrainingSettings, fit_towers

N_ITEMS, N_USERS, EACH = 200, 150, 16  # of items the even ones are for one circumstance, the odd ones for the other
DAY_MS, START_MS = 86_400_000, 1_609_459_200_000  # 1 January 2021
NOBODY = pd.DataFrame({"user_id": []})
CATALOG = Catalog([f"i{n}" for n in range(N_ITEMS)], [""] * N_ITEMS, {}, {}, np.ones(N_ITEMS, np.int32))
PLAIN = FeatureSchema(
    event_types=(EventType(name="like"),), user_attributes={}, segments=(), item_codes=(), item_numbers=(),
    history_length=6, vector_dim=8,
)  # fmt: skip
SETTINGS = TowerTrainingSettings(
    towers=TowerSettings(vector_dim=8, id_dim=8, code_dim=4, hidden=16),
    batch_size=256, epochs=10, validations=5, learning_rate=0.02,
)  # fmt: skip


def some_events(times: np.ndarray, odd: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Users who turn to any even item, or any odd one where `odd`."""
    n = len(times)
    return pd.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, N_USERS, n)],
            "item_id": [f"i{i}" for i in rng.integers(0, N_ITEMS // 2, n) * 2 + odd],
            "timestamp": times,
            "event_type": "like",
        }
    )


def events_of_seasons(years: int) -> pd.DataFrame:
    """In the first half of every year even items are liked, and odd ones in the second."""
    rng = np.random.default_rng(0)
    times = np.sort(START_MS + rng.integers(0, years * 365 * DAY_MS, N_USERS * EACH))
    return some_events(times, months(times) > 6, rng)


def events_on_devices() -> pd.DataFrame:
    """On the tablet of a household it is mostly the children who watch: odd items."""
    rng = np.random.default_rng(0)
    n = N_USERS * EACH
    device = rng.choice(np.array(["phone", "tablet", None], object), n, p=(0.45, 0.45, 0.1))
    odd = (device == "tablet") ^ (rng.random(n) < 0.1)
    return some_events(np.sort(START_MS + rng.integers(0, 60 * DAY_MS, n)), odd, rng).assign(device=device)


def fitted(events: pd.DataFrame, schema: FeatureSchema) -> tuple[FittedTowers, float]:
    """Return towers of all but a twelfth of the events, and recall@100 on that; chance finds half."""
    held_out = np.random.default_rng(1).random(len(events)) < 1 / 12
    training = make_examples(events[~held_out], CATALOG, schema, NOBODY)
    validation = make_examples(events, CATALOG, schema, NOBODY, is_target=held_out)
    inputs = item_tower_inputs(schema, CATALOG, np.zeros((N_ITEMS, 2), np.float32))
    towers = fit_towers(training, inputs, SETTINGS, seed=1, validation=validation)
    return towers, towers.history[towers.best]["recall@100"]


@torch.no_grad()
def share_of_odd_items(towers: FittedTowers, schema: FeatureSchema, now_ms: int, context: dict[str, str]) -> float:
    """Return how many of the 20 items nearest to the user of such a request are odd."""
    query = Query(request_id="r", max_results=1, now_ms=now_ms, context=context)
    inputs = user_tower_inputs(schema, [resolve_user(schema, CATALOG, query)], towers.item_vectors)
    vector = towers.user_tower(*map(torch.from_numpy, inputs.values())).numpy()[0]
    nearest = np.argsort(-(towers.item_vectors @ vector), kind="stable")[:20]
    return float((nearest % 2).mean())


def test_towers_that_read_the_month_find_what_the_season_brings() -> None:
    events = events_of_seasons(years=3)
    assert shows_season(events["timestamp"].to_numpy())
    schema = PLAIN.model_copy(update={"season": True})
    towers, with_month = fitted(events, schema)
    _, without = fitted(events, PLAIN)
    next_year = START_MS + 3 * 365 * DAY_MS
    march, september = (share_of_odd_items(towers, schema, next_year + days * DAY_MS, {}) for days in (75, 250))
    assert with_month > without + 0.2
    assert march < 0.2
    assert september > 0.8


def test_towers_that_read_the_device_find_what_is_liked_on_it() -> None:
    events = events_on_devices()
    schema = PLAIN.model_copy(update={"request_context": {"device": ("phone", "tablet")}})
    towers, with_device = fitted(events, schema)
    _, without = fitted(events, PLAIN)
    now_ms = START_MS + 61 * DAY_MS
    phone, tablet = (share_of_odd_items(towers, schema, now_ms, {"device": name}) for name in ("phone", "tablet"))
    assert with_device > without + 0.15
    assert phone < 0.2
    assert tablet > 0.8
    unheard_of, untold = (share_of_odd_items(towers, schema, now_ms, told) for told in ({"device": "fridge"}, {}))
    assert unheard_of == untold


def data_of(events: pd.DataFrame, *names: str) -> Dataset:
    return validate(events, None, None, TableSchema(event_context=names), name="seen", now_ms=START_MS * 2)


def test_the_contexts_that_training_events_have_most_often_are_known() -> None:
    events = events_on_devices().assign(app=None, hidden="x")
    events.loc[:5, "device"] = ["tv", "tv", "tv", "car", "car", "boat"]
    data = data_of(events, "device", "app")
    catalog = build_catalog(data, data.events, 8)

    def known(train: pd.DataFrame, most: int = 100) -> dict[str, tuple[str, ...]]:
        config = TrainConfig(features=FeatureSettings(most_context_values=most))
        return build_schema(data, train, catalog, config).request_context

    frequent = tuple(data.events["device"].value_counts().index[:2])
    assert known(data.events) == {"device": (*frequent, "tv", "car", "boat")}  # no app is ever known
    assert known(data.events, most=3) == {"device": (*frequent, "tv")}
    assert known(data.events[data.events["device"] == "car"]) == {"device": ("car",)}
    assert known(data.events[:0]) == {}


def test_the_season_is_read_where_the_training_events_show_it_and_nobody_forbids_it() -> None:
    data = data_of(events_of_seasons(years=2))
    catalog = build_catalog(data, data.events, 8)
    off = TrainConfig(features=FeatureSettings(season=False))
    first_year = data.events[data.events["timestamp"] < START_MS + 365 * DAY_MS]
    asked = [(data.events, TrainConfig()), (data.events, off), (first_year, TrainConfig())]
    assert [build_schema(data, train, catalog, config).season for train, config in asked] == [True, False, False]
    # A fit on all events is of what was measured on the first of them.
    without = build_schema(data, first_year, catalog, TrainConfig())
    assert not build_schema(data, data.events, catalog, TrainConfig(), validated=without).season
