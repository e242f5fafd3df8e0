"""UCI Online Retail (I and II): what the customers of a British gift wholesaler bought."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tandem_trainer.data.columns import Column, as_ids, as_numbers, most_common
from tandem_trainer.data.errors import DataError
from tandem_trainer.data.files import one_table_file, read_csv_utf8_or_latin1, read_table
from tandem_trainer.data.report import Ledger
from tandem_trainer.data.tables import Dataset, TableSchema, require_columns, validate

_SCHEMA = TableSchema(user_attributes=("country",), segments=(("country",),))

# The second edition renamed three columns of the first.
_RENAMES = {
    "InvoiceNo": "invoice",
    "Invoice": "invoice",
    "StockCode": "item_id",
    "Description": "title",
    "Quantity": "value",
    "InvoiceDate": "timestamp",
    "UnitPrice": "price",
    "Price": "price",
    "CustomerID": "user_id",
    "Customer ID": "user_id",
    "Country": "country",
}
_TIME_FORMATS = ("%Y-%m-%d %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%y %H:%M")
MARKER_COLUMNS = frozenset({"StockCode", "InvoiceDate", "Quantity"})  # both editions have these

# Some copies of the set write 0 where the publisher leaves the customer empty: in ours that "customer" has
# 2,189 invoices from many countries, 14 % of all lines, while real ids begin at 12346.
NO_CUSTOMER = "0"

# A product has a code of five digits, perhaps with letters for the variant (85123A). Anything else is
# bookkeeping: POST, DOT, M, D, S, C2, BANK CHARGES, ADJUST, AMAZONFEE, gift vouchers, test entries.
PRODUCT_CODE = r"\d{5}.*"


def load(path: Path, *, now_ms: int | None = None) -> Dataset:
    """Purchases (value = quantity) from the one .parquet or .csv file at or in `path`.

    Returns and cancellations (quantity below 1, or an invoice number starting with C), codes that are no
    product and rows without a customer (no id, or id 0) are dropped and counted. Stock codes are compared in
    upper case, since both "79323p" and "79323P" were typed. Title and price (the median, in pounds) are of all
    sales. Times are taken as UTC. Raises DataError when the file lacks a column or no purchase is left.
    """
    file = one_table_file(path)
    ledger = Ledger()
    sales = _read(file)
    ledger.read("events", file.name, len(sales))
    sales = _purchases(sales, ledger)
    if sales.empty:
        raise DataError(f"{file.name}: no purchase of a product is left; is this Online Retail?")
    events = sales.assign(event_type="purchase", timestamp=_times(sales["timestamp"]))
    items, users = _items(sales), _users(sales)
    ledger.read("items", f"{file.name}, grouped", len(items))
    ledger.read("users", f"{file.name}, grouped", len(users))
    return validate(events, items, users, _SCHEMA, name="online-retail", now_ms=now_ms, ledger=ledger)


def _read(file: Path) -> pd.DataFrame:
    # The CSV of the first edition has pound signs in Latin-1.
    sales = read_csv_utf8_or_latin1(file) if file.suffix == ".csv" else read_table(file)
    for choices in (["InvoiceNo", "Invoice"], ["UnitPrice", "Price"], ["CustomerID", "Customer ID"]):
        if not any(name in sales.columns for name in choices):
            raise DataError(f"{file.name}: column {choices[0]!r} (or {choices[1]!r}) is missing")
    require_columns(sales, ["StockCode", "Description", "Quantity", "InvoiceDate", "Country"], file.name)
    return sales.rename(columns=_RENAMES)


def _purchases(sales: pd.DataFrame, ledger: Ledger) -> pd.DataFrame:
    """The rows in which a customer bought a product, with clean ids and numbers; the others are counted."""
    shown = ["invoice", "item_id", "value"]
    users, no_user = as_ids(sales["user_id"], where="column 'CustomerID'")
    sales = ledger.drop("events", "missing user_id", sales.assign(user_id=users), no_user, shown)
    nobody = (sales["user_id"] == NO_CUSTOMER).to_numpy(dtype=bool)
    sales = ledger.drop("events", "customer id 0 stands for no customer", sales, nobody, shown)
    codes, no_code = as_ids(sales["item_id"], where="column 'StockCode'")
    sales = ledger.drop("events", "missing item_id", sales.assign(item_id=codes.str.strip()), no_code, shown)
    no_product = ~sales["item_id"].str.fullmatch(PRODUCT_CODE).to_numpy(dtype=bool)
    sales = ledger.drop("events", "stock code is no product: not five digits first", sales, no_product, shown)
    cancelled = sales["invoice"].astype("str").str.upper().str.startswith("C").to_numpy(dtype=bool)
    quantities, _, _ = as_numbers(sales["value"])
    returned = cancelled | (quantities < 1)
    sales = ledger.drop("events", "return or cancellation", sales.assign(value=quantities), returned, shown)
    upper = sales["item_id"].str.upper()
    changed = (upper != sales["item_id"]).to_numpy(dtype=bool)
    ledger.warn("events", "stock code in lower case: read as upper case", sales, changed, shown)
    return sales.assign(item_id=upper, price=as_numbers(sales["price"])[0])


def _times(times: Column) -> Column:
    """Datetimes; text in the format that fits most rows, and the text itself (to be reported) where none does."""
    if not (pd.api.types.is_object_dtype(times.dtype) or pd.api.types.is_string_dtype(times.dtype)):
        return times
    tries = [pd.to_datetime(times, format=form, errors="coerce", utc=True) for form in _TIME_FORMATS]
    best = max(tries, key=lambda parsed: int(parsed.notna().sum()))
    unix_ms = best.astype("datetime64[ms, UTC]").astype("int64").astype(object)
    return unix_ms.where(best.notna(), times.astype(object))


def _items(sales: pd.DataFrame) -> pd.DataFrame:
    """One row per stock code: its most common description (ties: the first by alphabet), its median price."""
    paid = sales["price"].where(sales["price"] > 0)  # free samples say nothing about the price
    prices = paid.groupby(sales["item_id"]).median()
    titles = most_common(sales, "item_id", "title")
    return pd.DataFrame({"item_id": prices.index, "title": titles.reindex(prices.index), "price": prices.to_numpy()})


def _users(sales: pd.DataFrame) -> pd.DataFrame:
    """One row per customer: the country most of their lines name."""
    countries = most_common(sales, "user_id", "country")
    users = np.unique(sales["user_id"].to_numpy(dtype=object))
    return pd.DataFrame({"user_id": users, "country": countries.reindex(users).to_numpy()})
