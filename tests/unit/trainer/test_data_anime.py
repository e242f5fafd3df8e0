"""The anime ratings in the publisher's format, from rows written here: the files themselves were not at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tandem_trainer.config import TrainConfig
from tandem_trainer.content import content_vectors
from tandem_trainer.data import DataError, detect, load_dataset
from tandem_trainer.examples import make_examples
from tandem_trainer.inputs import split_data
from tandem_trainer.prepare import build_catalog, build_schema
from tandem_trainer.split import SplitError, global_time
from tandem_trainer.studies.unseen import TIMELESS, notes_on

ANIME = """anime_id,name,genre,type,episodes,rating,members
20,Naruto,"Action, Comedy, Martial Arts, Shounen, Super Power",TV,220,7.81,683297
28977,Gintama&deg;,"Action, Comedy, Sci-Fi",TV,51,9.25,114262
9969,Gintama&#039;,"Action, Comedy, Sci-Fi",TV,Unknown,9.16,151266
34491,"Steins;Gate 0, the film",,,,,60999
7,Witch Hunter Robin,Drama,Movie,1,7.36,64905
"""
RATINGS = ["1,20,-1", "1,28977,10", "1,9969,8", "2,20,7", "3,20,6", "3,7,9", "3,28977,-1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path, RATINGS)


def written(folder: Path, ratings: list[str], anime: str = ANIME) -> Path:
    (folder / "anime.csv").write_text(anime, encoding="utf-8")
    (folder / "rating.csv").write_text("\n".join(["user_id,anime_id,rating", *ratings]) + "\n", encoding="utf-8")
    return folder


def test_ratings_and_anime_become_tables_with_genres_type_and_numbers(folder: Path) -> None:
    assert detect(folder) == "anime"
    data = load_dataset("auto", folder)
    rated = data.events.set_index(["user_id", "item_id"])["value"].to_dict()
    assert rated == {("1", "28977"): 10, ("1", "9969"): 8, ("3", "20"): 6, ("3", "7"): 9}
    assert set(data.events["event_type"]) == {"rating"}
    items = data.items.set_index("item_id")
    assert items["title"].tolist() == [
        "Naruto", "Gintama°", "Gintama'", "Steins;Gate 0, the film", "Witch Hunter Robin",
    ]  # fmt: skip
    assert items["categories"]["28977"] == ["Action", "Comedy", "Sci-Fi"]
    assert items["categories"]["34491"] == []
    assert items["type"].tolist() == ["TV", "TV", "TV", None, "Movie"]
    np.testing.assert_array_equal(items["episodes"], [220, 51, np.nan, np.nan, 1])
    np.testing.assert_array_equal(items["average_anime_rating"], [7.81, 9.25, 9.16, np.nan, 7.36])
    assert items["members"]["20"] == 683297
    assert data.report.checks["items without events"] == 1


def test_watched_but_unrated_and_users_of_one_rating_are_dropped_and_counted(folder: Path) -> None:
    report = load_dataset("anime", folder).report
    dropped = {finding.reason: finding.count for finding in report.dropped}
    assert dropped == {"rating -1: watched and not rated": 2, "user with a single rating": 1}
    assert (report.rows_read["events"], report.users, report.events) == (7, 2, 4)
    assert report.count("items", "episodes is missing") == 2
    assert any("dropped  2 events: rating -1" in line for line in report.lines())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("1,31000,5", "anime_id is not in anime.csv"),
        ("1,20,11", "rating is no number from 1 to 10"),
        ("1,20,0", "rating is no number from 1 to 10"),
        ("1,20,good", "rating is no number from 1 to 10"),
        ("1,20,", "rating is no number from 1 to 10"),
        (",20,5", "missing user_id"),
        ("1,,5", "missing item_id"),
        ("1,9969,3", "same user and anime again: first rating kept"),
    ],
)
def test_a_bad_rating_is_dropped_and_counted_with_its_row(tmp_path: Path, row: str, reason: str) -> None:
    data = load_dataset("anime", written(tmp_path, ["1,28977,10", "1,9969,8", row]))
    [finding] = data.report.dropped
    assert (finding.reason, finding.count) == (reason, 1)
    assert finding.examples[0].startswith("events row 3:")
    assert sorted(data.events["value"]) == [8, 10]


def test_the_lack_of_times_is_said_loudly_and_a_split_by_time_is_refused(folder: Path) -> None:
    data = load_dataset("anime", folder)
    assert set(data.events["timestamp"]) == {0}
    [warning] = [finding for finding in data.report.warnings if "no timestamp" in finding.reason]
    assert warning.count == len(data.events)
    with pytest.raises(SplitError, match="too few to cut at"):
        global_time(data.events)
    assert TIMELESS in notes_on(data)
    assert TIMELESS not in notes_on(replace(data, events=data.events.assign(timestamp=range(len(data.events)))))


def test_the_last_rating_of_a_user_is_one_at_random_and_the_same_one_each_time(tmp_path: Path) -> None:
    n = 60
    anime = ANIME.splitlines()[0] + "\n" + "".join(f"{a},Name {a},Drama,TV,1,7.0,100\n" for a in range(1, n + 1))
    folder = written(tmp_path, [f"{u},{a},{1 + a % 10}" for u in range(40) for a in range(1, n + 1)], anime)
    last = [load_dataset("anime", folder).events.groupby("user_id")["item_id"].last().astype(int) for _ in range(2)]
    pd.testing.assert_series_equal(*last)
    assert last[0].nunique() > 15  # in the order of the file it would be the newest anime for all


def test_a_missing_file_or_column_and_data_without_ratings_are_one_clear_error(tmp_path: Path) -> None:
    written(tmp_path, ["1,20,-1", "2,20,5"])
    with pytest.raises(DataError, match=r"rating.csv: no rating is left: 1 x rating -1.*1 x user with a single"):
        load_dataset("anime", tmp_path)
    (tmp_path / "anime.csv").write_text(ANIME.replace("genre", "genres"))
    with pytest.raises(DataError, match=r"anime.csv: column 'genre' is missing"):
        load_dataset("anime", tmp_path)
    (tmp_path / "anime.csv").unlink()
    with pytest.raises(DataError, match=r"anime.csv: no such file"):
        load_dataset("anime", tmp_path)


def test_a_small_set_goes_through_all_that_training_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{u},{a},{rng.integers(1, 11)}" for u in range(30) for a in (20, 28977, 9969, 7) if rng.random() < 0.9]
    data = load_dataset("anime", written(tmp_path, rows))
    config = TrainConfig()
    split = split_data(config, data)
    catalog = build_catalog(data, split.train, config.features.most_codes)
    schema = build_schema(data, split.train, catalog, config)
    assert {"categories", "type"} <= set(catalog.codes)
    assert set(schema.item_numbers) == {"episodes", "members", "average_anime_rating"}
    assert content_vectors(data, catalog.event_counts, 8, 7).shape[0] == 5
    assert make_examples(split.train, catalog, schema, data.users) is not None
