"""The one door: what `validate` keeps, drops, counts and refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_trainer.data import DataError, Dataset, TableSchema, filter_min_interactions, validate

T0 = 1_700_000_000_000
DAY = 86_400_000


def events(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    """Rows of user_id, item_id, timestamp, event_type, value."""
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event_type", "value"])


def clean(rows: list[tuple[Any, ...]], items: Any = None, users: Any = None, **options: Any) -> Dataset:
    schema = options.pop("schema", TableSchema())
    return validate(events(rows), items, users, schema, name="t", **options)


GOOD = ("u1", "i1", T0, "view", 1.0)


def test_clean_tables_have_exactly_the_promised_columns_and_types() -> None:
    items = pd.DataFrame({"item_id": ["i1"], "categories": [["a", "b"]], "price": [2], "brand": ["x"], "more": [1]})
    users = pd.DataFrame({"user_id": ["u1"], "country": ["GB"], "more": [1]})
    schema = TableSchema(item_categorical=("brand",), user_attributes=("country",), segments=(("country",),))
    data = clean([GOOD], items, users, schema=schema)
    assert list(data.events) == ["user_id", "item_id", "timestamp", "event_type", "value"]
    assert data.events["timestamp"].dtype == np.int64
    assert data.events["value"].dtype == np.float32
    assert list(data.items) == [
        "item_id", "title", "text", "categories", "creator", "created_at", "price", "brand",
    ]  # fmt: skip
    row = data.items.iloc[0]
    assert (row["title"], row["text"], row["categories"], row["creator"]) == ("", "", ["a", "b"], None)
    assert row["created_at"] is pd.NA
    assert data.items["created_at"].dtype == "Int64"
    assert list(data.users) == ["user_id", "country"]


def test_events_are_sorted_by_time_and_ties_keep_the_order_of_the_file() -> None:
    data = clean([("u", "c", T0 + 1, "view", 1), ("u", "b", T0, "view", 1), ("u", "a", T0, "view", 1)])
    assert data.events["item_id"].tolist() == ["b", "a", "c"]
    assert data.events.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((None, "i", T0, "view", 1), "missing user_id"),
        (("u", "", T0, "view", 1), "missing item_id"),
        (("u", " ", T0, "view", 1), "missing item_id"),
        (("u", "i", None, "view", 1), "missing timestamp"),
        (("u", "i", "soon", "view", 1), "unparsable timestamp"),
        (("u", "i", -1, "view", 1), "impossible timestamp: before 1970"),
        (("u", "i", T0 + 2 * DAY, "view", 1), "impossible timestamp: in the future"),
        (("u", "i", 10**30, "view", 1), "impossible timestamp: in the future"),
        (("u", "i", T0, "", 1), "missing event type"),
        (GOOD, "exact duplicate"),
    ],
)
def test_a_bad_event_is_dropped_counted_and_shown_with_its_row(row: tuple[Any, ...], reason: str) -> None:
    data = clean([GOOD, row], now_ms=T0)
    assert len(data.events) == 1
    [finding] = data.report.dropped
    assert (finding.table, finding.reason, finding.count) == ("events", reason, 1)
    assert finding.examples[0].startswith("events row 2: ")


def test_a_report_shows_the_first_three_examples_and_counts_all() -> None:
    data = clean([GOOD, *[("u", None, T0, "view", 1)] * 5])
    [finding] = data.report.dropped
    assert finding.count == 5
    assert [example.split(":")[0] for example in finding.examples] == [f"events row {n}" for n in (2, 3, 4)]


def test_rows_an_adapter_dropped_before_do_not_shift_row_numbers() -> None:
    raw = events([GOOD, GOOD, ("u", None, T0, "view", 1)]).iloc[1:]
    report = validate(raw, None, None, TableSchema(), name="t").report
    assert report.dropped[0].examples[0].startswith("events row 3")


def test_without_a_clock_the_future_is_not_judged_but_the_year_10000_is_refused() -> None:
    data = clean([("u", "i", T0 * 10, "view", 1), ("u", "i", 10**15, "view", 1)])
    assert len(data.events) == 1


def test_the_same_event_with_another_value_is_no_duplicate() -> None:
    assert len(clean([GOOD, (*GOOD[:4], 2.0), (*GOOD[:4], None)]).events) == 3


def test_missing_values_count_as_equal_when_duplicates_are_sought() -> None:
    assert len(clean([(*GOOD[:4], None), (*GOOD[:4], None)]).events) == 1


def test_a_value_that_is_no_number_becomes_none_with_a_warning() -> None:
    data = clean([(*GOOD[:4], "many"), ("u1", "i2", T0, "view", "2.5")])
    assert np.isnan(data.events["value"][0])
    assert data.events["value"][1] == 2.5
    assert data.report.count("events", "value is no finite number: read as none") == 1


def test_the_first_of_several_rows_of_an_item_or_user_is_kept() -> None:
    items = pd.DataFrame({"item_id": ["i1", "i1"], "title": ["first", "second"]})
    users = pd.DataFrame({"user_id": ["u1", "u1", "u1"]})
    data = clean([GOOD], items, users)
    assert data.items["title"].tolist() == ["first"]
    assert data.report.count("items", "duplicate item_id: first kept") == 1
    assert data.report.count("users", "duplicate user_id: first kept") == 2


def test_an_event_on_an_unknown_item_is_kept_with_an_empty_item_row() -> None:
    items = pd.DataFrame({"item_id": ["i1"], "title": ["one"], "brand": ["x"], "size": [3.0]})
    schema = TableSchema(item_categorical=("brand",), item_numeric=("size",))
    data = clean([GOOD, ("u1", "new", T0, "view", 1), ("u2", "new", T0, "view", 1)], items, schema=schema)
    stub = data.items.iloc[1]
    assert (stub["item_id"], stub["title"], stub["categories"], stub["brand"]) == ("new", "", [], None)
    assert np.isnan(stub["size"])
    assert data.report.count("events", "unknown item_id: kept, an empty row added to its table") == 2
    assert len(data.events) == 3


def test_tables_that_were_not_given_are_made_from_the_events_without_a_warning() -> None:
    data = clean([GOOD, ("u2", "i1", T0, "view", 1)])
    assert data.users["user_id"].tolist() == ["u1", "u2"]
    assert data.items["item_id"].tolist() == ["i1"]
    assert data.report.warnings == ()


def test_items_and_users_without_events_stay() -> None:
    data = clean([GOOD], pd.DataFrame({"item_id": ["cold", "i1"]}), pd.DataFrame({"user_id": ["cold", "u1"]}))
    assert data.report.checks["items without events"] == 1
    assert data.report.checks["users without events"] == 1


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ([1, 2], ["1", "2"]),
        ([1.0, np.nan], ["1"]),
        (["1.0", "2.0"], ["1", "2"]),
        (["1.0", "b"], ["1.0", "b"]),
        (["007", "7"], ["007", "7"]),
        ([1, "a"], ["1", "a"]),
        (["NA", "null"], ["NA", "null"]),
        ([1.5, 2.0], ["1.5", "2"]),
    ],
)
def test_ids_become_strings_as_a_person_would_write_them(raw: list[Any], expected: list[str]) -> None:
    frame = pd.DataFrame({"user_id": "u", "item_id": raw, "timestamp": T0, "event_type": "view"})
    assert validate(frame, None, None, TableSchema(), name="t").events["item_id"].tolist() == expected


def test_categorical_and_nullable_integer_ids_work_too() -> None:
    frame = pd.DataFrame({"timestamp": [T0] * 3, "event_type": "view"})
    frame["user_id"] = pd.Series([1, None, 3], dtype="Int64")
    frame["item_id"] = pd.Categorical(["a", "b", None])
    data = validate(frame, None, None, TableSchema(), name="t")
    assert data.events[["user_id", "item_id"]].to_numpy().tolist() == [["1", "a"]]


def test_float_ids_that_lost_digits_are_refused() -> None:
    frame = pd.DataFrame({"user_id": "u", "item_id": [1.0, 2.0**53], "timestamp": T0, "event_type": "view"})
    with pytest.raises(DataError, match=r"item_id.*row 2.*lost digits"):
        validate(frame, None, None, TableSchema(), name="t")


@pytest.mark.parametrize(
    ("raw", "unit", "expected"),
    [
        (T0, "ms", T0),
        (T0 // 1000, "s", T0),
        (str(T0 // 1000), "s", T0),
        (T0 / 1000 + 0.25, "s", T0 + 250),
        ("2023-11-14T22:13:20Z", "iso", T0),
        ("2023-11-14 22:13:20", "iso", T0),
        ("2023-11-15T00:13:20+02:00", "iso", T0),
        (pd.Timestamp(T0, unit="ms"), "ms", T0),
        (pd.Timestamp(T0, unit="ms", tz="UTC").tz_convert("Asia/Tokyo"), "s", T0),
    ],
)
def test_times_in_any_unit_become_milliseconds(raw: Any, unit: Any, expected: int) -> None:
    assert clean([("u", "i", raw, "view", 1)], time_unit=unit).events["timestamp"].tolist() == [expected]


def test_seconds_taken_for_milliseconds_raise_a_warning() -> None:
    data = clean([("u", "i", T0 // 1000, "view", 1)], time_unit="ms")
    assert any("before 1973" in finding.reason for finding in data.report.warnings)


def test_an_old_film_keeps_its_date_and_a_future_or_unreadable_one_loses_it() -> None:
    items = pd.DataFrame({"item_id": ["i1", "i2", "i3"], "created_at": [-DAY, T0 + 9 * DAY, "?"]})
    data = clean([GOOD], items, now_ms=T0)
    assert data.items["created_at"].tolist() == [-DAY, pd.NA, pd.NA]
    assert data.report.count("items", "impossible created_at: read as unknown") == 1
    assert data.report.count("items", "unparsable created_at: read as unknown") == 1


def test_impossible_prices_and_missing_numbers_are_counted() -> None:
    items = pd.DataFrame({"item_id": ["a", "b", "c"], "price": [-1, "x", 2], "year": [1999, None, "soon"]})
    data = clean([GOOD], items, schema=TableSchema(item_numeric=("year",)))
    assert data.items["price"].isna().tolist() == [True, True, False, True]  # the last one is the stub of i1
    reasons = {finding.reason: finding.count for finding in data.report.warnings}
    assert reasons["negative price: read as missing"] == 1
    assert reasons["price is no finite number: read as missing"] == 1
    assert reasons["year is missing"] == 1
    assert reasons["year is no finite number: read as missing"] == 1


def test_vectors_are_checked_for_length_and_nan_with_their_row() -> None:
    schema = TableSchema(item_vector=("v",))
    good = pd.DataFrame({"item_id": ["i1", "i2"], "v": [[1, 2], None]})
    first, second = clean([GOOD], good, schema=schema).items["v"]
    assert first.dtype == np.float32
    assert second is None
    for bad, message in (([1], "length 1, others have 2"), ([1, float("nan")], "NaN"), (["a", "b"], "not a vector")):
        items = pd.DataFrame({"item_id": ["i1", "i2"], "v": [[1, 2], bad]})
        with pytest.raises(DataError, match=f"row 2.*{message}"):
            clean([GOOD], items, schema=schema)


def test_categories_lose_blanks_and_repeats_but_keep_their_order() -> None:
    items = pd.DataFrame({"item_id": ["i1", "i2", "i3"], "categories": ["b|a||b", None, ["c", None, "c"]]})
    data = clean([GOOD], items, categories_separator="|")
    assert data.items["categories"].tolist() == [["b", "a"], [], ["c"]]


@pytest.mark.parametrize("dtype", [object, "boolean"])
def test_booleans_are_the_texts_that_requests_and_live_items_send(dtype: Any) -> None:
    users = pd.DataFrame({"user_id": ["u1", "u2", "u3"], "member": pd.Series([True, None, False], dtype=dtype)})
    items = pd.DataFrame({"item_id": ["i1", "i2"], "vegan": [True, False]})
    data = clean([GOOD], items, users, schema=TableSchema(user_attributes=("member",), item_categorical=("vegan",)))
    assert data.users["member"].tolist() == ["true", None, "false"]
    assert data.items["vegan"].tolist() == ["true", "false"]


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp", "event_type"])
def test_a_missing_events_column_is_named(column: str) -> None:
    with pytest.raises(DataError, match=f"column '{column}' is missing"):
        validate(events([GOOD]).drop(columns=column), None, None, TableSchema(), name="t")


def test_a_declared_column_that_is_missing_is_named() -> None:
    with pytest.raises(DataError, match="column 'year' is missing"):
        clean([GOOD], pd.DataFrame({"item_id": ["i1"]}), schema=TableSchema(item_numeric=("year",)))
    with pytest.raises(DataError, match="column 'age' is missing"):
        clean([GOOD], None, pd.DataFrame({"user_id": ["u1"]}), schema=TableSchema(user_attributes=("age",)))


def test_no_events_or_none_usable_is_an_error_that_says_why() -> None:
    with pytest.raises(DataError, match="empty"):
        clean([])
    with pytest.raises(DataError, match=r"no usable event.*missing user_id.*row 1"):
        clean([(None, "i", T0, "view", 1)])


def test_a_schema_refuses_unknown_segments_and_columns_declared_twice() -> None:
    with pytest.raises(DataError, match="no user attribute"):
        TableSchema(user_attributes=("age",), segments=(("gender",),))
    with pytest.raises(DataError, match="twice"):
        TableSchema(item_numeric=("price",))


def test_the_report_is_json_and_readable_lines() -> None:
    report = clean([GOOD, ("u", None, T0, "view", 1)]).report
    again = json.loads(json.dumps(report.to_json()))
    assert again["dropped"][0]["reason"] == "missing item_id"
    assert again["rows_read"] == {"events": 2}
    assert report.lines()[0] == "t: 1 users, 1 items, 1 events"
    assert any("dropped  1 events: missing item_id" in line for line in report.lines())


def test_events_before_an_items_creation_are_pointed_out() -> None:
    items = pd.DataFrame({"item_id": ["i1", "i2"], "created_at": [T0 + 1, T0]})
    data = clean([GOOD, ("u1", "i2", T0, "view", 1)], items)
    assert data.report.checks["items with an event before created_at"] == 1


def test_the_minimum_filter_takes_items_first_then_users_in_one_pass() -> None:
    rows = [("u1", "a", T0, "view", 1), ("u2", "a", T0, "view", 1), ("u2", "b", T0, "view", 1)]
    items = pd.DataFrame({"item_id": ["a", "b", "cold"]})
    data = filter_min_interactions(clean(rows, items), min_item_events=2, min_user_events=1)
    assert data.items["item_id"].tolist() == ["a"]
    assert data.users["user_id"].tolist() == ["u1", "u2"]
    assert len(data.events) == data.report.events == 2
    assert data.report.count("events", "items with fewer than 2 events") == 1
    assert data.report.count("items", "fewer than 2 events") == 2
    one_pass = filter_min_interactions(clean(rows, items), min_item_events=1, min_user_events=2)
    assert one_pass.items["item_id"].tolist() == ["a", "b"]  # a has one event left, and stays
    assert one_pass.users["user_id"].tolist() == ["u2"]


def test_a_filter_of_zero_changes_nothing_and_one_that_empties_the_data_is_refused() -> None:
    data = clean([GOOD], pd.DataFrame({"item_id": ["i1", "cold"]}))
    same = filter_min_interactions(data)
    pd.testing.assert_frame_equal(same.items, data.items)
    assert same.report.to_json() == data.report.to_json()
    with pytest.raises(DataError, match="no event is left"):
        filter_min_interactions(data, min_user_events=2)
    with pytest.raises(DataError, match="0 or more"):
        filter_min_interactions(data, min_item_events=-1)


_id = st.sampled_from(["a", "b", "c", "", None])
_time = st.sampled_from([T0, T0 + 1, -5, None, "soon", 10**18])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_id, _id, _time, st.sampled_from(["view", "", None]), st.none()), max_size=12))
def test_kept_and_dropped_events_are_all_that_was_given(rows: list[tuple[Any, ...]]) -> None:
    data = clean([GOOD, *rows])
    dropped = sum(finding.count for finding in data.report.dropped)
    assert len(data.events) + dropped == len(rows) + 1
    assert set(data.events["item_id"]) <= set(data.items["item_id"])
    assert set(data.events["user_id"]) <= set(data.users["user_id"])
    assert data.events["timestamp"].is_monotonic_increasing
    assert not data.events.duplicated().any()
