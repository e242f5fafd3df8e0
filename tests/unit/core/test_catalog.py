from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.text_blob import pack_strings, unpack_strings

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


def small(item_ids: list[str], titles: list[str] | None = None) -> Catalog:
    n = len(item_ids)
    return Catalog(item_ids, titles or [""] * n, {}, {}, np.zeros(n, np.int32))


@given(st.lists(TEXT, max_size=12))
def test_strings_survive_packing_whatever_they_hold(strings: list[str]) -> None:
    packed = pack_strings("x", strings)
    assert {name: array.dtype.kind for name, array in packed.items()} == {"x.utf8": "u", "x.ends": "i"}
    assert unpack_strings(packed, "x") == strings


def test_a_catalogue_is_the_same_after_saving_and_loading(catalog: Catalog, tmp_path: Path) -> None:
    catalog.save(tmp_path / "catalog.npz")
    loaded = Catalog.load(tmp_path / "catalog.npz")
    assert loaded.item_ids == catalog.item_ids
    assert loaded.titles == catalog.titles
    assert loaded.columns == catalog.columns == ["item_id", "title", "categories", "creator", "price", "created_at"]
    for name, column in catalog.codes.items():
        assert loaded.codes[name].vocabulary == column.vocabulary
        np.testing.assert_array_equal(loaded.codes[name].codes, column.codes)
    for name, numbers in catalog.numbers.items():
        np.testing.assert_array_equal(loaded.numbers[name], numbers)
    np.testing.assert_array_equal(loaded.event_counts, catalog.event_counts)


def test_unicode_and_empty_texts_survive_in_ids_titles_and_vocabularies(tmp_path: Path) -> None:
    ids = ["ä", "", "日本", "a b", "🦉"]
    column = CodeColumn(np.array([[0], [1], [-1], [1], [0]], np.int32), ["", "Œuvre"])
    Catalog(ids, ["", "é", "", "x\ny", ""], {"code:x": column}, {}, np.zeros(5, np.int32)).save(tmp_path / "c.npz")
    loaded = Catalog.load(tmp_path / "c.npz")
    assert loaded.item_ids == ids
    assert loaded.titles == ["", "é", "", "x\ny", ""]
    assert [loaded.codes["code:x"].values(row) for row in range(5)] == [[""], ["Œuvre"], [], ["Œuvre"], [""]]
    assert loaded.row_of["🦉"] == 4


def test_an_empty_catalogue_can_be_saved(tmp_path: Path) -> None:
    small([]).save(tmp_path / "c.npz")
    assert len(Catalog.load(tmp_path / "c.npz")) == 0


def test_the_file_holds_plain_arrays_alone(catalog: Catalog, tmp_path: Path) -> None:
    catalog.save(tmp_path / "catalog.npz")
    with np.load(tmp_path / "catalog.npz", allow_pickle=False) as arrays:
        assert "O" not in {arrays[name].dtype.kind for name in arrays.files}


def test_duplicate_ids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"duplicate ids.*'item_ids': 2"):
        small(["a", "b", "a"])


@pytest.mark.parametrize("wrong", ["titles", "event_counts", "code", "number"])
def test_columns_of_another_length_are_refused_by_name(wrong: str) -> None:
    codes = {"code": CodeColumn(np.zeros((1 + (wrong == "code"), 1), np.int32), ["x"])}
    numbers = {"number": np.zeros(1 + (wrong == "number"))}
    titles = ["t"] * (1 + (wrong == "titles"))
    with pytest.raises(ValueError, match=f"'{wrong}': 2"):
        Catalog(["a"], titles, codes, numbers, np.zeros(1 + (wrong == "event_counts"), np.int32))


def test_rows_of_ids_come_in_the_order_given_without_unknown_ones(catalog: Catalog) -> None:
    rows = catalog.rows(["i7", "nobody", "i0"])
    assert rows.tolist() == [7, 0]
    assert rows.dtype == catalog.rows([]).dtype == np.int32


def test_values_of_a_list_column_leave_out_the_padding(catalog: Catalog) -> None:
    categories = catalog.codes["categories"]
    assert [categories.values(row) for row in (0, 1, 11)] == [["Drama", "News"], ["Comedy"], []]
