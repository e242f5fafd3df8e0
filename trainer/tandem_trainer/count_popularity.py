"""All popularity tables of a bundle, counted from the same events."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tandem_core.catalog import Catalog
from tandem_core.features import FeatureSchema
from tandem_core.sources.popularity_tables import PopularityTables
from tandem_trainer.popularity import fit_popularity
from tandem_trainer.popularity_wide import PopularitySettings, rating_table, type_tables, window_tables
from tandem_trainer.prepare import event_weights, item_rows, type_codes


def count_popularity(
    events: pd.DataFrame, users: pd.DataFrame, schema: FeatureSchema, catalog: Catalog, settings: PopularitySettings
) -> PopularityTables:
    """Return the tables over everybody, by segment, by category, of the last days, of ratings and by kind of event.

    users: whose attributes the segments are made of; a user of the events may be missing.
    """
    rows, weights = item_rows(catalog, events), event_weights(schema, events)
    profiles = events[["user_id"]].merge(users, on="user_id", how="left")
    counted = fit_popularity(rows, weights, profiles, schema, catalog)
    times = events["timestamp"].to_numpy(dtype=np.int64)
    lately = window_tables(rows, weights, times, len(catalog), settings)
    rated = events["event_type"].isin(settings.rating_event_types).to_numpy()
    values = events["value"].to_numpy(dtype=np.float64)
    ratings = rating_table(rows[rated], values[rated], len(catalog), settings)
    kinds = type_tables(rows, type_codes(schema, events), list(schema.type_code), len(catalog))
    return PopularityTables({**counted.tables, **lately, **ratings, **kinds})
