"""Read one table file into a frame of its source's columns, with errors that name the file and the row."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tandem_trainer.data.errors import DataError


def read_table(path: Path) -> pd.DataFrame:
    """A Parquet or CSV file by its ending; all columns of a CSV are strings.

    A folder named like a Parquet file is read as its .parquet files one after another, by name.

    Raises DataError when the file is missing, empty, of another kind or cannot be parsed.
    """
    if path.suffix == ".csv":
        return read_delimited(path, ",")
    if path.suffix != ".parquet":
        raise DataError(f"{path.name}: tables are read from .parquet and .csv files; convert it to one of them")
    try:
        parts = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        tables = [pq.ParquetFile(_existing(part)).read() for part in parts]
        if not tables:
            raise DataError(f"{path.name}: the folder holds no .parquet file")
        frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    except pa.ArrowException as error:
        raise DataError(f"{path.name}: not a readable Parquet file ({error})") from error
    if frame.empty:
        raise DataError(f"{path.name}: the table is empty")
    return frame.reset_index(drop=True)


def read_delimited(
    path: Path, separator: str, names: Sequence[str] | None = None, *, encoding: str = "utf-8"
) -> pd.DataFrame:
    """A text table, all columns strings, missing where the text is empty ("NA" is a country, not a gap).

    names: the columns of a file without a header, whose first row must then have exactly as many fields; None
    takes them from the first line and honours quotes. A separator of several characters is allowed where
    the file holds no tab. Raises DataError naming the file and, where known, the row.
    """
    content = _existing(path).read_bytes()
    if not content.strip():
        raise DataError(f"{path.name}: the file is empty")
    if names is not None:
        fields = content.split(b"\n", 1)[0].count(separator.encode()) + 1
        if fields != len(names):
            raise DataError(
                f"{path.name} row 1: {fields} fields between {separator!r} instead of {len(names)} ({', '.join(names)})"
            )
    if len(separator) > 1:
        # Pandas parses separators of several characters in Python, some ten times slower.
        if b"\t" in content:
            row = content[: content.index(b"\t")].count(b"\n") + 1
            raise DataError(f"{path.name} row {row}: holds a tab; remove it, the fields are separated by {separator!r}")
        content, separator = content.replace(separator.encode(), b"\t"), "\t"
    try:
        frame = pd.read_csv(
            io.BytesIO(content),
            sep=separator,
            header=None if names is not None else "infer",
            names=list(names) if names is not None else None,
            index_col=False,
            dtype=str,
            keep_default_na=False,
            na_values=[""],
            quoting=3 if names is not None else 0,  # 3 = quotes are ordinary characters
            encoding=encoding,
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not {encoding} text ({error.reason} at byte {error.start})") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path.name}: cannot be parsed: {error}") from error
    if frame.empty:
        raise DataError(f"{path.name}: the table is empty")
    return frame


def read_csv_utf8_or_latin1(path: Path) -> pd.DataFrame:
    """A CSV file as `read_delimited` reads it, in UTF-8 or, where it is not that, in Latin-1."""
    try:
        return read_delimited(path, ",")
    except DataError as error:
        if not isinstance(error.__cause__, UnicodeDecodeError):
            raise
        return read_delimited(path, ",", encoding="latin-1")


def one_table_file(path: Path) -> Path:
    """The one table file at or in `path`; DataError when there is none, several, or only a workbook."""
    if path.is_file():
        return path
    files = sorted(file for file in path.glob("*") if file.suffix in (".parquet", ".csv"))
    if len(files) == 1:
        return files[0]
    if not files and list(path.glob("*.xlsx")):
        raise DataError(f"{path}: holds a workbook (.xlsx); save it as one .csv file")
    names = ", ".join(file.name for file in files) or "none"
    raise DataError(f"{path}: expected one .parquet or .csv file, found {names}; pass the file itself as the path")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path.name}: no such file in {path.parent}")
    return path
