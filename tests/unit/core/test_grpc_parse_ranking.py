from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.common.v1 import candidates_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem_core.catalog import Catalog
from tandem_core.errors import InvalidRequest
from tandem_core.grpc_parse_ranking import (
    check_returned_attributes,
    parse_candidates,
    parse_rank,
    parse_recommend,
)
from tandem_core.query import Seen

CLOCK_MS = 1_700_000_000_000
INT32 = st.integers(-(2**31), 2**31 - 1)


def fields_of(error: InvalidRequest) -> list[str]:
    return [violation.field for violation in error.violations]


def candidates(**fields: Any) -> candidates_pb2.CandidateList:
    return candidates_pb2.CandidateList(**fields)


def rank(**fields: Any) -> ranking_pb2.RankRequest:
    return ranking_pb2.RankRequest(**({"candidates": {"item_ids": ["i1", "i2"]}} | fields))


@given(st.lists(INT32, max_size=40), st.lists(st.floats(width=32, allow_nan=False), max_size=40))
def test_a_packed_field_is_read_as_an_array_of_its_own_values(rows: list[int], scores: list[float]) -> None:
    # What `parse_candidates` relies on: upb hands its buffer over whole, with the right type and values.
    message = candidates_pb2.CandidateList.FromString(candidates(rows=rows, scores=scores).SerializeToString())
    as_rows, as_scores = np.array(message.rows, np.int32), np.array(message.scores, np.float32)
    assert as_rows.dtype == np.int32
    assert as_scores.dtype == np.float32
    assert as_rows.tolist() == rows
    assert as_scores.tolist() == scores
    assert as_rows.shape == (len(rows),)
    as_rows[:] = 0
    assert list(message.rows) == rows  # a copy: nothing writes into a message


def test_candidates_by_row_keep_their_scores_and_what_sources_said(catalog: Catalog) -> None:
    message = candidates(
        bundle_id="b1",
        rows=[7, 0, 3],
        scores=[0.5, -1, 0.25],
        source_masks=[1, 3, 2],
        source_columns=[
            {"source": "als", "ranks": [1, 2, 0], "scores": [0.75, 0.5, 0]},
            {"source": "popularity", "ranks": [0, 1, 2]},
        ],
    )
    batch, unknown = parse_candidates(message, catalog)
    assert batch.rows.tolist() == [7, 0, 3]
    assert batch.rows.dtype == np.int32
    assert batch.scores.dtype == np.float32
    assert batch.scores.tolist() == [0.5, -1, 0.25]
    assert batch.sources == ["als", "popularity"]
    assert batch.columns["rank:als"].tolist() == [1, 2, 0]
    assert batch.columns["score:als"].tolist() == [0.75, 0.5, 0]
    assert batch.columns["score:popularity"].tolist() == [0, 0, 0]
    assert unknown == []


def test_unknown_item_ids_are_dropped_with_their_columns_and_reported_in_order(catalog: Catalog) -> None:
    message = candidates(
        item_ids=["z", "i3", "y", "i0"],
        scores=[4, 3, 2, 1],
        source_columns=[{"source": "als", "ranks": [1, 2, 3, 4], "scores": [9, 8, 7, 6]}],
    )
    batch, unknown = parse_candidates(message, catalog)
    assert unknown == ["z", "y"]
    assert batch.rows.tolist() == [3, 0]
    assert batch.scores.tolist() == [3, 1]
    assert batch.columns["rank:als"].tolist() == [2, 4]


def test_candidates_without_scores_have_0(catalog: Catalog) -> None:
    batch, _ = parse_candidates(candidates(rows=[1, 2]), catalog)
    assert batch.scores.tolist() == [0, 0]
    assert len(parse_candidates(candidates(), catalog)[0]) == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"rows": [1, 12]}, "candidates.rows"),
        ({"rows": [1, 2, 1]}, "candidates"),
        ({"item_ids": ["i1", "i1"]}, "candidates"),
        ({"item_ids": ["z", "z"]}, "candidates"),
        ({"rows": [1, 2], "scores": [1]}, "candidates.scores"),
        ({"rows": [1, 2], "scores": [1, math.nan]}, "candidates.scores"),
        ({"rows": [1, 2], "scores": [1, math.inf]}, "candidates.scores"),
        ({"rows": [1, 2], "source_masks": [1, 1, 1]}, "candidates.source_masks"),
        ({"rows": [1, 2], "source_columns": [{"source": "a", "ranks": [1]}]}, "candidates.source_columns[0].ranks"),
        (
            {"rows": [1], "source_columns": [{"source": "a"}, {"source": "b", "scores": [math.nan]}]},
            "candidates.source_columns[1].scores",
        ),
        ({"rows": [1], "source_columns": [{"ranks": [1]}]}, "candidates.source_columns[0].source"),
        (
            {"rows": [1], "source_columns": [{"source": "a"}, {"source": "a"}]},
            "candidates.source_columns[1].source",
        ),
        ({"rows": [1], "source_columns": [{"source": str(i)} for i in range(33)]}, "candidates.source_columns"),
    ],
)
def test_candidates_that_cannot_be_are_named_by_their_field(
    fields: dict[str, Any], field: str, catalog: Catalog
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_candidates(candidates(**fields), catalog)
    assert fields_of(caught.value) == [field]


def test_all_that_is_wrong_with_candidates_is_said_at_once(catalog: Catalog) -> None:
    message = candidates(rows=[1, 1, 99], scores=[1], source_columns=[{"source": "a", "scores": [math.nan] * 3}])
    with pytest.raises(InvalidRequest) as caught:
        parse_candidates(message, catalog)
    assert fields_of(caught.value) == [
        "candidates.scores",
        "candidates.source_columns[0].scores",
        "candidates.rows",
        "candidates",
    ]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_results": -1}, "max_results"),
        ({"max_results": 501}, "max_results"),
        ({"return_attributes": ["title"] * 17}, "return_attributes"),
        ({"fill_policy": 9}, "fill_policy"),
        ({"exclude_item_ids": [""]}, "exclude_item_ids[0]"),
        ({"context": {"user_id": "u" * 257}}, "context.user_id"),
        ({"filter": {}}, "filter.condition"),
    ],
)
def test_a_wrong_recommend_request_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_recommend(ranking_pb2.RecommendRequest(**fields), CLOCK_MS)
    assert fields_of(caught.value) == [field]


def test_recommend_means_20_results_by_default_and_leaves_the_rest_to_the_placement() -> None:
    query = parse_recommend(ranking_pb2.RecommendRequest(), CLOCK_MS)
    assert (query.max_results, query.interacted, query.plans) == (20, None, ())
    assert parse_recommend(ranking_pb2.RecommendRequest(max_results=500), CLOCK_MS).max_results == 500


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_results": -1}, "max_results"),
        ({"max_results": 1001}, "max_results"),
        ({"candidates": {}}, "candidates"),
        ({"candidates": {"item_ids": [str(i) for i in range(1001)]}}, "candidates"),
        ({"candidates": {"item_ids": ["i1"], "rows": [1], "bundle_id": "b1"}}, "candidates"),
        ({"candidates": {"rows": [1]}}, "candidates.bundle_id"),
        ({"return_attributes": ["title"] * 17}, "return_attributes"),
        ({"seen_policy": {"interacted": 9}}, "seen_policy.interacted"),
    ],
)
def test_a_wrong_rank_request_names_the_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_rank(rank(**fields), CLOCK_MS)
    assert fields_of(caught.value) == [field]


def test_rank_returns_all_candidates_by_default() -> None:
    assert parse_rank(rank(), CLOCK_MS).max_results == 2
    assert parse_rank(rank(candidates={"rows": [4, 5, 6], "bundle_id": "b1"}), CLOCK_MS).max_results == 3
    query = parse_rank(rank(max_results=1, seen_policy={"interacted": "SEEN_MODE_EXCLUDE"}), CLOCK_MS)
    assert (query.max_results, query.interacted) == (1, Seen.EXCLUDE)


def test_columns_to_be_returned_must_exist(catalog: Catalog) -> None:
    check_returned_attributes(["title", "price", "item_id"], catalog)
    with pytest.raises(InvalidRequest, match=r"no columns \['colour'\]; there are item_id, title, categories"):
        check_returned_attributes(["title", "colour"], catalog)
