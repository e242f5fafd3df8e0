"""Choosing the adapter, by name or by what the folder holds."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from tandem_trainer.data import ADAPTERS, DataError, LoadOptions, SyntheticConfig, detect, load_dataset

DATA = os.environ.get("TANDEM_DATA_DIR", "")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["u.data", "u.item"], "ml-100k"),
        (["ratings.dat"], "ml-1m"),
        (["ratings.csv", "movies.csv"], "ml-latest"),
        (["rating.csv", "anime.csv"], "anime"),
        (["rating.csv"], "tables"),
        (["ratings.csv"], "tables"),
        (["events.parquet"], "tables"),
        ([], "tables"),
    ],
)
def test_a_folder_is_recognised_by_its_files(tmp_path: Path, files: list[str], name: str) -> None:
    for file in files:
        (tmp_path / file).touch()
    assert detect(tmp_path) == name


def test_online_retail_is_recognised_by_its_columns_whatever_its_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"StockCode": ["1"], "InvoiceDate": ["x"], "Quantity": [1]})
    frame.to_csv(tmp_path / "anything.csv", index=False)
    assert detect(tmp_path) == detect(tmp_path / "anything.csv") == "online-retail"
    (tmp_path / "anything.csv").unlink()
    frame.to_parquet(tmp_path / "data.parquet")
    assert detect(tmp_path) == "online-retail"


def test_an_unknown_adapter_is_named_with_the_known_ones_and_a_guess() -> None:
    with pytest.raises(DataError, match=r"unknown data adapter 'ml1m'; known: synthetic, .*did you mean 'ml-1m'"):
        load_dataset("ml1m")


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name != "synthetic"])
def test_a_missing_path_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs a path"):
        load_dataset(name)
    with pytest.raises(DataError, match="nowhere: no such file or folder"):
        load_dataset(name, tmp_path / "nowhere")


def test_auto_reads_what_it_detects(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,event_type\nu,i,1700000000000,view\n")
    assert load_dataset("auto", tmp_path).report.events == 1
    with pytest.raises(DataError, match="no such file"):
        load_dataset("auto", tmp_path / "nowhere")


def test_options_reach_the_adapters(tmp_path: Path) -> None:
    assert load_dataset("synthetic", options=LoadOptions(synthetic=SyntheticConfig(n_users=5))).report.users == 5
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,event_type\nu,i,1,view\nu,i,9000000000000,view\n")
    data = load_dataset("tables", tmp_path, options=LoadOptions(now_ms=1_700_000_000_000))
    assert data.report.count("events", "impossible timestamp: in the future") == 1


@pytest.mark.skipif(not DATA, reason="needs the real data sets: set TANDEM_DATA_DIR to their folder")
@pytest.mark.parametrize("name", ["ml-100k", "ml-1m", "online-retail"])
def test_the_real_folders_are_recognised(name: str) -> None:
    assert detect(Path(DATA) / name) == name
