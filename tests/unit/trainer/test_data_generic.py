"""Anybody's tables: by our names, by columns.toml, as a triple, and back again after writing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tandem_trainer.data import DataError, Dataset, SyntheticConfig, TableSchema, load_dataset, validate, write_tables
from tandem_trainer.data.synthetic import generate
from tandem_trainer.split import SplitError, global_time

T0 = 1_700_000_000_000
PLAIN = "user_id,item_id,timestamp,event_type,value\n1,7,1700000000000,view,0.5\n2,NA,1700000000001,click,\n"


def assert_same(one: Dataset, other: Dataset) -> None:
    assert (one.name, one.schema) == (other.name, other.schema)
    for table in ("events", "items", "users"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table))


def test_plain_csv_in_our_names_needs_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(PLAIN)
    data = load_dataset("tables", tmp_path)
    assert data.events["item_id"].tolist() == ["7", "NA"]  # NA is an id like any other
    assert data.events["value"].isna().tolist() == [False, True]
    assert data.users["user_id"].tolist() == ["1", "2"]


def test_a_mapping_renames_declares_and_joins_columns(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("uid,sku,at,action\nu1,7.0,2023-11-14T22:13:20Z,buy\nu2,,2023-11-14,buy\n")
    (tmp_path / "items.csv").write_text(
        "sku,name,genres,weight,brand,blurb,tagline,embedding\n"
        '7,Lamp,a;b,1.5,Acme,Bright.,"Very, very.","[0.5, 1]"\n8,Desk,,,,,,\n'
    )
    (tmp_path / "users.csv").write_text("user_id,age,city\nu1,18,Ulm\nu2,25,\n")
    (tmp_path / "columns.toml").write_text(
        """
        name = "shop"
        time_unit = "iso"
        categories_separator = ";"
        [events]
        file = "log.csv"
        columns = { user_id = "uid", item_id = "sku", timestamp = "at", event_type = "action" }
        [items]
        columns = { item_id = "sku", title = "name", categories = "genres" }
        numeric = ["weight"]
        categorical = ["brand"]
        text = ["blurb", "tagline"]
        vector = ["embedding"]
        [users]
        attributes = ["age", "city"]
        segments = [["age", "city"], ["age"]]
        """
    )
    data = load_dataset("tables", tmp_path)
    assert data.name == "shop"
    assert data.events.drop(columns="value").to_numpy().tolist() == [["u1", "7", T0, "buy"]]
    lamp, desk = data.items.to_dict("records")
    assert (lamp["title"], lamp["categories"], lamp["weight"], lamp["brand"]) == ("Lamp", ["a", "b"], 1.5, "Acme")
    assert lamp["text"] == "Bright. Very, very."
    np.testing.assert_array_equal(lamp["embedding"], np.array([0.5, 1], dtype=np.float32))
    assert (desk["text"], desk["brand"], desk["embedding"], desk["categories"]) == ("", None, None, [])
    assert data.users["city"].tolist() == ["Ulm", None]
    assert data.schema.segments == (("age", "city"), ("age",))
    assert data.report.sources == {"events": "log.csv", "items": "items.csv", "users": "users.csv"}


def test_a_mapping_may_swap_names(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(PLAIN)
    (tmp_path / "columns.toml").write_text('[events.columns]\nuser_id = "item_id"\nitem_id = "user_id"\n')
    assert load_dataset("tables", tmp_path).events["user_id"].tolist() == ["7", "NA"]


def test_seconds_are_read_as_seconds_when_the_mapping_says_so(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,event_type\nu,i,1700000000,view\n")
    (tmp_path / "columns.toml").write_text('time_unit = "s"\n')
    assert load_dataset("tables", tmp_path).events["timestamp"].tolist() == [T0]


def test_the_parquet_triple_has_no_times_and_says_so(tmp_path: Path) -> None:
    pairs = pd.DataFrame({"user_id": ["u2", "u1", "u1"], "item_id": ["b", "b", "a"], "implicit": 1})
    pairs.to_parquet(tmp_path / "interactions.parquet")
    users = pd.DataFrame({"user_id": ["u1", "u2"], "age_bucket": ["18-24", "55+"], "gender": ["f", "m"]})
    users.to_parquet(tmp_path / "users.parquet")
    items = pd.DataFrame({"item_id": ["a", "b"], "category": ["x", "y"], "price_bucket": ["low", "high"]})
    items.to_parquet(tmp_path / "items.parquet")
    data = load_dataset("tables", tmp_path)
    assert data.events["item_id"].tolist() == ["b", "b", "a"]  # the order of the file
    assert (data.events["timestamp"] == 0).all()
    assert data.report.count("events", "no timestamp: all at time 0, order of the file kept") == 3
    assert data.items["categories"].tolist() == [["x"], ["y"]]
    assert data.items["price_bucket"].tolist() == ["low", "high"]
    assert data.schema.segments[0] == ("age_bucket", "gender")
    with pytest.raises(SplitError, match="1 different times"):
        global_time(data.events)


def test_events_without_a_time_need_it_said(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,event_type\nu,i,view\n")
    with pytest.raises(DataError, match=r"events\.csv: column 'timestamp' is missing.*time_unit = \"none\""):
        load_dataset("tables", tmp_path)
    (tmp_path / "columns.toml").write_text('time_unit = "none"\n')
    assert load_dataset("tables", tmp_path).events["timestamp"].tolist() == [0]


def test_events_without_a_type_need_a_default(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(f"user_id,item_id,timestamp\nu,i,{T0}\n")
    with pytest.raises(DataError, match=r"column 'event_type' is missing.*default_event_type"):
        load_dataset("tables", tmp_path)
    (tmp_path / "columns.toml").write_text('[events]\ndefault_event_type = "purchase"\n')
    assert load_dataset("tables", tmp_path).events["event_type"].tolist() == ["purchase"]


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("nmae = 'x'", "unknown key 'nmae'; known: name"),
        ("[items]\nnumerics = []", "unknown key 'items.numerics'"),
        ("[events.columns]\nuser = 'x'", "'user' is none of user_id"),
        ("[events.columns]\nuser_id = 3", "user_id must be the name of a column"),
        ("time_unit = 'hours'", "time_unit 'hours' is none of s, ms, iso, none"),
        ("name = ", "columns.toml: cannot be parsed"),
        ("[items]\nnumeric = [1]", "numeric must be a list of column names"),
        ("[items]\nnumeric = 'year'", "items.numeric must be of type list"),
        ("[users]\nsegments = ['age']", "segments must be a list"),
        ("[users]\nsegments = [['age']]", "no user attribute"),
        ("[events.columns]\nvalue = 'stars'", "events.csv: column 'stars' is missing; it has .*event_type"),
        ("[items]\nfile = 'things.csv'", "things.csv: no such file"),
        ("[events]\nfile = '../events.csv'", "lies outside the folder"),
    ],
)
def test_a_wrong_mapping_is_one_clear_error(tmp_path: Path, toml: str, message: str) -> None:
    (tmp_path / "events.csv").write_text(PLAIN)
    (tmp_path / "columns.toml").write_text(toml)
    with pytest.raises(DataError, match=message):
        load_dataset("tables", tmp_path)


def test_unreadable_and_ambiguous_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no events table"):
        load_dataset("tables", tmp_path)
    (tmp_path / "events.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"events\.parquet: not a readable Parquet file"):
        load_dataset("tables", tmp_path)
    (tmp_path / "events.csv").write_text(PLAIN)
    with pytest.raises(DataError, match=r"both events\.parquet and events\.csv"):
        load_dataset("tables", tmp_path)
    (tmp_path / "events.parquet").unlink()
    (tmp_path / "events.csv").write_text(PLAIN + "1,2,3,4,5,6,7\n")
    with pytest.raises(DataError, match=r"events\.csv: cannot be parsed.*line 4"):
        load_dataset("tables", tmp_path)
    (tmp_path / "events.csv").write_text(PLAIN.splitlines()[0])
    with pytest.raises(DataError, match=r"events\.csv: the table is empty"):
        load_dataset("tables", tmp_path)
    (tmp_path / "events.csv").write_bytes(PLAIN.encode() + b"\xff,1,1,view,1\n")
    with pytest.raises(DataError, match=r"events\.csv: not utf-8 text"):
        load_dataset("tables", tmp_path)


def test_synthetic_tables_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    data = generate(SyntheticConfig(n_users=60, n_items=40))
    write_tables(data, tmp_path / "out")
    assert_same(load_dataset("tables", tmp_path / "out"), data)


def test_vectors_numbers_gaps_and_odd_names_come_back_from_disk(tmp_path: Path) -> None:
    rows: list[tuple[Any, ...]] = [("ü", "i1", T0, "view", 1.5), ("u", "i2", T0, "like", None), ("u", "x", T0, "a", 1)]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event_type", "value"])
    items = pd.DataFrame({"item_id": ["i1", "i2"], "v": [[1.0, 2.0], None], 'odd "n"': [1.0, None], "c": ["x", None]})
    schema = TableSchema(item_vector=("v",), item_numeric=('odd "n"',), item_categorical=("c",))
    data = validate(events, items, None, schema, name='a "name"')
    write_tables(data, tmp_path)
    assert_same(load_dataset("tables", tmp_path), data)


def test_facts_of_requests_are_text_columns_of_events_that_a_mapping_names(tmp_path: Path) -> None:
    rows = ["u,7,1,view,phone,2,x", "u,8,2,view,,,x", "u,8,2,view,tv,,x", "u,8,2,view,tv,,y"]
    (tmp_path / "events.csv").write_text(
        "\n".join(["user_id,item_id,timestamp,event_type,device,version,other", *rows])
    )
    (tmp_path / "columns.toml").write_text('[events]\ncontext = ["device", "version"]\n')
    data = load_dataset("tables", tmp_path)
    assert data.schema.event_context == ("device", "version")
    # The same event on another device is another event; what is not named is not kept.
    assert data.events["device"].tolist() == ["phone", None, "tv"]
    assert data.events["version"].tolist() == ["2", None, None]
    assert "other" not in data.events
    write_tables(data, tmp_path / "out")
    assert_same(load_dataset("tables", tmp_path / "out"), data)


@pytest.mark.parametrize(
    ("context", "problem"),
    [
        ('["devise"]', "events.csv: column 'devise' is missing"),
        ('["value"]', "column 'value' is declared twice"),
        ('["device", "device"]', "column 'device' is declared twice"),
        ('"device"', "events.context must be of type list"),
    ],
)
def test_facts_that_events_can_not_have_are_refused(tmp_path: Path, context: str, problem: str) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,event_type,value,device\nu,7,1,view,1,phone\n")
    (tmp_path / "columns.toml").write_text(f"[events]\ncontext = {context}\n")
    with pytest.raises(DataError, match=problem):
        load_dataset("tables", tmp_path)


def test_what_users_wrote_is_joined_from_the_columns_a_mapping_names(tmp_path: Path) -> None:
    rows = ["u,7,1,rating,Fine,Works.", "u,8,2,rating,,Too small.", "v,7,3,rating,,"]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,timestamp,event_type,head,body", *rows]))
    (tmp_path / "columns.toml").write_text('[events]\ntext = ["head", "body"]\n')
    assert load_dataset("tables", tmp_path).events["text"].tolist() == ["Fine Works.", "Too small.", ""]
    (tmp_path / "columns.toml").write_text('[events]\ntext = ["head", "review"]\n')
    with pytest.raises(DataError, match=r"events.csv: column 'review' is missing"):
        load_dataset("tables", tmp_path)
