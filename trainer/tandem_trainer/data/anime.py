"""Ratings of anime (rating.csv and anime.csv, collected from myanimelist.net): what 73,516 users watched and rated."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
import pandas as pd

from tandem_trainer.data.columns import Column, as_ids, as_numbers, as_text
from tandem_trainer.data.errors import DataError
from tandem_trainer.data.files import read_csv_utf8_or_latin1
from tandem_trainer.data.report import Ledger
from tandem_trainer.data.tables import Dataset, TableSchema, require_columns, validate

RATINGS, ANIME = "rating.csv", "anime.csv"
WATCHED_ONLY = -1  # the rating of an anime that was watched and not rated
FEWEST_RATINGS = 2  # of a user: from a single one nothing can be held out, and nothing learned about tastes
UNKNOWN_EPISODES = "Unknown"

_SCHEMA = TableSchema(item_numeric=("episodes", "members", "average_anime_rating"), item_categorical=("type",))
_ORDER_SEED = 123
_SHOWN = ["user_id", "item_id", "value"]


def load(folder: Path) -> Dataset:
    """Ratings (1 to 10) as events, and each anime with genres, type, episodes, members and its published average.

    Watched and not rated (-1), ratings of an anime that anime.csv lacks, and then users with a single rating are
    dropped and counted. The value of an event is the user's rating; average_anime_rating is that of the whole site, so
    that a little of each held-out rating is in it, as in what any service could look up.
    The data has no times: all events are at time 0, in an order drawn by a fixed seed. The file's own order is by anime
    within a user, whereby each user's "last" rating would be of the newest anime. A split by time refuses such events,
    and "the last event" is one at random.
    The publisher's counts (7,813,737 rows, of which 6,337,241 are ratings, and 12,294 anime; 66,351 users and 9,926
    rated anime left) were not verified here: the files were not at hand.
    Raises DataError when a file or a column is missing, or no rating is left.
    """
    ratings = read_csv_utf8_or_latin1(folder / RATINGS)
    anime = read_csv_utf8_or_latin1(folder / ANIME)
    require_columns(ratings, ["user_id", "anime_id", "rating"], RATINGS)
    require_columns(anime, ["anime_id", "name", "genre", "type", "episodes", "rating", "members"], ANIME)
    ledger = Ledger()
    ledger.read("events", RATINGS, len(ratings))
    ledger.read("items", ANIME, len(anime))
    items = _items(anime)
    events = _ratings(ratings, items["item_id"], ledger)
    if events.empty:
        reasons = "; ".join(f"{finding.count} x {finding.reason}" for finding in ledger.findings)
        raise DataError(f"{RATINGS}: no rating is left: {reasons}")
    events = events.sample(frac=1, random_state=_ORDER_SEED).assign(timestamp=0, event_type="rating")
    reason = "no timestamp in the data: all at time 0, in an order drawn by a fixed seed; the last event is any"
    ledger.warn("events", reason, events, np.ones(len(events), dtype=bool), _SHOWN)
    return validate(events, items, None, _SCHEMA, name="anime", categories_separator=",", ledger=ledger)


def _ratings(ratings: pd.DataFrame, known: Column, ledger: Ledger) -> pd.DataFrame:
    """What was rated, with clean ids and numbers; all other rows are counted."""
    ratings = ratings.rename(columns={"anime_id": "item_id", "rating": "value"})
    for column in ("user_id", "item_id"):
        ids, missing = as_ids(ratings[column], where=f"{RATINGS} column {column!r}")
        ratings = ledger.drop("events", f"missing {column}", ratings.assign(**{column: ids}), missing, _SHOWN)
    values, _, _ = as_numbers(ratings["value"])
    ratings = ratings.assign(value=values)
    watched = values == WATCHED_ONLY
    ratings = ledger.drop("events", "rating -1: watched and not rated", ratings, watched, _SHOWN)
    outside = ~ratings["value"].between(1, 10).to_numpy(dtype=bool)
    ratings = ledger.drop("events", "rating is no number from 1 to 10", ratings, outside, _SHOWN)
    strange = ~ratings["item_id"].isin(known).to_numpy(dtype=bool)
    ratings = ledger.drop("events", f"anime_id is not in {ANIME}", ratings, strange, _SHOWN)
    again = ratings.duplicated(["user_id", "item_id"]).to_numpy(dtype=bool)
    ratings = ledger.drop("events", "same user and anime again: first rating kept", ratings, again, _SHOWN)
    users = pd.factorize(ratings["user_id"])[0]
    few = np.bincount(users)[users] < FEWEST_RATINGS if len(users) else np.zeros(0, dtype=bool)
    return ledger.drop("events", "user with a single rating", ratings, few, _SHOWN)


def _items(anime: pd.DataFrame) -> pd.DataFrame:
    ids, _ = as_ids(anime["anime_id"], where=f"{ANIME} column 'anime_id'")
    return pd.DataFrame(
        {
            "item_id": ids,
            # Names have characters such as an apostrophe spelled as in HTML.
            "title": [html.unescape(name) for name in as_text(anime["name"])],
            "categories": as_text(anime["genre"]),
            "type": anime["type"],
            "episodes": anime["episodes"].where(anime["episodes"] != UNKNOWN_EPISODES),
            "members": anime["members"],
            "average_anime_rating": anime["rating"],
        }
    )
