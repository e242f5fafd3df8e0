from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.retrieval.v1 import retrieval_pb2
from tandem_core.filters import AllOf, AnyOf, Condition, Exists, InRange, InSet, NotOf, with_conditions
from tandem_core.grpc_filter import filter_message
from tandem_core.grpc_parse import Checks, parse_filter

COLUMNS = st.sampled_from(["price", "creator"])
LEAVES: st.SearchStrategy[Condition] = st.one_of(
    st.builds(InSet, COLUMNS, st.frozensets(st.text(max_size=5), min_size=1, max_size=4)),
    st.builds(InRange, COLUMNS, st.floats(-9, 9), st.floats(-9, 9)),
    st.builds(InRange, COLUMNS, st.just(-math.inf), st.floats(-9, 9)),
    st.builds(Exists, COLUMNS),
)


def trees(parts: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    lists = st.lists(parts, min_size=1, max_size=3)
    return st.one_of(st.builds(AllOf, lists), st.builds(AnyOf, lists), st.builds(NotOf, parts))


@settings(max_examples=30)
@given(st.recursive(LEAVES, trees, max_leaves=8))
def test_a_condition_is_read_back_as_it_was_written(condition: Condition) -> None:
    checks = Checks()
    request = retrieval_pb2.RetrieveRequest(filter=filter_message(condition))
    assert parse_filter(checks, request) == condition
    checks.done()


def test_a_range_without_bounds_means_that_there_is_a_number() -> None:
    assert filter_message(InRange("price")) == filter_message(Exists("price"))


def test_what_no_message_can_say_is_an_error() -> None:
    with pytest.raises(TypeError, match="no message for"):
        filter_message("price")  # type: ignore[arg-type]


def test_the_placements_conditions_join_the_callers_where_a_request_has_room_for_both() -> None:
    own, more = Exists("price"), [Exists("creator")]
    assert with_conditions(None, []) is None
    assert with_conditions(own, []) is own
    assert with_conditions(own, more) == AllOf([own, *more])
    full = AllOf([own] * 99)
    assert with_conditions(full, more) is full
