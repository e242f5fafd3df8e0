"""From results to responses on the wire."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from google.protobuf import timestamp_pb2
from google.protobuf.message import Message
from numpy.typing import NDArray

from tandem.common.v1 import attribute_pb2, candidates_pb2, context_pb2, degradation_pb2, serving_state_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_core import observe
from tandem_core.bundle import Bundle
from tandem_core.candidates import CandidateBatch
from tandem_core.catalog import Catalog
from tandem_core.degradation import Degradation
from tandem_core.errors import FieldViolation, InvalidRequest
from tandem_core.query import Query
from tandem_core.ranking_pipeline import Slate
from tandem_core.reasons import Reason, ReasonKind
from tandem_core.retrieval_pipeline import Retrieved
from tandem_core.rule_trace import Part, parts_of
from tandem_core.serving_bundles import Held

LARGEST_ANSWER = 4 << 20  # bytes: what a gRPC client takes unless it is told to take more


def candidate_list(batch: CandidateBatch, bundle: Bundle, *, by_row: bool) -> candidates_pb2.CandidateList:
    """Return candidates as columns, items by row or by id."""
    masks = np.zeros(len(batch), np.int64)
    columns = []
    for bit, source in enumerate(batch.sources):
        ranks = batch.columns[f"rank:{source}"]
        masks |= (ranks > 0).astype(np.int64) << bit
        column = candidates_pb2.SourceColumn(source=source, ranks=ranks.tolist())
        column.MergeFromString(_floats(_SCORES_OF_SOURCE, batch.columns[f"score:{source}"]))
        columns.append(column)
    rows = (bundle.catalog.wire_rows(batch.rows) if by_row else batch.rows).tolist()
    message = candidates_pb2.CandidateList(
        bundle_id=bundle.id,
        rows=rows if by_row else None,
        item_ids=None if by_row else [bundle.catalog.item_ids[row] for row in rows],
        source_masks=masks.tolist(),
        source_columns=columns,
    )
    message.MergeFromString(_floats(_SCORES, batch.scores))
    return message


_SCORES = candidates_pb2.CandidateList.DESCRIPTOR.fields_by_name["scores"].number
_SCORES_OF_SOURCE = candidates_pb2.SourceColumn.DESCRIPTOR.fields_by_name["scores"].number


def _floats(field: int, values: NDArray[Any]) -> bytes:
    """Return a packed field of floats as it stands on the wire, which is how numpy holds them, too.

    Reading it takes a sixth of what 500 Python floats take. field: 1 to 15. values: float [n].
    """
    packed = values.astype("<f4", copy=False).tobytes()
    length, size = bytearray(), len(packed)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((field << 3 | 2, *length, size)) + packed  # wire type 2: the length stands before


def retrieve_response(
    retrieved: Retrieved, query: Query, bundle: Bundle, more: Sequence[Degradation], *, by_row: bool
) -> retrieval_pb2.RetrieveResponse:
    """Return the answer of Retrieve. more: degradations from before the pipeline."""
    return retrieval_pb2.RetrieveResponse(
        candidates=candidate_list(retrieved.candidates, bundle, by_row=by_row),
        bundle_id=bundle.id,
        request_id=query.request_id,
        regime=retrieved.regime.value,  # type: ignore[arg-type]  # the numbers are the contract's
        degradations=degradations([*more, *retrieved.degradations]),
        empty_reason=retrieved.empty_reason,
    )


def similar_items_response(similar: CandidateBatch, bundle: Bundle) -> retrieval_pb2.SimilarItemsResponse:
    return retrieval_pb2.SimilarItemsResponse(
        candidates=candidate_list(similar, bundle, by_row=False), bundle_id=bundle.id
    )


def embeddings(ids: Iterable[str], vectors: NDArray[np.float32]) -> list[retrieval_pb2.Embedding]:
    """Return ids with their vectors. vectors: float32 [n, D], in the order of the n ids."""
    return [retrieval_pb2.Embedding(id=i, values=values) for i, values in zip(ids, vectors.tolist(), strict=True)]


def degradations(found: Sequence[Degradation]) -> list[degradation_pb2.Degradation]:
    observe.degraded(found)
    return [
        degradation_pb2.Degradation(kind=d.kind.value, component=d.component, message=d.message)  # type: ignore[arg-type]
        for d in found
    ]


def experiment_assignments(query: Query) -> list[context_pb2.ExperimentAssignment]:
    """Return what the request takes part in, what its caller decided first."""
    return [context_pb2.ExperimentAssignment(experiment=name, variant=value) for name, value in query.experiments]


def score_parts(parts: Iterable[Part]) -> list[ranking_pb2.ScorePart]:
    return [
        ranking_pb2.ScorePart(
            stage=part.stage,
            before=part.before,
            after=part.after,
            position_before=part.place_before,
            position_after=part.place_after,
        )
        for part in parts
    ]


def ranked_items(slate: Slate, catalog: Catalog, attributes: Sequence[str]) -> list[ranking_pb2.RankedItem]:
    """Return the final list, with the named columns of each item, and with its parts where the slate has a trace."""
    items = slate.items
    sources = [(s, items.columns[f"rank:{s}"].tolist(), items.columns[f"score:{s}"].tolist()) for s in items.sources]
    scores, propensities = items.scores.tolist(), slate.propensities.tolist()
    return [
        ranking_pb2.RankedItem(
            item_id=catalog.item_ids[row],
            position=place + 1,
            score=scores[place],
            propensity=propensities[place],
            reasons=[_reason(reason) for reason in slate.reasons[place]],
            sources=[
                ranking_pb2.SourceContribution(source=name, rank=ranks[place], score=source_scores[place])
                for name, ranks, source_scores in sources
                if ranks[place] > 0
            ],
            attributes=[found for name in attributes if (found := _attribute(catalog, row, name)) is not None],
            team=slate.teams[place] if slate.teams else "",
            parts=score_parts(parts_of(slate.stages, row)) if slate.stages else (),
        )
        for place, row in enumerate(items.rows.tolist())
    ]


def _reason(reason: Reason) -> ranking_pb2.Reason:
    message = ranking_pb2.Reason(kind=reason.kind.value)  # type: ignore[arg-type]
    if reason.kind is ReasonKind.BECAUSE_OF_ITEM:
        message.item_id = reason.parameter
    elif reason.kind is ReasonKind.POPULAR_IN_CATEGORY:
        message.category = reason.parameter
    elif reason.kind is ReasonKind.POPULAR_IN_SEGMENT:
        message.segment = reason.parameter
    return message


def _attribute(catalog: Catalog, row: int, name: str) -> attribute_pb2.Attribute | None:
    """Return one column of one item, None where it has no value.

    An older bundle, answering because retrieval has no newer one, may not have the column at all.
    """
    if name == "item_id":
        return attribute_pb2.Attribute(name=name, string_value=catalog.item_ids[row])
    if name == "title":
        return attribute_pb2.Attribute(name=name, string_value=catalog.titles[row]) if catalog.titles[row] else None
    if name in catalog.numbers:
        number = float(catalog.numbers[name][row])
        return None if math.isnan(number) else attribute_pb2.Attribute(name=name, number_value=number)
    column = catalog.codes.get(name)
    if column is None or not (values := column.values(row)):
        return None
    if column.codes.shape[1] == 1:
        return attribute_pb2.Attribute(name=name, string_value=values[0])
    return attribute_pb2.Attribute(name=name, strings_value=attribute_pb2.StringList(values=values))


def serving_state(held: Held[Any], bundle: Bundle | None, started_ms: int) -> serving_state_pb2.ServingState:
    """Return what is served, and why not. bundle: the current one, None when none is loaded."""
    state = serving_state_pb2.ServingState(
        serving=bundle is not None,
        bundle_id=held.current_id,
        previous_bundle_id=held.previous_id,
        refusal=held.refusal,
        refused_bundle_id=held.refused_id,
        started=timestamp(started_ms),
    )
    if bundle is not None:
        state.bundle_created.CopyFrom(timestamp(bundle.manifest.created_ms))
        state.catalogue_size = bundle.catalog.present
        metrics = sorted(bundle.manifest.metrics.items())
        state.bundle_metrics.extend(serving_state_pb2.Metric(name=name, value=value) for name, value in metrics)
    return state


def timestamp(milliseconds: int) -> timestamp_pb2.Timestamp:
    message = timestamp_pb2.Timestamp()
    message.FromMilliseconds(milliseconds)
    return message


def check_size(batch: Message, requests: int) -> None:
    """Raise InvalidRequest where the answers to so many requests are more than a client takes in one message.

    The client's own gRPC would only say RESOURCE_EXHAUSTED, which sounds like overload.
    """
    if (size := batch.ByteSize()) > LARGEST_ANSWER:
        fewer = max(1, int(0.9 * requests * LARGEST_ANSWER / size))  # those of other users may be longer
        raise InvalidRequest(
            FieldViolation(
                "requests",
                f"their answers have {size} bytes, a message {LARGEST_ANSWER}: send at most {fewer} of them at once",
            )
        )
