"""MovieLens 100K, 1M and latest in their publisher's formats."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from tandem_trainer.data.columns import Column
from tandem_trainer.data.files import read_delimited
from tandem_trainer.data.report import Ledger
from tandem_trainer.data.tables import Dataset, TableSchema, require_columns, validate

_RATING_COLUMNS = ["user_id", "item_id", "value", "timestamp"]
_SEGMENTS = (("age", "gender"), ("age",), ("gender",))
_USER_SCHEMA = TableSchema(item_numeric=("year",), user_attributes=("age", "gender", "occupation"), segments=_SEGMENTS)
_LATEST_SCHEMA = TableSchema(item_numeric=("year",))  # publishes nothing about its users

# The order of the flags in u.item; the first one, "unknown", stands for no genre.
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_AGE_CODES_1M = np.array([1, 18, 25, 35, 45, 50, 56])  # each the youngest age of its bucket, 1 = under 18
_OCCUPATIONS_1M = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer",
    "programmer", "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer",
    "tradesman/craftsman", "unemployed", "writer",
)  # fmt: skip


def load_100k(folder: Path, *, now_ms: int | None = None) -> Dataset:
    """MovieLens 100K from u.data, u.item and u.user; ages become the age codes of MovieLens 1M."""
    ledger = Ledger()
    events = _ratings(read_delimited(folder / "u.data", "\t", _RATING_COLUMNS), folder / "u.data", ledger)
    names = ["item_id", "title", "released", "video", "url", *_GENRES_100K]
    items = read_delimited(folder / "u.item", "|", names, encoding="latin-1")
    ledger.read("items", "u.item", len(items))
    released = pd.to_datetime(items["released"], format="%d-%b-%Y", errors="coerce", utc=True)
    odd = (released.isna() & items["released"].notna()).to_numpy(dtype=bool)
    ledger.warn("items", "unparsable release date: read as unknown", items, odd, ["item_id", "released"])
    items = items.assign(categories=_flagged_genres(items), created_at=released, year=_year(items["title"]))
    users = read_delimited(folder / "u.user", "|", ["user_id", "age", "gender", "occupation", "zip"])
    ledger.read("users", "u.user", len(users))
    users = users.assign(age=_age_codes(users["age"]))
    return validate(events, items, users, _USER_SCHEMA, name="ml-100k", time_unit="s", now_ms=now_ms, ledger=ledger)


def load_1m(folder: Path, *, now_ms: int | None = None) -> Dataset:
    """MovieLens 1M from ratings.dat, movies.dat and users.dat; when an item was created is unknown."""
    ledger = Ledger()
    events = _ratings(read_delimited(folder / "ratings.dat", "::", _RATING_COLUMNS), folder / "ratings.dat", ledger)
    items = read_delimited(folder / "movies.dat", "::", ["item_id", "title", "categories"], encoding="latin-1")
    ledger.read("items", "movies.dat", len(items))
    items = items.assign(year=_year(items["title"]))
    users = read_delimited(folder / "users.dat", "::", ["user_id", "gender", "age", "occupation", "zip"])
    ledger.read("users", "users.dat", len(users))
    occupations = {str(code): name for code, name in enumerate(_OCCUPATIONS_1M)}
    users = users.assign(occupation=users["occupation"].map(occupations))
    return validate(
        events,
        items,
        users,
        _USER_SCHEMA,
        name="ml-1m",
        time_unit="s",
        now_ms=now_ms,
        categories_separator="|",
        ledger=ledger,
    )


def load_latest(folder: Path, *, now_ms: int | None = None) -> Dataset:
    """MovieLens latest (small or full) from ratings.csv and movies.csv, with half stars."""
    ledger = Ledger()
    ratings = read_delimited(folder / "ratings.csv", ",")
    movies = read_delimited(folder / "movies.csv", ",")
    require_columns(ratings, ["userId", "movieId", "rating", "timestamp"], "ratings.csv")
    require_columns(movies, ["movieId", "title", "genres"], "movies.csv")
    renames = {"userId": "user_id", "movieId": "item_id", "rating": "value"}
    events = _ratings(ratings.rename(columns=renames), folder / "ratings.csv", ledger)
    ledger.read("items", "movies.csv", len(movies))
    genres = movies["genres"].where(movies["genres"] != "(no genres listed)")
    items = movies.rename(columns={"movieId": "item_id"}).assign(categories=genres, year=_year(movies["title"]))
    return validate(
        events,
        items,
        None,
        _LATEST_SCHEMA,
        name="ml-latest",
        time_unit="s",
        now_ms=now_ms,
        categories_separator="|",
        ledger=ledger,
    )


def _ratings(ratings: pd.DataFrame, path: Path, ledger: Ledger) -> pd.DataFrame:
    ledger.read("events", path.name, len(ratings))
    return ratings.assign(event_type="rating")


def _flagged_genres(items: pd.DataFrame) -> Column:
    flags = (items[list(_GENRES_100K[1:])] == "1").to_numpy(dtype=bool)  # [n, 18]
    genres = [[_GENRES_100K[1 + at] for at in np.flatnonzero(row)] for row in flags]
    return pd.Series(genres, index=items.index, dtype=object)


def _year(titles: Column) -> Column:
    """The last year in parentheses of a title such as "Toy Story (1995)", NaN if there is none."""
    return titles.str.extract(re.compile(r".*\((\d{4})\)"), expand=False).astype("float64")


def _age_codes(ages: Column) -> Column:
    """Ages in years as the codes of MovieLens 1M ("25" = 25 to 34), missing where not a number."""
    years = pd.to_numeric(ages, errors="coerce")
    bucket = np.searchsorted(_AGE_CODES_1M, years.fillna(1).clip(lower=1), side="right") - 1
    codes = pd.Series(_AGE_CODES_1M[bucket].astype(str), index=ages.index, dtype="str")
    return codes.where(years.notna())
