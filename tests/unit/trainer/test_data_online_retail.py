"""Online Retail in both editions' columns, from rows written here; the real file where it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tandem_trainer.data import DataError, load_dataset

DATA = os.environ.get("TANDEM_DATA_DIR", "")
NAMES = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"]
SECOND_EDITION = {"InvoiceNo": "Invoice", "UnitPrice": "Price", "CustomerID": "Customer ID"}


def sales(*rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=NAMES)


def sale(**changes: Any) -> tuple[Any, ...]:
    """One good row, with some of its fields changed."""
    row = dict(zip(NAMES, ["536365", "85123A", "T-LIGHT", 6, "12/1/2010 8:26", 2.5, 17850, "UK"], strict=True))
    return tuple((row | changes).values())


def test_a_purchase_has_quantity_time_title_price_and_country(tmp_path: Path) -> None:
    sales(sale()).to_csv(tmp_path / "data.csv", index=False)
    data = load_dataset("online-retail", tmp_path)
    expected_time = pd.Timestamp("2010-12-01 08:26").value // 10**6
    assert data.events.iloc[0].tolist() == ["17850", "85123A", expected_time, "purchase", 6.0]
    assert data.items.iloc[0][["title", "price"]].tolist() == ["T-LIGHT", 2.5]
    assert data.users.iloc[0].tolist() == ["17850", "UK"]
    assert data.schema.segments == (("country",),)


def test_both_editions_in_csv_and_parquet_give_the_same_tables(tmp_path: Path) -> None:
    first = sales(sale(InvoiceDate="2010-12-01 08:26:00"), sale(CustomerID=2, InvoiceDate="2010-12-02 08:26:00"))
    second = first.rename(columns=SECOND_EDITION)
    first.to_csv(tmp_path / "a.csv", index=False)
    second.assign(InvoiceDate=pd.to_datetime(second["InvoiceDate"])).to_parquet(tmp_path / "b.parquet")
    one, other = (load_dataset("online-retail", tmp_path / name) for name in ("a.csv", "b.parquet"))
    for table in ("events", "items", "users"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"CustomerID": None}, "missing user_id"),
        ({"CustomerID": 0}, "customer id 0 stands for no customer"),
        ({"StockCode": "POST"}, "stock code is no product: not five digits first"),
        ({"StockCode": "BANK CHARGES"}, "stock code is no product: not five digits first"),
        ({"StockCode": "gift_0001_20"}, "stock code is no product: not five digits first"),
        ({"StockCode": "C2"}, "stock code is no product: not five digits first"),
        ({"InvoiceNo": "C536379"}, "return or cancellation"),
        ({"Quantity": -1}, "return or cancellation"),
        ({"InvoiceDate": "soon"}, "unparsable timestamp"),
    ],
)
def test_what_is_no_purchase_is_dropped_and_counted(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    sales(sale(), sale(**changes)).to_csv(tmp_path / "data.csv", index=False)
    data = load_dataset("online-retail", tmp_path)
    [finding] = data.report.dropped
    assert (finding.reason, finding.count) == (reason, 1)
    assert finding.examples[0].startswith("events row 2:")
    assert data.events["user_id"].tolist() == ["17850"]  # not "17850.0", though the column has a gap


def test_title_is_the_most_common_description_and_price_the_median_of_paid_ones(tmp_path: Path) -> None:
    rows = [
        sale(Description=said, UnitPrice=price, Quantity=n)
        for n, (said, price) in enumerate([("LAMP", 1.0), (" LAMP ", 3.0), ("?", 9.0), (None, 0.0)], start=1)
    ]
    sales(*rows).to_csv(tmp_path / "data.csv", index=False)
    item = load_dataset("online-retail", tmp_path).items.iloc[0]
    assert item["title"] == "LAMP"
    assert item["price"] == 3.0


def test_a_stock_code_in_lower_case_is_the_same_item(tmp_path: Path) -> None:
    sales(sale(), sale(StockCode="85123a", CustomerID=5)).to_csv(tmp_path / "data.csv", index=False)
    data = load_dataset("online-retail", tmp_path)
    assert data.items["item_id"].tolist() == ["85123A"]
    assert data.report.count("events", "stock code in lower case: read as upper case") == 1


def test_a_customer_of_several_countries_gets_the_most_common_one(tmp_path: Path) -> None:
    rows = [sale(Country=country, Quantity=n) for n, country in enumerate(["FR", "UK", "UK"], start=1)]
    sales(*rows).to_csv(tmp_path / "data.csv", index=False)
    assert load_dataset("online-retail", tmp_path).users["country"].tolist() == ["UK"]


def test_a_latin_1_file_is_read(tmp_path: Path) -> None:
    sales(sale(Description="£10 NOTE")).to_csv(tmp_path / "data.csv", index=False, encoding="latin-1")
    assert load_dataset("online-retail", tmp_path).items["title"].tolist() == ["£10 NOTE"]


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    sales(sale()).drop(columns="CustomerID").to_csv(tmp_path / "data.csv", index=False)
    with pytest.raises(DataError, match=r"data\.csv: column 'CustomerID' \(or 'Customer ID'\) is missing"):
        load_dataset("online-retail", tmp_path)
    (tmp_path / "data.csv").unlink()
    with pytest.raises(DataError, match="found none"):
        load_dataset("online-retail", tmp_path)
    (tmp_path / "online_retail.xlsx").touch()
    with pytest.raises(DataError, match=r"workbook.*\.csv"):
        load_dataset("online-retail", tmp_path)


@pytest.mark.skipif(not DATA, reason="needs Online Retail itself: set TANDEM_DATA_DIR to its folder")
def test_the_real_file_holds_only_products_and_real_customers() -> None:
    data = load_dataset("online-retail", Path(DATA) / "online-retail")
    report = data.report
    assert report.rows_read["events"] == 924_472
    assert report.events + sum(finding.count for finding in report.dropped) == 924_472
    assert report.count("events", "customer id 0 stands for no customer") == 133_358
    assert data.items["item_id"].str.match(r"\d{5}").all()
    assert data.users["user_id"].astype(int).min() == 12346
    assert (data.items["title"] != "").mean() > 0.99
    assert np.isfinite(data.events["value"]).all()
