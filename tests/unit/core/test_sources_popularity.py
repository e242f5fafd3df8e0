from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.features import FeatureSchema, History, User, resolve_user
from tandem_core.filters import Eligibility, InSet
from tandem_core.query import Query
from tandem_core.sources.popularity import (
    CategoryPopularity,
    Popularity,
    SegmentPopularity,
    favourite_categories,
    first_eligible,
)
from tandem_core.sources.popularity_tables import PopularityTables, RankedTable
from tandem_core.sources.top_of_table import TopOfTable

NONE = np.empty(0, np.int32)
WOMAN_OF_25 = {"age": "25", "gender": "F"}

UserOf = Callable[..., User]


def test_popularity_gives_the_first_eligible_items_with_their_shares(
    tables: PopularityTables, catalog: Catalog, user_of: UserOf
) -> None:
    eligible = Eligibility(catalog, np.array([0, 2], np.int32), InSet("categories", frozenset({"Drama"})))
    found = Popularity(tables).find(user_of(), eligible, 3)
    assert found.rows.tolist() == [4, 6, 8]
    np.testing.assert_array_equal(found.scores, tables.everybody.scores[[4, 6, 8]])
    assert found.score_rows is not None
    np.testing.assert_array_equal(found.score_rows(np.array([8, 0], np.int32)), tables.everybody.scores[[8, 0]])


def test_a_table_gives_its_first_eligible_items_and_scores_the_others_zero(catalog: Catalog, user_of: UserOf) -> None:
    table = RankedTable(np.array([7, 2, 9], np.int32), np.array([0.5, 0.3, 0.2], np.float32))
    found = TopOfTable(table, 12).find(user_of(), Eligibility(catalog, np.array([2], np.int32), None), 5)
    assert found.rows.tolist() == [7, 9]
    assert found.score_rows is not None
    np.testing.assert_array_equal(found.score_rows(found.rows), found.scores)
    np.testing.assert_allclose(found.score_rows(np.array([0, 2, 11], np.int32)), [0, 0.3, 0])


def test_catalogue_wide_tables_are_sources_by_name() -> None:
    table = RankedTable(np.array([0], np.int32), np.array([1], np.float32))
    keys = ("global", "window:7", "window:30", "trending", "weighted_rating", "category:window:7", "segment:trending")
    wide = PopularityTables(dict.fromkeys(keys, table)).catalogue_wide()
    assert set(wide) == {"popularity_7d", "popularity_30d", "trending", "weighted_rating"}


@given(st.sets(st.integers(0, 199)), st.integers(1, 30), st.booleans())
def test_looking_at_a_table_piece_by_piece_finds_what_looking_at_all_of_it_would(
    excluded: set[int], limit: int, with_condition: bool
) -> None:
    ids = [f"i{i}" for i in range(200)]
    catalog = Catalog(ids, ids, {}, {}, np.ones(200, np.int32))
    condition = InSet("item_id", frozenset(f"i{i}" for i in range(150, 200))) if with_condition else None
    table = RankedTable(
        np.random.default_rng(0).permutation(200).astype(np.int32), np.linspace(1, 0, 200, dtype=np.float32)
    )
    found = first_eligible(table, Eligibility(catalog, np.array(sorted(excluded), np.int32), condition), limit)
    naive = [r for r in table.rows.tolist() if r not in excluded and (r >= 150 or not with_condition)][:limit]
    assert found.rows.tolist() == naive


@pytest.mark.parametrize(
    ("attributes", "limit", "rows"),
    [
        (WOMAN_OF_25, 2, [5, 3]),  # her own segment is enough
        (WOMAN_OF_25, 4, [5, 3, 7, 1]),  # then the wider one, without what she has
        (WOMAN_OF_25, 7, [5, 3, 7, 1, 0, 2, 4]),  # then everybody's
        ({"age": "25", "gender": "M"}, 4, [3, 7, 1, 0]),  # no table of his own
        ({"age": "18", "gender": "M"}, 4, []),  # no table at all: the source does not know him
        ({"gender": "F"}, 4, []),
        ({}, 4, []),
    ],
)
def test_segments_back_off_from_narrow_to_wide_to_everybody(
    attributes: dict[str, str], limit: int, rows: list[int], tables: PopularityTables, catalog: Catalog, user_of: UserOf
) -> None:
    found = SegmentPopularity(tables).find(user_of(attributes=attributes), Eligibility(catalog, NONE, None), limit)
    assert found.rows.tolist() == rows
    assert found.scores.tolist() == pytest.approx([1 - i / len(rows) for i in range(len(rows))])


@given(st.sets(st.integers(0, 11)), st.integers(1, 15))
def test_a_segment_list_is_full_while_items_are_eligible_and_has_none_twice(
    tables: PopularityTables, catalog: Catalog, schema: FeatureSchema, excluded: set[int], limit: int
) -> None:
    user = resolve_user(schema, catalog, Query(request_id="r", now_ms=0, max_results=1, attributes=WOMAN_OF_25))
    eligible = Eligibility(catalog, np.array(sorted(excluded), np.int32), None)
    rows = SegmentPopularity(tables).find(user, eligible, limit).rows.tolist()
    assert len(rows) == min(limit, 12 - len(excluded)) == len(set(rows))
    assert not excluded & set(rows)


def test_favourite_categories_take_turns_and_no_item_comes_twice(
    tables: PopularityTables, catalog: Catalog, user_of: UserOf
) -> None:
    source = CategoryPopularity(tables, catalog.codes["categories"])
    # News 8, Drama 8: i0 and i4 are both of both; the events say no more. Drama is first in the vocabulary.
    user = user_of("i0", "i4", types=["buy", "buy"])
    found = source.find(user, Eligibility(catalog, NONE, None), 6)
    assert found.rows.tolist() == [0, 4, 2, 8, 6, 10]  # Drama 0 2 4 6 8 10, News 4 0 8
    assert found.scores.tolist() == pytest.approx([1 - i / 6 for i in range(6)])
    assert source.find(user, Eligibility(catalog, NONE, None), 3).rows.tolist() == [0, 4, 2]
    assert source.find(user, Eligibility(catalog, np.array([0, 4], np.int32), None), 3).rows.tolist() == [2, 8, 6]


def test_only_the_top_categories_count(tables: PopularityTables, catalog: Catalog, user_of: UserOf) -> None:
    user = user_of("i1", "i2", "i3", types=["buy", "view", "buy"])  # Comedy 8, Drama .5
    one = CategoryPopularity(tables, catalog.codes["categories"], top=1)
    assert one.find(user, Eligibility(catalog, NONE, None), 9).rows.tolist() == [1, 3, 5, 7, 9]


def test_a_user_without_history_or_with_items_of_no_category_gets_nothing(
    tables: PopularityTables, catalog: Catalog, user_of: UserOf
) -> None:
    source = CategoryPopularity(tables, catalog.codes["categories"])
    for user in (user_of(), user_of("i11"), user_of("i1", types=["dislike"])):
        assert len(source.find(user, Eligibility(catalog, NONE, None), 5)) == 0


def test_ties_between_categories_go_to_the_newer_event_then_to_the_vocabulary() -> None:
    column = CodeColumn(np.array([[0, -1], [1, -1], [2, 3]], np.int32), ["z", "y", "x", "w"])

    def favourites(*rows: int) -> list[str]:
        h = len(rows)
        history = History(
            np.array(rows, np.int32), np.zeros(h, np.int32), np.zeros(h, np.int64), np.ones(h, np.float32)
        )
        return favourite_categories(history, column, 3)

    assert favourites(1, 0) == ["y", "z"]
    assert favourites(0, 1) == ["z", "y"]
    assert favourites(2, 1, 0) == ["x", "w", "y"]  # x and w are of one item: the vocabulary's order
    assert favourites(2, 0, 0) == ["z", "x", "w"]  # weight before time
    assert favourites() == []


_PRINT_FAVOURITES = """
import numpy as np
from tandem_core.catalog import CodeColumn
from tandem_core.features import History
from tandem_core.sources.popularity import favourite_categories
names = sorted({"drama", "comedy", "news", "sport", "horror", "music"})
column = CodeColumn(np.arange(6, dtype=np.int32).reshape(1, 6), names)
one = History(np.zeros(1, np.int32), np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1, np.float32))
print(favourite_categories(one, column, 6))
"""


def test_ties_do_not_depend_on_the_hash_seed_of_the_process() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", _PRINT_FAVOURITES],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert printed == {"['comedy', 'drama', 'horror', 'music', 'news', 'sport']\n"}


def test_tables_are_the_same_after_saving_and_loading(tables: PopularityTables, tmp_path: Path) -> None:
    with_odd_keys = PopularityTables({**tables.tables, "category:Né, 日本": RankedTable(NONE, np.empty(0, np.float32))})
    with_odd_keys.save(tmp_path / "popularity.npz")
    loaded = PopularityTables.load(tmp_path / "popularity.npz")
    assert list(loaded.tables) == list(with_odd_keys.tables)
    for key, table in with_odd_keys.tables.items():
        np.testing.assert_array_equal(loaded.tables[key].rows, table.rows)
        np.testing.assert_array_equal(loaded.tables[key].scores, table.scores)
        assert loaded.tables[key].rows.dtype == np.int32


def test_tables_without_one_for_everybody_are_refused() -> None:
    with pytest.raises(ValueError, match="need one named 'global'"):
        PopularityTables({"category:Drama": RankedTable(NONE, np.empty(0, np.float32))})
