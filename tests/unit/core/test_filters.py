from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_core.catalog import Catalog
from tandem_core.errors import InvalidRequest
from tandem_core.filters import AllOf, AnyOf, Condition, Eligibility, Exists, InRange, InSet, Mask, NotOf, Rows

NONE = np.empty(0, np.int32)


def holds(condition: Condition, catalog: Catalog, row: int) -> bool:
    """Say in plain Python whether one item fulfils a condition."""
    match condition:
        case AllOf(parts):
            answer = all(holds(part, catalog, row) for part in parts)
        case AnyOf(parts):
            answer = any(holds(part, catalog, row) for part in parts)
        case NotOf(part):
            answer = not holds(part, catalog, row)
        case InSet("item_id", values):
            answer = catalog.item_ids[row] in values
        case InSet(column, values):
            answer = any(text in values for text in catalog.codes[column].values(row))
        case InRange(column, low, high):
            number = float(catalog.numbers[column][row])
            answer = not math.isnan(number) and low <= number <= high
        case Exists(column) if column in catalog.numbers:
            answer = not math.isnan(catalog.numbers[column][row])
        case Exists(column):
            answer = bool(catalog.codes[column].values(row))
    return answer


def conditions() -> st.SearchStrategy[Condition]:
    texts = st.frozensets(st.sampled_from(["Drama", "Comedy", "News", "c0", "c2", "nothing"]), min_size=1)
    ids = st.frozensets(st.sampled_from(["i0", "i3", "i11", "nobody"]), min_size=1)
    bounds = st.sampled_from([-np.inf, -1.0, 0.0, 20.0, 35.5, 110.0, np.inf])
    leaves: st.SearchStrategy[Condition] = st.one_of(
        st.builds(InSet, st.sampled_from(["categories", "creator"]), texts),
        st.builds(InSet, st.just("item_id"), ids),
        st.builds(InRange, st.sampled_from(["price", "created_at"]), bounds, bounds),
        st.builds(Exists, st.sampled_from(["price", "created_at", "categories", "creator"])),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(AllOf, st.lists(inner, min_size=1, max_size=3)),
            st.builds(AnyOf, st.lists(inner, min_size=1, max_size=3)),
            st.builds(NotOf, inner),
        ),
        max_leaves=6,
    )


@given(conditions(), st.lists(st.integers(0, 11), max_size=15))
def test_every_condition_means_on_columns_what_it_means_item_by_item(
    catalog: Catalog, condition: Condition, rows: list[int]
) -> None:
    condition.check(catalog, "filter")
    mask = condition.mask(catalog, np.array(rows, np.int32))
    assert mask.dtype == np.bool_
    assert mask.tolist() == [holds(condition, catalog, row) for row in rows]


def test_both_ends_of_a_range_belong_to_it(catalog: Catalog) -> None:
    rows = np.arange(12, dtype=np.int32)
    assert rows[InRange("price", 20, 40).mask(catalog, rows)].tolist() == [2, 3, 4]
    assert rows[InRange("price", high=0).mask(catalog, rows)].tolist() == [0]


@pytest.mark.parametrize(
    "condition",
    [InSet("categories", frozenset({"Drama", "Comedy", "News"})), InRange("price"), Exists("creator")],
)
def test_an_item_without_a_value_passes_through_not_alone(catalog: Catalog, condition: Condition) -> None:
    row = np.array([11], np.int32)  # has no category, price or creator
    assert not condition.mask(catalog, row).any()
    assert NotOf(condition).mask(catalog, row).all()


@pytest.mark.parametrize(
    ("condition", "field", "kind"),
    [
        (InSet("price", frozenset("x")), "filter.in_set.column", "no text column 'price'"),
        (InRange("creator"), "filter.in_range.column", "no number column 'creator'"),
        (Exists("colour"), "filter.exists.column", "no filterable column 'colour'"),
        (AllOf([Exists("price"), NotOf(InRange("x"))]), "filter.all_of[1].not_of.in_range.column", "'x'"),
        (AnyOf([AnyOf([Exists("y")])]), "filter.any_of[0].any_of[0].exists.column", "'y'"),
    ],
)
def test_an_unknown_column_or_one_of_another_kind_names_the_field(
    catalog: Catalog, condition: Condition, field: str, kind: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        condition.check(catalog, "filter")
    (violation,) = caught.value.violations
    assert violation.field == field
    assert kind in violation.description


@dataclass(frozen=True)
class Counting:
    """Cheap items; remembers how many rows it was asked about."""

    asked: list[int] = field(default_factory=list)

    def mask(self, catalog: Catalog, rows: Rows) -> Mask:
        self.asked.append(len(rows))
        return InRange("price", high=50).mask(catalog, rows)

    def check(self, catalog: Catalog, field: str) -> None: ...


def test_eligibility_looks_at_the_whole_catalogue_only_when_asked_and_then_once(catalog: Catalog) -> None:
    condition = Counting()
    eligible = Eligibility(catalog, np.array([1, 1, 2], np.int32), condition)
    assert eligible.excluded_count == 2
    assert condition.asked == []
    assert eligible.keep(np.array([0, 1, 9], np.int32)).tolist() == [True, False, False]
    assert condition.asked == [3]
    assert eligible.matching_rows().tolist() == [0, 3, 4]
    assert eligible.matching_rows().tolist() == [0, 3, 4]
    assert condition.asked == [3, 12]


def test_without_condition_or_exclusions_everything_is_eligible(catalog: Catalog) -> None:
    eligible = Eligibility(catalog, NONE, None)
    assert not eligible.has_condition
    assert eligible.excluded_count == 0
    assert eligible.matching_rows().tolist() == list(range(12))
