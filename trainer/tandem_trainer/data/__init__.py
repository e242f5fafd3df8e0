"""Read any of the known data sets, or anybody's own tables, into one `Dataset`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tandem_trainer.data import amazon_reviews, anime, generic, movielens, online_retail, synthetic
from tandem_trainer.data.download import ML_100K_MD5, ML_100K_URL, fetch_archive
from tandem_trainer.data.errors import DataError
from tandem_trainer.data.generic import write_tables
from tandem_trainer.data.synthetic import SyntheticConfig
from tandem_trainer.data.tables import (
    Dataset,
    TableSchema,
    ValidationReport,
    anonymous_users,
    filter_min_interactions,
    validate,
)

__all__ = [
    "ADAPTERS",
    "DataError",
    "Dataset",
    "LoadOptions",
    "SyntheticConfig",
    "TableSchema",
    "ValidationReport",
    "anonymous_users",
    "detect",
    "filter_min_interactions",
    "load_dataset",
    "validate",
    "write_tables",
]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What adapters may need beside the path; nothing is read from the clock or the environment."""

    now_ms: int | None = None  # the clock: events more than a day after it are dropped; None = no such check
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    cache_dir: Path | None = None  # where ml-100k is downloaded to when no path is given; None = not at all
    download_url: str = ML_100K_URL
    download_md5: str = ML_100K_MD5
    download_timeout_s: float = 10.0


def load_dataset(name: str, path: Path | None = None, *, options: LoadOptions | None = None) -> Dataset:
    """The data set of adapter `name` ("auto" = by what `path` holds) from the folder or file `path`.

    `synthetic` needs no path; `ml-100k` without one is downloaded into `options.cache_dir`.
    Raises DataError for an unknown name, a missing path, or data that cannot be read.
    """
    options = options or LoadOptions()
    if name == "auto":
        name = detect(_given("auto", path))
    if name not in ADAPTERS:
        close = difflib.get_close_matches(name, ADAPTERS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(f"unknown data adapter {name!r}; known: {', '.join(ADAPTERS)}, auto{hint}")
    return ADAPTERS[name](path, options)


def detect(path: Path) -> str:
    """The name of the adapter for what lies at `path`; "tables" if it is nothing better known."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check DATA_DIR")
    if path.is_dir():
        for marks, name in (
            (["u.data"], "ml-100k"),
            (["ratings.dat"], "ml-1m"),
            (["ratings.csv", "movies.csv"], "ml-latest"),
            (["rating.csv", "anime.csv"], "anime"),
        ):
            if all((path / mark).is_file() for mark in marks):
                return name
    headers = [_header(file) for file in ([path] if path.is_file() else sorted(path.glob("*")))]
    for columns, name in (
        (online_retail.MARKER_COLUMNS, "online-retail"),
        (amazon_reviews.MARKER_COLUMNS, "amazon-reviews"),
    ):
        if any(header >= columns for header in headers):
            return name
    return "tables"


def _header(file: Path) -> set[str]:
    """The column names of a .parquet or .csv file; none if it is neither or not readable."""
    try:
        if file.suffix == ".parquet":
            return set(pq.read_schema(file).names)
        if file.suffix == ".csv":
            return set(pd.read_csv(file, nrows=0, encoding="latin-1").columns)
    except (pa.ArrowException, ValueError, OSError):
        pass  # the adapter will say what is wrong with it
    return set()


def _given(name: str, path: Path | None) -> Path:
    if path is None:
        raise DataError(f"adapter {name!r} needs a path: pass the folder of the data (DATA_DIR)")
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; check DATA_DIR")
    return path


def _synthetic(path: Path | None, options: LoadOptions) -> Dataset:
    return synthetic.generate(options.synthetic)


def _ml_100k(path: Path | None, options: LoadOptions) -> Dataset:
    if path is None and options.cache_dir is not None:
        path = fetch_archive(
            options.download_url,
            options.download_md5,
            options.cache_dir,
            timeout_s=options.download_timeout_s,
        )
    return movielens.load_100k(_given("ml-100k", path), now_ms=options.now_ms)


def _ml_1m(path: Path | None, options: LoadOptions) -> Dataset:
    return movielens.load_1m(_given("ml-1m", path), now_ms=options.now_ms)


def _ml_latest(path: Path | None, options: LoadOptions) -> Dataset:
    return movielens.load_latest(_given("ml-latest", path), now_ms=options.now_ms)


def _online_retail(path: Path | None, options: LoadOptions) -> Dataset:
    return online_retail.load(_given("online-retail", path), now_ms=options.now_ms)


def _amazon_reviews(path: Path | None, options: LoadOptions) -> Dataset:
    return amazon_reviews.load(_given("amazon-reviews", path), now_ms=options.now_ms)


def _anime(path: Path | None, options: LoadOptions) -> Dataset:
    return anime.load(_given("anime", path))


def _tables(path: Path | None, options: LoadOptions) -> Dataset:
    return generic.load(_given("tables", path), now_ms=options.now_ms)


ADAPTERS: dict[str, Callable[[Path | None, LoadOptions], Dataset]] = {
    "synthetic": _synthetic,
    "ml-100k": _ml_100k,
    "ml-1m": _ml_1m,
    "ml-latest": _ml_latest,
    "online-retail": _online_retail,
    "amazon-reviews": _amazon_reviews,
    "anime": _anime,
    "tables": _tables,
}
