from pathlib import Path

import numpy as np
import pandas as pd

from tandem_core.catalog import Catalog, CodeColumn
from tandem_core.features import EventType, FeatureSchema
from tandem_core.sources.popularity_tables import PopularityTables
from tandem_trainer.popularity import fit_popularity

SCHEMA = FeatureSchema(
    event_types=(EventType(name="buy"),), user_attributes={"age": ("18", "25"), "gender": ("F", "M")},
    segments=(("age", "gender"), ("age",)), item_codes=(), item_numbers=(),
    history_length=5, vector_dim=2,
)  # fmt: skip
CATALOG = Catalog(
    ["a", "b", "c", "d"],
    [""] * 4,
    {"categories": CodeColumn(np.array([[0, -1], [0, 1], [1, -1], [-1, -1]], np.int32), ["Drama", "War"])},
    {},
    np.zeros(4, np.int32),
)


def attributes(rows: list[tuple[str | None, str | None]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["age", "gender"])


def fit(
    items: list[int], weights: list[float], users: pd.DataFrame | None = None, max_rows: int = 9
) -> PopularityTables:
    users = attributes([(None, None)] * len(items)) if users is None else users
    return fit_popularity(np.array(items), np.array(weights), users, SCHEMA, CATALOG, max_rows)


def test_everybodys_table_holds_every_item_by_share_of_weight_with_ties_by_row() -> None:
    table = fit([2, 2, 1, 0, 2], [1, 1, 2, 2, 2]).everybody
    np.testing.assert_array_equal(table.rows, [2, 0, 1, 3])
    np.testing.assert_allclose(table.scores, [0.5, 0.25, 0.25, 0])
    assert (table.rows.dtype, table.scores.dtype) == (np.int32, np.float32)


def test_negative_events_and_unknown_items_are_not_counted() -> None:
    np.testing.assert_allclose(fit([0, 1, -1], [1, -5, 3]).everybody.scores, [1, 0, 0, 0])


def test_categories_hold_their_own_items_and_items_of_two_count_in_both() -> None:
    tables = fit([0, 1, 1, 2, 3], [1, 1, 1, 1, 1])
    drama, war = tables.category("Drama"), tables.category("War")
    assert drama is not None
    assert war is not None
    np.testing.assert_array_equal(drama.rows, [1, 0])
    np.testing.assert_allclose(drama.scores, [2 / 3, 1 / 3])
    np.testing.assert_array_equal(war.rows, [1, 2])


def test_segments_count_their_own_users_only_and_need_twenty_events() -> None:
    users = attributes([("18", "F")] * 20 + [("18", "M")] * 5 + [("25", None)] * 20 + [("99", "F")] * 30)
    tables = fit([0] * 20 + [1] * 5 + [2] * 20 + [3] * 30, [1] * 75, users)
    segments = {key for key in tables.tables if key.startswith("segment:")}
    assert segments == {"segment:age=18,gender=F", "segment:age=18", "segment:age=25"}
    young = tables.segment("age=18")
    assert young is not None
    np.testing.assert_array_equal(young.rows, [0, 1])
    np.testing.assert_allclose(young.scores, [0.8, 0.2])


def test_segment_keys_are_those_a_request_asks_for() -> None:
    user = {"age": "25", "gender": "M"}
    tables = fit([0] * 20, [1] * 20, attributes([("25", "M")] * 20))
    assert all(tables.segment(key) is not None for key in SCHEMA.segment_keys(user))


def test_only_the_first_rows_of_narrow_tables_are_kept_with_their_share_of_the_whole() -> None:
    drama = fit([0, 1, 1], [1, 1, 1], max_rows=1).category("Drama")
    assert drama is not None
    np.testing.assert_array_equal(drama.rows, [1])
    np.testing.assert_allclose(drama.scores, [2 / 3])


def test_no_events_give_the_catalogue_in_its_own_order(tmp_path: Path) -> None:
    tables = fit([], [])
    np.testing.assert_array_equal(tables.everybody.rows, [0, 1, 2, 3])
    tables.save(tmp_path / "p.npz")
    assert set(PopularityTables.load(tmp_path / "p.npz").tables) == {"global"}
