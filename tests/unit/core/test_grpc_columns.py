"""Columns on the wire: what makes them fast must not change what they say."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.common.v1 import candidates_pb2
from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.grpc_parse_ranking import parse_candidates
from tandem_core.grpc_render import candidate_list


@pytest.mark.parametrize("n", [1, 31, 32, 127, 300])  # lengths of the field of 1 byte, of 2, and where they meet
def test_columns_come_back_as_they_were_sent(bundle: Bundle, n: int) -> None:
    rng = np.random.default_rng(n)
    scores = rng.normal(size=n).astype(np.float32)
    columns = {
        "rank:a": rng.integers(0, 3000, n).astype(np.int32),
        "score:a": rng.normal(size=n).astype(np.float32),
        "rank:b": np.zeros(n, np.int32),
        "score:b": np.zeros(n, np.float32),
    }
    batch = CandidateBatch(rng.permutation(len(bundle.catalog))[:n].astype(np.int32), scores, columns)
    message = candidate_list(batch, bundle, by_row=True)
    assert list(message.scores) == scores.tolist()
    assert list(message.source_masks) == (columns["rank:a"] > 0).astype(int).tolist()
    received = candidates_pb2.CandidateList.FromString(message.SerializeToString())
    back, unknown = parse_candidates(received, bundle.catalog)
    assert unknown == []
    assert back.rows.tolist() == batch.rows.tolist()
    np.testing.assert_array_equal(back.scores, scores)
    assert list(back.columns) == list(columns)
    for name, column in columns.items():
        np.testing.assert_array_equal(back.columns[name], column)
        assert back.columns[name].dtype == column.dtype


def test_an_empty_list_is_sent_as_one(bundle: Bundle) -> None:
    message = candidate_list(CandidateBatch.empty(), bundle, by_row=True)
    assert len(message.scores) == len(message.rows) == 0


@pytest.mark.parametrize(("field", "dtype"), [("scores", np.float32), ("rows", np.int32)])
def test_a_packed_field_becomes_an_array_in_one_piece(field: str, dtype: type) -> None:
    values = list(range(5000))
    column = getattr(candidates_pb2.CandidateList(**{field: values}), field)
    # The runtime hands over its buffer, and knows what is in it: of Python numbers numpy would make 64 bits each.
    assert np.array(column).dtype == dtype
    assert np.array(column, dtype).tolist() == values
