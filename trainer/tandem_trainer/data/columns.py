"""Turn one raw column into the type our tables use; what cannot be turned is marked, never guessed."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api import types

from tandem_trainer.data.errors import DataError

TimeUnit: TypeAlias = Literal["s", "ms", "iso"]
Mask: TypeAlias = npt.NDArray[np.bool_]
Column: TypeAlias = "pd.Series[Any]"

LAST_POSSIBLE_MS = 253_402_300_799_999  # the end of the year 9999: larger numbers are no times at all
_EXACT_FLOAT_LIMIT = 2.0**53


def as_ids(column: Column, *, where: str) -> tuple[Column, Mask]:
    """Ids as strings, and a mask [n] of the missing ones (null, empty or blank).

    Whole floats lose their ".0", since pandas makes floats of integers with gaps.
    Raises DataError, naming `where`, for float ids too large to have kept all digits.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    missing = column.isna().to_numpy(dtype=bool)
    if types.is_float_dtype(column.dtype):
        return _float_ids(column, missing, where), missing
    if types.is_integer_dtype(column.dtype):
        return column.fillna(0).astype("int64").astype("str"), missing
    if types.is_object_dtype(column.dtype) and types.infer_dtype(column, skipna=True) != "string":
        column = pd.Series([_id_text(value) for value in column], index=column.index, dtype="str")
    text = column.where(~missing, "").astype("str")
    known = text[~missing]
    if len(known) and known.iloc[0].endswith(".0") and known.str.fullmatch(r"\d+\.0").all():
        text = text.str.removesuffix(".0")  # a CSV written from such a float column
    return text, missing | (text.str.strip() == "").to_numpy(dtype=bool)


def _float_ids(column: Column, missing: Mask, where: str) -> Column:
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = np.where(missing, 0.0, numbers)
    if np.abs(numbers).max(initial=0) >= _EXACT_FLOAT_LIMIT:
        row = int(column.index[int(np.abs(numbers).argmax())]) + 1
        raise DataError(
            f"{where} row {row}: float ids of 2**53 and more have lost digits; store ids as strings or integers"
        )
    whole = numbers == np.floor(numbers)
    if whole.all():
        return pd.Series(numbers.astype(np.int64), index=column.index).astype("str")
    return pd.Series([_id_text(value) for value in numbers.tolist()], index=column.index, dtype="str")


def _id_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def as_milliseconds(column: Column, unit: TimeUnit) -> tuple[npt.NDArray[np.int64], Mask, Mask]:
    """UNIX milliseconds int64 [n], a mask of missing values and a mask of values that are no time.

    unit: what numbers mean ("s", "ms") or "iso" for ISO 8601 text; dates without a zone are UTC. A column
    of pandas datetimes needs no unit. Where a mask is set the number is 0. Values beyond the year 9999 (or
    as far before 1970) are clipped just outside it, for the caller to refuse.
    """
    missing = column.isna().to_numpy(dtype=bool)
    if unit == "iso" and not types.is_datetime64_any_dtype(column.dtype):
        text = column.astype("str").where(~column.isna())
        missing = missing | (text.fillna("").str.strip() == "").to_numpy(dtype=bool)
        column = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    if types.is_datetime64_any_dtype(column.dtype):
        return _datetime_ms(column), missing, column.isna().to_numpy(dtype=bool) & ~missing
    numbers, missing, unparsable = as_numbers(column)
    if types.is_integer_dtype(column.dtype) and not missing.any():
        # Straight from integers: a float would round times of more than 2**53.
        whole = column.to_numpy(dtype=np.int64) if column.dtype != np.uint64 else numbers.astype(np.int64)
    else:
        whole = None
    scale = 1000 if unit == "s" else 1
    limit = LAST_POSSIBLE_MS + 1
    possible = np.abs(numbers) <= LAST_POSSIBLE_MS / scale
    clipped = np.where(numbers > 0, limit, -limit)
    safe = np.where(possible & ~missing & ~unparsable, numbers if whole is None else whole, 0)
    times = np.rint(safe * scale).astype(np.int64)
    times = np.where(possible | missing | unparsable, times, clipped)
    return times.astype(np.int64), missing, unparsable


def _datetime_ms(column: Column) -> npt.NDArray[np.int64]:
    zoned = column.dt.tz_localize("UTC") if column.dt.tz is None else column.dt.tz_convert("UTC")
    missing = zoned.isna().to_numpy(dtype=bool)
    times = zoned.astype("datetime64[ms, UTC]").astype("int64").to_numpy(dtype=np.int64)
    return np.where(missing, 0, times)


def as_numbers(column: Column) -> tuple[npt.NDArray[np.float64], Mask, Mask]:
    """Float64 [n], a mask of missing values and a mask of values that are no finite number (NaN there)."""
    missing = column.isna().to_numpy(dtype=bool)
    if not types.is_numeric_dtype(column.dtype):
        text = column.astype("str").where(~missing, "").str.strip()
        missing = missing | text.isin(["", "nan", "NaN"]).to_numpy(dtype=bool)
        column = pd.to_numeric(text, errors="coerce")
    numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
    unparsable = ~np.isfinite(numbers) & ~missing
    return np.where(unparsable, np.nan, numbers), missing, unparsable


def as_text(column: Column) -> Column:
    """Strings, "" where missing."""
    missing = column.isna()
    return column.astype("str").where(~missing, "").astype("str")


def as_optional(column: Column) -> Column:
    """Strings or None (an object column); "" and null are None, whole floats lose their ".0".

    Booleans are "true" and "false", which is how requests and live items say them.
    """
    if types.is_numeric_dtype(column.dtype) and not types.is_bool_dtype(column.dtype):
        text, missing = as_ids(column, where=str(column.name))
    else:
        text = as_text(column)
        missing = (text == "").to_numpy(dtype=bool)
    if types.infer_dtype(column, skipna=True) == "boolean":
        text = text.str.lower()
    values = text.to_numpy(dtype=object, copy=True)
    values[missing] = None
    return pd.Series(values, index=column.index, dtype=object)


def as_lists(column: Column, separator: str | None) -> Column:
    """Lists of distinct non-empty strings, order kept; [] where missing.

    A plain string is split at `separator`, or is a list of one if that is None.
    """
    lists = [_distinct(value, separator) for value in column.tolist()]
    return _object_column(lists, column.index)


def _distinct(value: Any, separator: str | None) -> list[str]:
    if isinstance(value, str):
        parts: list[Any] = value.split(separator) if separator else [value]
    elif isinstance(value, list | tuple | np.ndarray):
        parts = list(value)
    else:
        return []
    texts = (str(part).strip() for part in parts if part is not None)
    return list(dict.fromkeys(text for text in texts if text))


def as_vectors(column: Column, *, where: str) -> Column:
    """Float32 vectors of one length, None where missing; text like "[0.1, 0.2]" is read too.

    Raises DataError naming `where` and the row for a vector of another length or a value not finite.
    """
    vectors = [_vector(value, where, int(row)) for value, row in zip(column.tolist(), column.index, strict=True)]
    width = next((len(vector) for vector in vectors if vector is not None), 0)
    for vector, row in zip(vectors, column.index, strict=True):
        if vector is None:
            continue
        if len(vector) != width:
            raise DataError(f"{where} row {int(row) + 1}: vector of length {len(vector)}, others have {width}")
        if not np.isfinite(vector).all():
            raise DataError(f"{where} row {int(row) + 1}: vector holds NaN or infinity")
    return _object_column(vectors, column.index)


def _vector(value: Any, where: str, row: int) -> npt.NDArray[np.float32] | None:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, str):
        value = value.strip().strip("[]").replace(",", " ").split()
    try:
        return np.asarray(value, dtype=np.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} row {row + 1}: not a vector of numbers ({error})") from error


def most_common(frame: pd.DataFrame, key: str, column: str) -> Column:
    """The most common text of `column` for each `key` that has any (its index); of equally common ones the first by
    alphabet. Blanks at both ends do not count.
    """
    known = frame[[key]].assign(said=frame[column].astype("str").str.strip()).dropna()
    known = known[known["said"] != ""]
    counts = known.groupby([key, "said"]).size().reset_index(name="n")
    first = counts.sort_values([key, "n", "said"], ascending=[True, False, True]).drop_duplicates(key)
    return first.set_index(key)["said"]


def _object_column(values: list[Any], index: pd.Index[Any]) -> Column:
    """A column of lists or arrays; filled cell by cell, or numpy would make a matrix of it."""
    cells = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):
        cells[at] = value
    return pd.Series(cells, index=index, dtype=object)
