"""The contract's promises as checks: call them on any answer, of a stub or of a real service."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from tandem.common.v1 import candidates_pb2, degradation_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_testing import limits
from tandem_testing.seeded import interacted_ids

ROUNDING = 1e-4  # of float32, over a few hundred dimensions


def assert_valid_slate(response: ranking_pb2.RecommendResponse, request: ranking_pb2.RecommendRequest) -> None:
    """Raise AssertionError where the answer breaks a promise of RecommendResponse, naming it and the item."""
    _check_ids(response.bundle_id, response.request_id, request.context.request_id)
    _promise(bool(response.decision_id), "decision_id is set", response.decision_id)
    most = request.max_results or limits.DEFAULT_RESULTS
    _promise(len(response.items) <= most, f"at most {most} items", f"{len(response.items)} items")
    _check_empty_reason(response.empty_reason, len(response.items))
    _check_degradations(response.degradations)
    for asked in request.context.experiments:
        _promise(asked in response.experiments, "experiments of the request are echoed", asked)
    _no_duplicates([item.item_id for item in response.items])
    excluded = set(request.exclude_item_ids)
    if request.seen_policy.interacted == filter_pb2.SEEN_MODE_EXCLUDE:  # unset, the placement's policy decides
        excluded.update(interacted_ids(request.context))
    above = math.inf
    for position, item in enumerate(response.items, start=1):
        _promise(item.position == position, f"positions are 1 to n: here {position}", item)
        _promise(item.score <= above, f"scores are numbers that never increase: above it is {above}", item)
        _promise(item.item_id not in excluded, "excluded items are absent", item)
        _check_item(item, request.return_attributes)
        above = item.score


def assert_valid_candidates(response: retrieval_pb2.RetrieveResponse, request: retrieval_pb2.RetrieveRequest) -> None:
    """Raise AssertionError where the answer breaks a promise of RetrieveResponse, naming it and the item.

    Whether excluded items are absent can be told of item ids only, not of rows.
    """
    found = response.candidates
    items: Sequence[str] | Sequence[int] = found.rows or found.item_ids
    _check_ids(response.bundle_id, response.request_id, request.context.request_id)
    if request.acceptable_bundle_ids:
        acceptable = list(request.acceptable_bundle_ids)
        _promise(response.bundle_id in acceptable, f"the bundle is one of {acceptable}", response.bundle_id)
    most = request.max_candidates or limits.DEFAULT_CANDIDATES
    _promise(len(items) <= most, f"at most {most} candidates", f"{len(items)} candidates")
    _check_empty_reason(response.empty_reason, len(items))
    _check_degradations(response.degradations)
    _check_item_form(response, request)
    _check_columns(found, items)
    excluded = set(request.exclude_item_ids)
    if request.seen_policy.interacted in (filter_pb2.SEEN_MODE_UNSPECIFIED, filter_pb2.SEEN_MODE_EXCLUDE):
        excluded.update(interacted_ids(request.context))
    for item_id in found.item_ids:
        _promise(item_id not in excluded, "excluded items are absent", item_id)


def assert_valid_similar_items(
    response: retrieval_pb2.SimilarItemsResponse, request: retrieval_pb2.SimilarItemsRequest
) -> None:
    """Raise AssertionError where the answer breaks a promise of SimilarItemsResponse, naming it and the item."""
    found = response.candidates
    _promise(bool(response.bundle_id), "bundle_id is set", repr(response.bundle_id))
    most = request.max_results or limits.DEFAULT_RESULTS
    _promise(len(found.item_ids) <= most, f"at most {most} items", f"{len(found.item_ids)} items")
    _promise(not found.rows, "items are named by id", f"{len(found.rows)} rows")
    _check_columns(found, found.item_ids)
    for item_id in found.item_ids:
        _promise(item_id not in request.item_ids, "the given items are absent", item_id)
    for item_id, score in zip(found.item_ids, found.scores, strict=False):
        _promise(abs(score) <= 1 + ROUNDING, "scores are cosines", f"{item_id!r} with score {score}")
    sources = [column.source for column in found.source_columns]
    _promise(set(sources) <= {"two_tower"}, "the only source is two_tower", sources)


def assert_valid_embeddings(
    response: retrieval_pb2.GetEmbeddingsResponse, request: retrieval_pb2.GetEmbeddingsRequest
) -> None:
    """Raise AssertionError where the answer breaks a promise of GetEmbeddingsResponse, naming it and the id."""
    _promise(bool(response.bundle_id), "bundle_id is set", repr(response.bundle_id))
    asked, items = list(request.item_ids), [item.id for item in response.items]
    known = set(items)
    _promise(items == [i for i in asked if i in known], "items in the order asked, unknown ids left out", items)
    users = [user.id for user in response.users]
    _promise(users == [user.user_id for user in request.users], "one vector for each user, in the order asked", users)
    vectors = [*response.items, *response.users]
    for each in vectors:
        length = math.hypot(*each.values)
        _promise(abs(length - 1) <= ROUNDING, "vectors have length 1", f"{each.id!r} with length {length}")
        same = len(each.values) == len(vectors[0].values)
        _promise(same, f"vectors have {len(vectors[0].values)} values", f"{each.id!r} with {len(each.values)}")


def _promise(holds: bool, promise: str, shown: object) -> None:
    """Raise unless a promise holds; raised by hand, since `python -O` strips assert statements."""
    if holds:
        return
    text = f"\n{str(shown).rstrip()}" if isinstance(shown, Message) else f" {shown}"
    raise AssertionError(f"broken promise: {promise}\nby:{text}")


def _check_ids(bundle_id: str, request_id: str, asked_id: str) -> None:
    _promise(bool(bundle_id), "bundle_id is set", repr(bundle_id))
    _promise(bool(request_id), "request_id is set", repr(request_id))
    _promise(request_id == asked_id or not asked_id, f"request_id is the request's own, {asked_id!r}", repr(request_id))


def _check_empty_reason(reason: str, n: int) -> None:
    _promise(bool(reason) == (n == 0), "empty_reason is there if and only if the list is empty", f"{reason!r}, n = {n}")


def _check_degradations(degradations: Iterable[degradation_pb2.Degradation]) -> None:
    for each in degradations:
        kind_set = each.kind != degradation_pb2.DEGRADATION_KIND_UNSPECIFIED
        _promise(kind_set, "a degradation says its kind", each)


def _no_duplicates(items: Sequence[str] | Sequence[int]) -> None:
    seen: set[str | int] = set()
    for item in items:
        _promise(item not in seen, "no item comes twice", repr(item))
        seen.add(item)


# What a reason of a kind is worth nothing without.
_PARAMETERS = {
    ranking_pb2.REASON_KIND_BECAUSE_OF_ITEM: "item_id",
    ranking_pb2.REASON_KIND_POPULAR_IN_SEGMENT: "segment",
    ranking_pb2.REASON_KIND_POPULAR_IN_CATEGORY: "category",
}


def _check_item(item: ranking_pb2.RankedItem, asked: Sequence[str]) -> None:
    """Check what can be told of one item of a slate by itself."""
    _promise(bool(item.item_id), "item_id is set", item)
    _promise(len(item.reasons) <= limits.MOST_REASONS, f"at most {limits.MOST_REASONS} reasons", item)
    for reason in item.reasons:
        _promise(reason.kind != ranking_pb2.REASON_KIND_UNSPECIFIED, "a reason says its kind", item)
        if parameter := _PARAMETERS.get(reason.kind):
            kind = ranking_pb2.ReasonKind.Name(reason.kind)
            _promise(bool(getattr(reason, parameter)), f"{kind} comes with its {parameter}", item)
    for source in item.sources:
        _promise(bool(source.source) and source.rank >= 1, "a source has a name and a rank from 1", item)
    _promise(0 <= item.propensity <= 1, "propensity is a probability", item)
    names = [attribute.name for attribute in item.attributes]
    _promise(set(names) <= set(asked), f"attributes are only those asked for, {list(asked)}", item)
    _promise(names == [name for name in asked if name in names], f"attributes are in the order {list(asked)}", item)
    _promise(all(a.WhichOneof("value") for a in item.attributes), "columns without a value are left out", item)


def _check_item_form(response: retrieval_pb2.RetrieveResponse, request: retrieval_pb2.RetrieveRequest) -> None:
    found = response.candidates
    both = f"{len(found.rows)} rows and {len(found.item_ids)} item_ids"
    _promise(not (found.rows and found.item_ids), "either rows or item_ids, never both", both)
    if request.item_form == retrieval_pb2.ITEM_FORM_ROWS:
        _promise(not found.item_ids, "items are named by row, as asked", both)
    else:
        _promise(not found.rows, "items are named by id, as asked", both)
    if found.rows:
        same = found.bundle_id == response.bundle_id
        _promise(same, f"rows count in the answering bundle, {response.bundle_id!r}", repr(found.bundle_id))
    for item in (*found.rows, *found.item_ids):
        _promise(item >= 0 if isinstance(item, int) else bool(item), "a row is 0 or more, an id is not empty", item)


def _check_columns(found: candidates_pb2.CandidateList, items: Sequence[str] | Sequence[int]) -> None:
    """Check what every list of candidates keeps, whatever call it answers."""
    for name, n in limits.column_lengths(found):
        _promise(n in (0, len(items)), f"every column has {len(items)} entries, as the list", f"{name} has {n}")
    _no_duplicates(items)
    above = math.inf
    for item, score in zip(items, found.scores, strict=False):  # no scores at all means that all are 0
        _promise(math.isfinite(score), "scores are finite", f"{item!r} with score {score}")
        _promise(score <= above, f"candidates are best first: above it is {above}", f"{item!r} with score {score}")
        above = score
    _check_sources(found, items)


def _check_sources(found: candidates_pb2.CandidateList, items: Sequence[str] | Sequence[int]) -> None:
    """Check what the sources said; the columns' lengths are known to be right."""
    columns = found.source_columns
    names = [column.source for column in columns]
    _promise(len(columns) <= limits.MOST_SOURCES, f"at most {limits.MOST_SOURCES} source columns", len(columns))
    _promise(all(names) and len(set(names)) == len(names), "source columns have names of their own", names)
    for place, item in enumerate(items):
        expected = 0
        for bit, column in enumerate(columns):
            rank = column.ranks[place] if column.ranks else 0
            score = column.scores[place] if column.scores else 0.0
            shown = f"{item!r}: {column.source} says rank {rank}, score {score}"
            _promise(rank >= 0 and math.isfinite(score), "a rank is 0 or more, a source's score finite", shown)
            expected |= (rank > 0) << bit
        if found.source_masks:
            mask = found.source_masks[place]
            shown = f"{item!r}: mask {mask:b}, by the ranks {expected:b}"
            _promise(mask == expected, "the source mask names the sources that gave a rank", shown)
