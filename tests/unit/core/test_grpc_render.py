from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2

from tandem.common.v1 import context_pb2, degradation_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.catalog import Catalog
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.errors import BundleMismatch, FieldViolation, InvalidRequest
from tandem_core.grpc_errors import to_call_error, to_status
from tandem_core.grpc_parse_ranking import parse_candidates
from tandem_core.grpc_render import candidate_list, degradations, ranked_items, retrieve_response, serving_state
from tandem_core.query import Fill, Query, Regime, Seen
from tandem_core.ranking_pipeline import Slate
from tandem_core.reasons import Reason, ReasonKind
from tandem_core.retrieval_pipeline import Retrieved
from tandem_core.serving_bundles import Held


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    built: Bundle = make_bundle()
    return built


@pytest.fixture
def batch() -> CandidateBatch:
    columns: dict[str, np.ndarray] = {
        "rank:a": np.array([1, 0, 2], np.int32),
        "score:a": np.array([0.5, 0, 0.25], np.float32),
        "rank:b": np.array([2, 1, 0], np.int32),
        "score:b": np.array([8, 9, 0], np.float32),
        "age_days": np.zeros(3),  # not a source's: stays at home
    }
    return CandidateBatch(np.array([4, 0, 11], np.int32), np.array([0.9, 0.5, 0.125], np.float32), columns)


@pytest.mark.parametrize(
    ("ours", "theirs", "unspecified"),
    [
        (Regime, context_pb2.UserRegime, "USER_REGIME_"),
        (Fill, filter_pb2.FillPolicy, "FILL_POLICY_"),
        (Seen, filter_pb2.SeenMode, "SEEN_MODE_"),
        (DegradationKind, degradation_pb2.DegradationKind, "DEGRADATION_KIND_"),
        (ReasonKind, ranking_pb2.ReasonKind, "REASON_KIND_"),
    ],
)
def test_numbers_of_enums_are_the_contracts(
    ours: type[Regime], theirs: type[context_pb2.UserRegime], unspecified: str
) -> None:
    contract = {name.removeprefix(unspecified): number for name, number in theirs.items()}
    assert contract.pop("UNSPECIFIED") == 0
    assert {member.name: member.value for member in ours} == contract


@pytest.mark.parametrize("by_row", [True, False])
def test_a_candidate_list_is_read_back_as_it_was_written(by_row: bool, batch: CandidateBatch, bundle: Bundle) -> None:
    message = candidate_list(batch, bundle, by_row=by_row)
    assert message.bundle_id == "b1"
    assert list(message.rows) == ([4, 0, 11] if by_row else [])
    assert list(message.item_ids) == ([] if by_row else ["i4", "i0", "i11"])
    assert list(message.source_masks) == [0b11, 0b10, 0b01]
    read, unknown = parse_candidates(message, bundle.catalog)
    assert unknown == []
    np.testing.assert_array_equal(read.rows, batch.rows)
    np.testing.assert_array_equal(read.scores, batch.scores)
    assert read.sources == ["a", "b"]
    for name in ("rank:a", "score:a", "rank:b", "score:b"):
        np.testing.assert_array_equal(read.columns[name], batch.columns[name])


def test_an_empty_list_has_every_column_empty(bundle: Bundle) -> None:
    message = candidate_list(CandidateBatch.empty(), bundle, by_row=True)
    assert (len(message.rows), len(message.scores), len(message.source_masks), len(message.source_columns)) == (0,) * 4


def test_an_answer_of_retrieval_says_who_answered_and_what_was_missing(batch: CandidateBatch, bundle: Bundle) -> None:
    late = Degradation(DegradationKind.SOURCE_LATE, "als", "no time left")
    no_store = Degradation(DegradationKind.STORE_UNAVAILABLE, "store")
    query = Query(request_id="r7", now_ms=0, max_results=5)
    response = retrieve_response(
        Retrieved(batch, "b1", Regime.PROFILE_ONLY, (late,), ""), query, bundle, [no_store], by_row=True
    )
    assert (response.request_id, response.bundle_id, response.regime) == (
        "r7",
        "b1",
        context_pb2.USER_REGIME_PROFILE_ONLY,
    )
    assert [(d.kind, d.component, d.message) for d in response.degradations] == [
        (degradation_pb2.DEGRADATION_KIND_STORE_UNAVAILABLE, "store", ""),
        (degradation_pb2.DEGRADATION_KIND_SOURCE_LATE, "als", "no time left"),
    ]
    empty = retrieve_response(
        Retrieved(CandidateBatch.empty(), "b1", Regime.UNKNOWN, (), "why"), query, bundle, (), by_row=True
    )
    assert empty.empty_reason == "why"
    assert degradations([]) == []


def slate(batch: CandidateBatch, *reasons: tuple[Reason, ...]) -> Slate:
    return Slate(batch, reasons or ((),) * len(batch), "b1", Regime.WARM, (), "", np.linspace(0, 0.5, len(batch)))


def test_ranked_items_carry_place_score_and_what_each_source_said(batch: CandidateBatch, catalog: Catalog) -> None:
    items = ranked_items(slate(batch), catalog, ())
    assert [(item.item_id, item.position, item.score, item.propensity) for item in items] == [
        ("i4", 1, pytest.approx(0.9), 0),
        ("i0", 2, 0.5, 0.25),
        ("i11", 3, 0.125, 0.5),
    ]
    assert [[(s.source, s.rank, s.score) for s in item.sources] for item in items] == [
        [("a", 1, 0.5), ("b", 2, 8)],
        [("b", 1, 9)],
        [("a", 2, 0.25)],
    ]


def test_each_reason_puts_its_parameter_where_the_contract_says(batch: CandidateBatch, catalog: Catalog) -> None:
    given = (
        (Reason(ReasonKind.BECAUSE_OF_ITEM, "i7"), Reason(ReasonKind.POPULAR_IN_CATEGORY, "Drama")),
        (Reason(ReasonKind.POPULAR_IN_SEGMENT, "age=25"),),
        (Reason(ReasonKind.NEW_ITEM),),
    )
    items = ranked_items(slate(batch, *given), catalog, ())
    assert [[(r.kind, r.item_id, r.category, r.segment) for r in item.reasons] for item in items] == [
        [(ranking_pb2.REASON_KIND_BECAUSE_OF_ITEM, "i7", "", ""), (6, "", "Drama", "")],
        [(ranking_pb2.REASON_KIND_POPULAR_IN_SEGMENT, "", "", "age=25")],
        [(ranking_pb2.REASON_KIND_NEW_ITEM, "", "", "")],
    ]


def test_columns_asked_for_come_in_the_order_asked_without_those_that_have_no_value(
    batch: CandidateBatch, catalog: Catalog
) -> None:
    asked = ["price", "categories", "creator", "title", "item_id", "of an older bundle"]
    items = ranked_items(slate(batch), catalog, asked)
    assert [[attribute.name for attribute in item.attributes] for item in items] == [
        ["price", "categories", "creator", "title", "item_id"],
        ["price", "categories", "creator", "item_id"],  # i0 has no title
        ["title", "item_id"],  # i11 has nothing else
    ]
    price, categories, creator, title, item_id = items[0].attributes
    assert price.number_value == 40
    assert list(categories.strings_value.values) == ["Drama", "News"]
    assert (creator.string_value, title.string_value, item_id.string_value) == ("c1", "Title 4", "i4")
    assert items[1].attributes[0].number_value == 0  # free is a price


def test_the_serving_state_names_what_serves_and_why_a_newer_one_does_not(bundle: Bundle) -> None:
    held = Held("b1", "b0", (("b1", "x"), ("b0", "y")), "b2", "file.npy is missing")
    state = serving_state(held, bundle, 1_500)
    assert (state.serving, state.bundle_id, state.previous_bundle_id) == (True, "b1", "b0")
    assert (state.refused_bundle_id, state.refusal) == ("b2", "file.npy is missing")
    assert state.catalogue_size == 12
    assert state.started.ToMilliseconds() == 1_500
    assert state.bundle_created.ToMilliseconds() == bundle.manifest.created_ms
    assert [metric.name for metric in state.bundle_metrics] == ["ann_recall@300_als", "ndcg@10"]


def test_without_a_bundle_the_serving_state_says_why() -> None:
    state = serving_state(Held(), None, 0)
    assert not state.serving
    assert state.refusal == "no bundle has been looked for yet"
    assert not state.HasField("bundle_created")


def test_a_refusal_of_many_fields_fits_into_a_trailer_and_says_how_many_there_were() -> None:
    error = InvalidRequest(*(FieldViolation(f"context.recent_events[{i}].value", "x " * 500) for i in range(200)))
    status = to_status(error)
    assert status.code == code_pb2.INVALID_ARGUMENT
    # Clients refuse metadata above 8 KiB; details travel in base64, beside the message.
    assert len(status.SerializeToString()) * 4 / 3 + len(status.message) < 8192
    detail = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(detail)
    assert [v.field for v in detail.field_violations] == [f"context.recent_events[{i}].value" for i in range(20)]
    assert status.message.endswith("; and 197 more")
    assert len(to_call_error(error).field_violations) == 20


def test_a_refusal_of_few_fields_says_all_of_them() -> None:
    error = InvalidRequest(FieldViolation("a", "is wrong"), FieldViolation("b", "is bad"))
    assert to_status(error).message == "a: is wrong; b: is bad"
    result = to_call_error(error)
    assert [(v.field, v.description) for v in result.field_violations] == [("a", "is wrong"), ("b", "is bad")]


def test_a_batch_tells_a_mismatch_from_a_bug() -> None:
    mismatch, bug = to_call_error(BundleMismatch("not b1")), to_call_error(KeyError("secret"))
    assert (mismatch.code, mismatch.message) == (code_pb2.FAILED_PRECONDITION, "not b1")
    assert bug.code == code_pb2.INTERNAL
    assert "secret" not in bug.message
