"""What towers make of the circumstances of a request, where taste depends on them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from tandem_core.catalog import Catalog
from tandem_core.features import EventType, FeatureSchema, item_tower_inputs, resolve_user, user_tower_inputs
from tandem_core.query import Query
from tandem_trainer.examples import make_examples
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
SEASONAL = PLAIN.model_copy(update={"season": True})
SETTINGS = TowerTrainingSettings(
    towers=TowerSettings(vector_dim=8, id_dim=8, code_dim=4, hidden=16),
    batch_size=256, epochs=10, validations=5, learning_rate=0.02,
)  # fmt: skip


def events_over(years: int, seed: int = 0) -> pd.DataFrame:
    """Users who like even items in the first half of every year and odd ones in the second."""
    rng = np.random.default_rng(seed)
    n = N_USERS * EACH
    times = np.sort(START_MS + rng.integers(0, years * 365 * DAY_MS, n))
    odd = times.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64) % 12 >= 6
    return pd.DataFrame(
        {
            "user_id": [f"u{u}" for u in rng.integers(0, N_USERS, n)],
            "item_id": [f"i{i}" for i in rng.integers(0, N_ITEMS // 2, n) * 2 + odd],
            "timestamp": times,
            "event_type": "like",
        }
    )


def fitted(events: pd.DataFrame, schema: FeatureSchema) -> tuple[FittedTowers, float]:
    """Return towers of all but the last twelfth of events, and recall@100 on that; chance finds half."""
    # Users have a few events over years: nothing but the circumstances says which half is liked now.
    is_last = np.random.default_rng(1).random(len(events)) < 1 / 12
    training = make_examples(events[~is_last], CATALOG, schema, NOBODY)
    validation = make_examples(events, CATALOG, schema, NOBODY, is_target=is_last)
    inputs = item_tower_inputs(schema, CATALOG, np.zeros((N_ITEMS, 2), np.float32))
    towers = fit_towers(training, inputs, SETTINGS, seed=1, validation=validation)
    return towers, towers.history[towers.best]["recall@100"]


@torch.no_grad()
def share_of_odd_items(towers: FittedTowers, schema: FeatureSchema, query: Query) -> float:
    """Return how many of the 20 items nearest to the request's user are odd."""
    inputs = user_tower_inputs(schema, [resolve_user(schema, CATALOG, query)], towers.item_vectors)
    vector = towers.user_tower(*map(torch.from_numpy, inputs.values())).numpy()[0]
    nearest = np.argsort(-(towers.item_vectors @ vector), kind="stable")[:20]
    return float((nearest % 2).mean())


def test_towers_that_read_the_month_find_what_the_season_brings() -> None:
    events = events_over(years=3)
    assert shows_season(events["timestamp"].to_numpy())
    towers, with_month = fitted(events, SEASONAL)
    _, without = fitted(events, PLAIN)
    next_year = START_MS + 3 * 365 * DAY_MS
    march, september = (
        share_of_odd_items(towers, SEASONAL, Query(request_id="r", max_results=1, now_ms=next_year + days * DAY_MS))
        for days in (75, 250)
    )
    assert with_month > without + 0.2
    assert march < 0.2
    assert september > 0.8
