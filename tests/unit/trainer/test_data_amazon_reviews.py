"""Datafiniti's product reviews in the publisher's format, from rows written here: the file itself was not at hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tandem_trainer.config import TrainConfig
from tandem_trainer.content import content_vectors
from tandem_trainer.data import DataError, Dataset, anonymous_users, detect, load_dataset, write_tables
from tandem_trainer.data.review_texts import with_review_texts
from tandem_trainer.examples import make_examples
from tandem_trainer.inputs import split_data
from tandem_trainer.prepare import build_catalog, build_schema
from tandem_trainer.progress import Progress
from tandem_trainer.ratings.compare import RatingConfig, compare
from tandem_trainer.ratings.fit import RatingTraining
from tandem_trainer.ratings.inputs import RatingInputSettings, prepare_ratings
from tandem_trainer.split import random_within_user

NAMES = (
    "id", "brand", "categories", "dateAdded", "dateUpdated", "ean", "keys", "manufacturer", "manufacturerNumber",
    "name", "reviews.date", "reviews.dateAdded", "reviews.dateSeen", "reviews.didPurchase", "reviews.doRecommend",
    "reviews.id", "reviews.numHelpful", "reviews.rating", "reviews.sourceURLs", "reviews.text", "reviews.title",
    "reviews.userCity", "reviews.userProvince", "reviews.username", "upc",
)  # fmt: skip
GOOD = {
    "id": "AV13O1A8GV-KLJ3akUyj",
    "brand": "Universal Music",
    "categories": "Movies, Music & Books,Music,R&b,Music on CD or Vinyl",
    "dateAdded": "2017-07-25T00:52:42Z",
    "dateUpdated": "2018-02-05T08:36:58Z",
    "keys": "602537205981,universalmusic/14331328",
    "manufacturer": "Universal Music Group / Cash Money",
    "manufacturerNumber": "14331328",
    "name": "Pink Friday: Roman Reloaded Re-Up (w/dvd)",
    "reviews.date": "2012-11-30T06:21:45.000Z",
    "reviews.dateAdded": "2017-07-25T00:52:42Z",
    "reviews.dateSeen": "2017-07-23T00:00:00.000Z,2017-07-25T00:00:00.000Z",
    "reviews.rating": "5",
    "reviews.sourceURLs": "https://redsky.example/groot-domain-api/v1/reviews/14331328?sort=time_desc",
    "reviews.text": 'i love this "album",\nit\'s very good.\r\nMore to the hip hop side, café',
    "reviews.title": "Just Awesome",
    "reviews.userCity": "Los Angeles",
    "reviews.userProvince": "CA",
    "reviews.username": "Joshua",
    "upc": "602537205981",
}


def review(**changes: Any) -> dict[str, Any]:
    """One good row with some fields changed; a dot is written as two underscores."""
    return GOOD | {name.replace("__", "."): value for name, value in changes.items()}


def written(folder: Path, *rows: dict[str, Any], encoding: str = "utf-8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "GrammarandProductReviews.csv").open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, NAMES)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def load(folder: Path, *rows: dict[str, Any], **options: Any) -> Dataset:
    return load_dataset("amazon-reviews", written(folder, *rows, **options))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_a_review_becomes_a_rating_with_its_text_and_a_described_product(tmp_path: Path, encoding: str) -> None:
    folder = written(tmp_path, review(), encoding=encoding)
    assert detect(folder) == detect(folder / "GrammarandProductReviews.csv") == "amazon-reviews"
    data = load_dataset("auto", folder)
    [event] = data.events.to_dict("records")
    assert (event["user_id"], event["item_id"], event["event_type"]) == ("Joshua", GOOD["id"], "rating")
    assert event["timestamp"] == pd.Timestamp("2012-11-30T06:21:45Z").value // 10**6
    assert data.events["value"].tolist() == [5.0]
    assert data.events["value"].dtype == np.float32
    assert event["text"] == 'Just Awesome\ni love this "album",\nit\'s very good.\r\nMore to the hip hop side, café'
    item = data.items.iloc[0]
    assert (item["title"], item["creator"]) == (GOOD["name"], "Universal Music")
    assert item["categories"] == ["Movies", "Music & Books", "Music", "R&b", "Music on CD or Vinyl"]
    assert item["text"] == item["manufacturer"] == GOOD["manufacturer"]
    assert item["created_at"] is pd.NA  # dateAdded is the crawler's
    assert data.users.iloc[0].tolist() == ["Joshua", "0", "CA", "Los Angeles"]
    assert data.report.findings == ()


def test_missing_title_text_and_manufacturer_are_filled_and_counted(tmp_path: Path) -> None:
    data = load(
        tmp_path,
        review(),
        review(reviews__username="b", reviews__title="", reviews__text=" "),
        review(reviews__username="c", reviews__text="", manufacturer=""),
        review(reviews__username="d", id="other", manufacturer="", name="Soap"),
        review(reviews__username="e", id="third", manufacturer="Rare", name="Comb"),
    )
    texts = data.events.set_index("user_id")["text"]
    assert (texts["b"], texts["c"]) == ("No Title\nNo Review", "Just Awesome\nNo Review")
    items = data.items.set_index("title")
    usual = GOOD["manufacturer"]
    assert items["manufacturer"].tolist() == [usual, usual, "Rare"]
    assert items["text"].tolist() == [usual, "", "Rare"]  # nobody said the usual one of soap
    assert data.report.count("events", "review_title is missing: read as 'No Title'") == 1
    assert data.report.count("events", "review_text is missing: read as 'No Review'") == 2
    assert data.report.count("items", "no manufacturer: read as the most common one of all reviews") == 1


def test_reviews_of_nobody_known_count_for_their_item_and_never_share_a_user(tmp_path: Path) -> None:
    names = ["", "  ", "Anonymous", "An anonymous customer", "ByAmazon Customer", "anonymous:1", "Joshua", "Joshua"]
    rows = [review(reviews__username=name, id=f"p{at % 2}") for at, name in enumerate(names)]
    data = load(tmp_path, *rows)
    assert data.report.count("events", "no user name: kept as anonymous, a user of its own") == 2
    assert data.report.count("events", "user name of nobody: kept as anonymous, a user of its own") == 4
    assert data.events["item_id"].value_counts().tolist() == [4, 4]
    nobody = anonymous_users(data)
    assert sorted(nobody) == [f"anonymous:{row}" for row in range(1, 7)]
    assert data.events["user_id"].isin(nobody).sum() == 6
    assert data.users.set_index("user_id")["is_anonymous"]["Joshua"] == "0"
    catalog = build_catalog(data, data.events, 8)
    assert catalog.event_counts.tolist() == [4, 4]
    assert build_schema(data, data.events, catalog, TrainConfig()).user_attributes["is_anonymous"] == ("0", "1")


def test_copies_of_an_anonymous_review_are_found_though_each_would_have_its_own_user(tmp_path: Path) -> None:
    anonymous = review(reviews__username="")
    data = load(tmp_path, anonymous, anonymous, review(), review(), review(reviews__text="other"))
    assert len(data.events) == 3  # the same name, product, day and rating with another text is another review
    assert data.report.count("events", "exact duplicate of an anonymous review") == 1
    assert data.report.count("events", "exact duplicate") == 1


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"id": ""}, "dropped", "missing item_id"),
        ({"reviews__date": ""}, "dropped", "missing timestamp"),
        ({"reviews__date": "soon"}, "dropped", "unparsable timestamp"),
        ({"reviews__rating": ""}, "warning", "no rating: kept without a value"),
        ({"reviews__rating": "9"}, "warning", "rating is not between 1 and 5: read as none"),
        ({"reviews__rating": "five"}, "warning", "value is no finite number: read as none"),
    ],
)
def test_a_bad_row_is_counted_with_its_number(tmp_path: Path, changes: dict[str, str], kind: str, reason: str) -> None:
    data = load(tmp_path, review(), review(**({"reviews__username": "b"} | changes)))
    [finding] = data.report.findings
    assert (finding.kind, finding.reason, finding.count) == (kind, reason, 1)
    assert finding.examples[0].startswith("events row 2:")
    assert len(data.events) == (1 if kind == "dropped" else 2)
    if kind == "warning":
        assert np.isnan(data.events["value"]).sum() == 1


def test_what_the_products_rows_disagree_about_is_settled_by_most_of_them(tmp_path: Path) -> None:
    said = [{"name": "Comb", "reviews__userCity": "A"}, {"name": "Comb"}, {"name": "comb!"}]
    data = load(tmp_path, *[review(reviews__text=str(at), **changes) for at, changes in enumerate(said)])
    assert data.items["title"].tolist() == ["Comb"]
    assert data.users["city"].tolist() == ["Los Angeles"]


def test_a_missing_column_another_file_and_a_file_of_no_product_are_one_clear_error(tmp_path: Path) -> None:
    folder = written(tmp_path, review(id=""))
    with pytest.raises(DataError, match="no review of a product is left"):
        load_dataset("amazon-reviews", folder)
    file = folder / "GrammarandProductReviews.csv"
    pd.read_csv(file, dtype=str).drop(columns="reviews.date").to_csv(file, index=False)
    with pytest.raises(DataError, match=r"GrammarandProductReviews.csv: column 'reviews.date' is missing"):
        load_dataset("auto", folder)
    file.rename(folder / "a.csv")
    (folder / "b.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match=r"expected one .* found a.csv, b.csv"):
        load_dataset("amazon-reviews", folder)


def many(users: int = 24, products: int = 8, anonymous: int = 10) -> list[dict[str, Any]]:
    """Each named user reviews four products, a day apart; words follow the product."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(users + anonymous):
        name = f"user {user}" if user < users else ""
        for day, product in enumerate(rng.choice(products, 4 if name else 1, replace=False)):
            rows.append(
                review(
                    id=f"P{product}",
                    name=f"Thing {product}",
                    categories=f"Home,Kind {product % 3}",
                    reviews__username=name,
                    reviews__date=f"2016-01-{1 + day + user % 9:02d}T00:00:00.000Z",
                    reviews__rating=str(1 + (user + product) % 5),
                    reviews__title=f"word{product} from {user}",
                    reviews__text=f"plain text of writer{user}",
                )
            )
    return rows


def test_a_small_file_goes_through_all_that_training_reads(tmp_path: Path) -> None:
    data = load(tmp_path, *many())
    config = TrainConfig()
    split = split_data(config, data)
    assert split.detail["users_all_in_train"] == 10  # nobody is asked what nobody known reviewed next
    catalog = build_catalog(data, split.train, config.features.most_codes)
    schema = build_schema(data, split.train, catalog, config)
    assert set(catalog.codes) == {"categories", "creator", "manufacturer"}
    assert content_vectors(data, catalog.event_counts, 16, 7).shape[0] == 8
    assert make_examples(split.train, catalog, schema, data.users) is not None


def test_tables_written_from_it_read_back_with_their_texts(tmp_path: Path) -> None:
    data = load(tmp_path / "raw", *many(users=3))
    write_tables(data, tmp_path / "tables")
    again = load_dataset("auto", tmp_path / "tables")
    assert again.schema == data.schema
    for table in ("events", "items", "users"):
        pd.testing.assert_frame_equal(getattr(again, table), getattr(data, table))


def test_an_items_text_gains_training_reviews_alone_newest_first_and_no_more_than_wanted(tmp_path: Path) -> None:
    rows = [
        review(reviews__date=f"2016-01-0{day}", reviews__title=title, reviews__text="x", manufacturer="")
        for day, title in enumerate(["first", "second", "held-out"], start=1)
    ]
    data = load(tmp_path, *rows)
    train = data.events.iloc[:2]
    assert with_review_texts(data, train, 1000).items["text"].tolist() == ["second\nx\nfirst\nx"]
    assert with_review_texts(data, train, 9).items["text"].tolist() == ["second\nx"]
    assert with_review_texts(data, train, 0) is data


def test_rating_models_average_the_reviews_own_texts_of_before_and_no_held_out_one(tmp_path: Path) -> None:
    data = load(tmp_path, *many())
    nobody = anonymous_users(data)
    split = random_within_user(data.events, 0.25, seed=0)
    inputs = RatingInputSettings(als_factors=4, text_dims=8)

    def prepared(train: pd.DataFrame, test: pd.DataFrame) -> Any:
        return prepare_ratings(data, (train, test.iloc[:0], test), inputs, 0)

    one = prepared(split.train, split.test)
    first = ~split.train["user_id"].duplicated().to_numpy() & ~split.train["user_id"].isin(nobody).to_numpy()
    assert not one.train.text[first].any()
    anonymous = split.train["user_id"].isin(nobody).to_numpy()
    assert one.features.anonymous.sum() == len(nobody) == anonymous.sum()
    assert (one.train.text[anonymous] == one.train.text[anonymous][0]).all()
    assert one.train.text[anonymous].any()
    assert not one.features.user_als[one.features.anonymous].any()
    other = prepared(split.train, split.test.assign(text="told", value=1.0))
    np.testing.assert_array_equal(one.train.text, other.train.text)
    np.testing.assert_array_equal(one.test.text, other.test.text)
    # A user's words, not the product's: they change with what the user wrote before.
    changed = prepared(split.train.assign(text=split.train["text"].to_numpy()[::-1]), split.test)
    assert (changed.train.text != one.train.text).any()
    np.testing.assert_array_equal(changed.features.item_text, one.features.item_text)


def test_the_comparison_of_rating_models_runs_on_reviews(tmp_path: Path) -> None:
    training = RatingTraining(epochs=1)
    config = RatingConfig(
        inputs=RatingInputSettings(als_factors=4, text_dims=8),
        factors_training=training,
        towers_training=training,
        id_training=training,
        pair_training=training,
    )
    found = compare(load(tmp_path, *many()), config, Progress())
    assert sum(found.ratings.values()) == 24 * 4 + 10
