"""MovieLens in all three formats, from files written here; the real ones where TANDEM_DATA_DIR has them."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from tandem_trainer.data import DataError, filter_min_interactions, load_dataset

DATA = os.environ.get("TANDEM_DATA_DIR", "")
needs_real_data = pytest.mark.skipif(not DATA, reason="needs MovieLens itself: set TANDEM_DATA_DIR to its folder")


@pytest.fixture
def ml_1m(tmp_path: Path) -> Path:
    (tmp_path / "ratings.dat").write_text("1::10::5::978300760\n2::10::3::978300759\n1::20::4::978300760\n")
    movies = "10::Les Misérables: 2000 (1995)::Drama|Musical\n20::What?::Comedy\n30::Cold One (1931)::Drama\n"
    (tmp_path / "movies.dat").write_text(movies, encoding="latin-1")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    return tmp_path


@pytest.fixture
def ml_100k(tmp_path: Path) -> Path:
    (tmp_path / "u.data").write_text("1\t5\t3\t881250949\n2\t5\t4\t881250950\n")
    flags = ["0"] * 19
    flags[1] = flags[18] = "1"
    unknown = ["1"] + ["0"] * 18
    items = [
        ["5", "Café (1939)", "01-Jan-1939", "", "http://x", *flags],
        ["6", "unknown", "", "", "", *unknown],
        ["7", 'A "quoted" one (1990)', "soon", "", "", *unknown],
    ]
    (tmp_path / "u.item").write_text("\n".join("|".join(row) for row in items) + "\n", encoding="latin-1")
    (tmp_path / "u.user").write_text("1|24|M|technician|85711\n2|17|F|student|1\n3|56|F|other|2\n")
    return tmp_path


def test_ml_1m_becomes_tables_with_titles_years_genres_and_readable_occupations(ml_1m: Path) -> None:
    data = load_dataset("ml-1m", ml_1m)
    assert data.events[["user_id", "item_id"]].to_numpy().tolist() == [["2", "10"], ["1", "10"], ["1", "20"]]
    assert data.events["timestamp"].iloc[0] == 978_300_759_000
    assert data.events["value"].tolist() == [3, 5, 4]
    assert set(data.events["event_type"]) == {"rating"}
    first = data.items.iloc[0]
    assert first["title"] == "Les Misérables: 2000 (1995)"
    assert first["categories"] == ["Drama", "Musical"]
    assert first["year"] == 1995
    assert data.items["created_at"].isna().all()  # the first event would be a leak, not metadata
    assert data.users.iloc[1].tolist() == ["2", "56", "M", "self-employed"]
    assert data.schema.segments == (("age", "gender"), ("age",), ("gender",))
    assert data.report.checks["items without events"] == 1


def test_ml_100k_has_release_dates_genre_flags_and_the_age_codes_of_1m(ml_100k: Path) -> None:
    data = load_dataset("ml-100k", ml_100k)
    assert data.items["categories"].tolist() == [["Action", "Western"], [], []]
    assert data.items["title"].tolist() == ["Café (1939)", "unknown", 'A "quoted" one (1990)']
    assert data.items["created_at"][0] == pd.Timestamp("1939-01-01").value // 10**6
    assert data.items["created_at"].isna().tolist() == [False, True, True]
    assert data.report.count("items", "unparsable release date: read as unknown") == 1
    assert data.users["age"].tolist() == ["18", "1", "56"]
    assert data.users["occupation"].tolist() == ["technician", "student", "other"]


def test_ml_latest_keeps_half_stars_and_quoted_titles(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,11,0.5,964982703\n1,12,4.5,964982704\n")
    movies = 'movieId,title,genres\n11,"American President, The (1995)",Comedy|Drama\n12,Odd,(no genres listed)\n'
    (tmp_path / "movies.csv").write_text(movies)
    data = load_dataset("ml-latest", tmp_path)
    assert data.events["value"].tolist() == [0.5, 4.5]
    assert data.items["title"][0] == "American President, The (1995)"
    assert data.items["categories"].tolist() == [["Comedy", "Drama"], []]
    assert data.users["user_id"].tolist() == ["1"]


def test_a_bad_row_is_counted_with_its_line(ml_1m: Path) -> None:
    with (ml_1m / "ratings.dat").open("a") as file:
        file.write("1::30::4::soon\n1::30\n")
    report = load_dataset("ml-1m", ml_1m).report
    assert report.count("events", "unparsable timestamp") == 1
    assert report.dropped[0].examples[0].startswith("events row 5")
    assert report.rows_read["events"] == 5


def test_an_unparsable_file_is_one_error_with_file_and_row(ml_1m: Path) -> None:
    with (ml_1m / "ratings.dat").open("a") as file:
        file.write("1::30::4::978300760::extra\n")
    with pytest.raises(DataError, match=r"ratings\.dat.*line 4"):
        load_dataset("ml-1m", ml_1m)
    (ml_1m / "ratings.dat").write_text("1,10,5,978300760\n")
    with pytest.raises(DataError, match=r"ratings\.dat row 1: 1 fields"):
        load_dataset("ml-1m", ml_1m)
    (ml_1m / "ratings.dat").write_text("")
    with pytest.raises(DataError, match=r"ratings\.dat: the file is empty"):
        load_dataset("ml-1m", ml_1m)
    (ml_1m / "ratings.dat").unlink()
    with pytest.raises(DataError, match=r"ratings\.dat: no such file"):
        load_dataset("ml-1m", ml_1m)


def test_a_tab_inside_a_colon_separated_file_is_named_with_its_row(ml_1m: Path) -> None:
    with (ml_1m / "movies.dat").open("a", encoding="latin-1") as file:
        file.write("40::Tab\there (1999)::Drama\n")
    with pytest.raises(DataError, match=r"movies\.dat row 4: holds a tab"):
        load_dataset("ml-1m", ml_1m)


def test_a_missing_column_of_ml_latest_is_named(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("userId,movieId,timestamp\n1,11,964982703\n")
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n11,A,B\n")
    with pytest.raises(DataError, match=r"ratings\.csv: column 'rating' is missing"):
        load_dataset("ml-latest", tmp_path)


@needs_real_data
def test_the_real_ml_1m_has_its_published_counts_and_those_of_sasrec() -> None:
    data = load_dataset("ml-1m", Path(DATA) / "ml-1m")
    assert (data.report.users, data.report.events) == (6040, 1_000_209)
    assert data.report.findings == ()
    few = filter_min_interactions(data, min_item_events=5)
    assert (few.report.users, few.report.items, few.report.events) == (6040, 3416, 999_611)
    first = few.events[few.events["user_id"] == "1"]["item_id"].head(3).tolist()
    assert first == ["3186", "1270", "1721"]


@needs_real_data
def test_the_real_ml_100k_has_its_published_counts() -> None:
    data = load_dataset("ml-100k", Path(DATA) / "ml-100k")
    assert (data.report.users, data.report.items, data.report.events) == (943, 1682, 100_000)
    assert data.report.dropped == ()
