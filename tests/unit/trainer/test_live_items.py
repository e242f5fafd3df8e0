from __future__ import annotations

from pathlib import Path

import pandas as pd

from tandem_core.stores.live import LiveItem
from tandem_trainer.data import SyntheticConfig, write_tables
from tandem_trainer.data.generic import load
from tandem_trainer.data.synthetic import generate
from tandem_trainer.live_items import with_live_items


def test_live_items_replace_rows_come_behind_and_go_and_the_table_reads_back(tmp_path: Path) -> None:
    dataset = generate(SyntheticConfig(n_users=30, n_items=20, seed=3, events_per_user=10))
    ids = dataset.items["item_id"].tolist()
    changed = LiveItem(ids[2], "Changed", "new words", {"categories": ["x"], "creator": ["C"]}, {"created_at": 5.5})
    new = LiveItem("new", "New", "", {}, {"price": 2.0})
    table = with_live_items(dataset.items, dataset.schema, [changed, new], [ids[4], "never-there"])
    assert table["item_id"].tolist() == [*ids[:4], *ids[5:], "new"]
    others = [item_id for item_id in ids if item_id not in (ids[2], ids[4])]
    pd.testing.assert_frame_equal(
        table.set_index("item_id").loc[others], dataset.items.set_index("item_id").loc[others], check_dtype=False
    )
    folder = tmp_path / "tables"
    write_tables(dataset, folder)
    table.to_parquet(folder / "items.parquet", index=False)
    again = load(folder).items.set_index("item_id")
    assert again.loc[ids[2], ["title", "text", "creator", "created_at"]].tolist() == ["Changed", "new words", "C", 5500]
    assert list(again.loc[ids[2], "categories"]) == ["x"]
    assert pd.isna(again.loc[ids[2], "price"])
    assert again.loc["new", "price"] == 2.0


def test_an_empty_table_becomes_the_live_items_alone() -> None:
    dataset = generate(SyntheticConfig(n_users=30, n_items=20, seed=3, events_per_user=10))
    table = with_live_items(dataset.items.iloc[:0], dataset.schema, [LiveItem("new", "New")], [])
    assert table["item_id"].tolist() == ["new"]
    assert table["created_at"].isna().all()
