"""From ranking requests on the wire to queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.common.v1 import candidates_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem_core.candidates import CandidateBatch
from tandem_core.catalog import Catalog
from tandem_core.errors import FieldViolation, InvalidRequest
from tandem_core.grpc_parse import (
    DEFAULT_RESULTS,
    MOST_RESULTS,
    MOST_SOURCES,
    Checks,
    parse_common,
    parse_fill,
)
from tandem_core.query import Query

MOST_RANKED = 1000
MOST_RETURNED_ATTRIBUTES = 16


def parse_recommend(request: ranking_pb2.RecommendRequest, clock_ms: int) -> Query:
    """Return the query of a RecommendRequest; raises InvalidRequest with every violation."""
    checks = Checks()
    fields = parse_common(checks, request, clock_ms)
    fields |= parse_fill(checks, request.fill_policy, request.exclude_item_ids)
    wanted = checks.count(request.max_results, DEFAULT_RESULTS, MOST_RESULTS, "max_results")
    checks.at_most(request.return_attributes, MOST_RETURNED_ATTRIBUTES, "return_attributes")
    checks.done()
    return Query(max_results=wanted, **fields)


def parse_rank(request: ranking_pb2.RankRequest, clock_ms: int) -> Query:
    """Return the query of a RankRequest, without its candidates; raises InvalidRequest with every violation."""
    checks = Checks()
    fields = parse_common(checks, request, clock_ms)
    listed = max(len(request.candidates.rows), len(request.candidates.item_ids))
    checks.that(0 < listed <= MOST_RANKED, "candidates", f"has {listed} entries, 1 to {MOST_RANKED} are allowed")
    one_form = not (request.candidates.rows and request.candidates.item_ids)
    checks.that(one_form, "candidates", "has rows and item_ids; give one of them")
    with_bundle = not request.candidates.rows or bool(request.candidates.bundle_id)
    checks.that(with_bundle, "candidates.bundle_id", "is required with rows")
    wanted = checks.count(request.max_results, listed, MOST_RANKED, "max_results")
    checks.at_most(request.return_attributes, MOST_RETURNED_ATTRIBUTES, "return_attributes")
    checks.done()
    return Query(max_results=max(wanted, 1), **fields)


def check_returned_attributes(names: Sequence[str], catalog: Catalog) -> None:
    """Raise InvalidRequest where a column to be returned does not exist."""
    if unknown := [name for name in names if name not in catalog.columns]:
        known = ", ".join(catalog.columns)
        raise InvalidRequest(FieldViolation("return_attributes", f"no columns {unknown}; there are {known}"))


def parse_candidates(
    message: candidates_pb2.CandidateList, catalog: Catalog, field: str = "candidates"
) -> tuple[CandidateBatch, list[str]]:
    """Return the candidates of a message in terms of one catalogue, and the item ids it does not have.

    Rows of items that were deleted, and numbers of live items that are not known here any more, are left out. Raises
    InvalidRequest where columns differ in length, rows are outside the catalogue or doubled, or a score is not finite.
    """
    checks = Checks()
    by_id = bool(message.item_ids)
    given = catalog.find(message.item_ids) if by_id else np.array(message.rows, np.int32)
    rows = catalog.rows_of_wire(given)
    n = len(rows)
    scores = _column(checks, message.scores, n, np.float32, f"{field}.scores")
    columns: dict[str, NDArray[Any]] = {}
    masks = len(message.source_masks)  # only their number matters: which source found what is in the ranks
    checks.that(masks in (0, n), f"{field}.source_masks", f"has {masks} entries, the list has {n}")
    checks.at_most(message.source_columns, MOST_SOURCES, f"{field}.source_columns")
    for i, source in enumerate(message.source_columns):
        at = f"{field}.source_columns[{i}]"
        checks.that(bool(source.source), f"{at}.source", "is required")
        checks.that(f"rank:{source.source}" not in columns, f"{at}.source", "names a source twice")
        columns[f"rank:{source.source}"] = _column(checks, source.ranks, n, np.int32, f"{at}.ranks")
        columns[f"score:{source.source}"] = _column(checks, source.scores, n, np.float32, f"{at}.scores")
    if not by_id:
        inside = bool((given < catalog.bundle_size).all())
        checks.that(inside, f"{field}.rows", f"has rows outside the catalogue of {catalog.bundle_size} items")
    known = rows >= 0
    different = len(set(message.item_ids)) if by_id else n - int((np.diff(np.sort(given)) == 0).sum())
    checks.that(different == n, field, "names an item twice")
    checks.done()
    unknown = [item_id for item_id, ok in zip(message.item_ids, known, strict=True) if not ok] if by_id else []
    batch = CandidateBatch(rows, scores, columns)
    return batch if known.all() else batch.take(known), unknown


def _column(checks: Checks, values: object, n: int, dtype: type, field: str) -> NDArray[Any]:
    """Return a packed column as an array; absent ones are all 0."""
    # One call into the message's own buffer: slicing takes six times as long.
    column: NDArray[Any] = np.array(values, dtype)
    if not len(column):
        return np.zeros(n, dtype)
    if not checks.that(len(column) == n, field, f"has {len(column)} entries, the list has {n}"):
        return np.zeros(n, dtype)
    if dtype is np.float32:  # whole numbers are finite
        checks.that(bool(np.isfinite(column).all()), field, "has a value that is not finite")
    return column
