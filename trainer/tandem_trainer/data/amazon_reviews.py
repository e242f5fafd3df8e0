"""Datafiniti's product reviews (GrammarandProductReviews.csv): ratings with titles and texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tandem_trainer.data.columns import Mask, as_ids, as_numbers, as_text, most_common
from tandem_trainer.data.errors import DataError
from tandem_trainer.data.files import one_table_file, read_csv_utf8_or_latin1
from tandem_trainer.data.report import Ledger
from tandem_trainer.data.schema import ANONYMOUS
from tandem_trainer.data.tables import Dataset, TableSchema, require_columns, validate

FILE_NAME = "GrammarandProductReviews.csv"
MARKER_COLUMNS = frozenset({"reviews.rating", "reviews.username", "reviews.text"})
NO_TITLE, NO_TEXT = "No Title", "No Review"

# Names that shops show where the reviewer gave none: thousands of people, not one.
NOBODY = ("anonymous", "an anonymous customer", "byamazon customer", "amazon customer")

_SCHEMA = TableSchema(
    item_categorical=("manufacturer",),
    user_attributes=(ANONYMOUS, "province", "city"),
    segments=(("province",),),
    event_text=True,
)
# Of the publisher's 25 columns those that are used. dateAdded is when the publisher's crawler met the product, long
# after its first reviews, so that it says nothing of the product's age.
_RENAMES = {
    "id": "item_id",
    "name": "title",
    "brand": "creator",
    "categories": "categories",
    "manufacturer": "manufacturer",
    "reviews.username": "user_id",
    "reviews.userCity": "city",
    "reviews.userProvince": "province",
    "reviews.date": "timestamp",
    "reviews.rating": "value",
    "reviews.title": "review_title",
    "reviews.text": "review_text",
}
_SHOWN = ["user_id", "item_id", "value"]


def load(path: Path, *, now_ms: int | None = None) -> Dataset:
    """Ratings (1 to 5) with the review as the event's text, from the one CSV file at or in `path`.

    A review without title or text has "No Title" or "No Review" in its place. A review of nobody known (no user name,
    or one of NOBODY) is an event of its own user, with the attribute is_anonymous = "1" ("0" for all others): so it
    counts for its item, and no two such reviews are taken for one person's; a least number of events per user above 1
    leaves them all out. Different people who show the same other name can not be told apart. A product's name, brand,
    categories and manufacturer are those most of its rows have; a product without a manufacturer gets the most common
    one of all. Review texts are no item text: those of held-out events would be told to the models (see
    `review_texts.with_review_texts`).
    The publisher's counts (71,044 reviews, 600 products) were not verified here: the file was not at hand.
    Raises DataError when the file lacks a column or no review is left.
    """
    named = path / FILE_NAME
    file = named if named.is_file() else one_table_file(path)
    if file.suffix != ".csv":
        raise DataError(f"{file.name}: the reviews are read from a .csv file, as published")
    raw = read_csv_utf8_or_latin1(file)
    require_columns(raw, list(_RENAMES), file.name)
    ledger = Ledger()
    ledger.read("events", file.name, len(raw))
    reviews = raw[list(_RENAMES)].rename(columns=_RENAMES)
    products, no_product = as_ids(reviews["item_id"], where=f"{file.name} column 'id'")
    reviews = ledger.drop("events", "missing item_id", reviews.assign(item_id=products.str.strip()), no_product, _SHOWN)
    reviews = _with_users(reviews, ledger)
    if reviews.empty:
        raise DataError(f"{file.name}: no review of a product is left; does column 'id' name the product?")
    events = _with_values(_with_texts(reviews, ledger), ledger).assign(event_type="rating")
    items, users = _items(reviews, ledger), _users(reviews)
    ledger.read("items", f"{file.name}, grouped", len(items))
    ledger.read("users", f"{file.name}, grouped", len(users))
    return validate(
        events,
        items,
        users,
        _SCHEMA,
        name="amazon-reviews",
        time_unit="iso",
        now_ms=now_ms,
        categories_separator=",",
        ledger=ledger,
    )


def _with_users(reviews: pd.DataFrame, ledger: Ledger) -> pd.DataFrame:
    """User ids, and the column is_anonymous; a review of nobody known gets an id of its own, by its row."""
    names = as_text(reviews["user_id"]).str.strip()
    nameless = (names == "").to_numpy(dtype=bool)
    # Our own ids for nobody would be taken for a person's, should a person be called like that.
    known_as = names.str.lower()
    nobody = (known_as.isin(NOBODY) | known_as.str.fullmatch(r"anonymous:\d+")).to_numpy(dtype=bool)
    ledger.warn("events", "no user name: kept as anonymous, a user of its own", reviews, nameless, _SHOWN)
    ledger.warn("events", "user name of nobody: kept as anonymous, a user of its own", reviews, nobody, _SHOWN)
    anonymous = nameless | nobody
    # Once each has its own user, no copy of a review would be found any more.
    copies = reviews.duplicated().to_numpy(dtype=bool) & anonymous
    of_row = pd.Series([f"anonymous:{int(row) + 1}" for row in reviews.index], index=reviews.index, dtype="str")
    reviews = reviews.assign(user_id=names.where(~anonymous, of_row), **{ANONYMOUS: np.where(anonymous, "1", "0")})
    return ledger.drop("events", "exact duplicate of an anonymous review", reviews, copies, _SHOWN)


def _with_texts(reviews: pd.DataFrame, ledger: Ledger) -> pd.DataFrame:
    """The event's text: title and text of the review."""
    parts = []
    for column, placeholder in (("review_title", NO_TITLE), ("review_text", NO_TEXT)):
        said = as_text(reviews[column]).str.strip()
        missing = (said == "").to_numpy(dtype=bool)
        ledger.warn("events", f"{column} is missing: read as {placeholder!r}", reviews, missing, _SHOWN)
        parts.append(said.where(~missing, placeholder))
    return reviews.assign(text=parts[0] + "\n" + parts[1])


def _with_values(reviews: pd.DataFrame, ledger: Ledger) -> pd.DataFrame:
    numbers, missing, _ = as_numbers(reviews["value"])
    outside: Mask = (numbers < 1) | (numbers > 5)
    ledger.warn("events", "no rating: kept without a value", reviews, missing, _SHOWN)
    ledger.warn("events", "rating is not between 1 and 5: read as none", reviews, outside, _SHOWN)
    return reviews.assign(value=reviews["value"].where(~outside))


def _items(reviews: pd.DataFrame, ledger: Ledger) -> pd.DataFrame:
    """One row per product, in the order of their first reviews."""
    ids = reviews["item_id"].unique()
    names = ("title", "creator", "categories", "manufacturer")
    said = {name: most_common(reviews, "item_id", name).reindex(ids).to_numpy(dtype=object) for name in names}
    # As text only a product's own manufacturer: the usual one would be words that nobody said of it.
    items = pd.DataFrame({"item_id": ids, **said, "text": said["manufacturer"]})
    usual = most_common(reviews.assign(all_products=""), "all_products", "manufacturer")
    if len(usual):
        missing = items["manufacturer"].isna().to_numpy(dtype=bool)
        items["manufacturer"] = items["manufacturer"].where(~missing, usual.iloc[0])
        reason = "no manufacturer: read as the most common one of all reviews"
        ledger.warn("items", reason, items, missing, ["item_id", "title", "manufacturer"])
    return items


def _users(reviews: pd.DataFrame) -> pd.DataFrame:
    """One row per user: the province and the city that most of their reviews name."""
    users = reviews.drop_duplicates("user_id")[["user_id", ANONYMOUS]].reset_index(drop=True)
    said = {name: most_common(reviews, "user_id", name) for name in ("province", "city")}
    return users.assign(**{name: users["user_id"].map(column) for name, column in said.items()})
