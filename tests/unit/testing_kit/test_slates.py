"""The checks must find every broken promise, and show it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from tandem.common.v1 import attribute_pb2, candidates_pb2, context_pb2, degradation_pb2, filter_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_testing import (
    assert_valid_candidates,
    assert_valid_embeddings,
    assert_valid_similar_items,
    assert_valid_slate,
)

Slate = ranking_pb2.RecommendResponse
Found = retrieval_pb2.RetrieveResponse


def slate_request() -> ranking_pb2.RecommendRequest:
    context = context_pb2.RequestContext(request_id="r-1", seed_item_ids=["seen"])
    context.experiments.add(experiment="colour", variant="blue")
    return ranking_pb2.RecommendRequest(
        context=context,
        max_results=3,
        exclude_item_ids=["gone"],
        return_attributes=["title", "price"],
        seen_policy=filter_pb2.SeenPolicy(interacted=filter_pb2.SEEN_MODE_EXCLUDE),
    )


def slate() -> Slate:
    items = [
        ranking_pb2.RankedItem(
            item_id=item_id,
            position=position,
            score=1 / position,
            reasons=[ranking_pb2.Reason(kind=ranking_pb2.REASON_KIND_POPULAR)],
            sources=[ranking_pb2.SourceContribution(source="als", rank=position)],
            attributes=[attribute_pb2.Attribute(name="title", string_value=item_id)],
        )
        for position, item_id in enumerate(["a", "b", "c"], start=1)
    ]
    experiments = slate_request().context.experiments
    return Slate(items=items, bundle_id="b", decision_id="d", request_id="r-1", experiments=experiments)


def emptied(response: Slate | Found) -> None:
    response.ClearField("items" if isinstance(response, Slate) else "candidates")  # type: ignore[arg-type]


def price_before_title(response: Slate) -> None:
    response.items[0].attributes.insert(0, attribute_pb2.Attribute(name="price", number_value=1))


def setting(path: str, value: object) -> Callable[[Slate | Found], None]:
    """Return a change of one field, such as "items[1].score" or "candidates.rows" (a list is added to)."""

    def change(response: Slate | Found) -> None:
        target: object = response
        *way, last = path.replace("[", ".").replace("]", "").split(".")
        for step in way:
            target = target[int(step)] if step.isdigit() else getattr(target, step)  # type: ignore[index]
        if last.isdigit():
            target[int(last)] = value  # type: ignore[index]
        elif isinstance(value, list):
            getattr(target, last).extend(value)
        else:
            setattr(target, last, value)

    return change


def test_a_valid_slate_passes() -> None:
    assert_valid_slate(slate(), slate_request())
    nothing = Slate(bundle_id="b", decision_id="d", request_id="made", empty_reason="no item is eligible")
    assert_valid_slate(nothing, ranking_pb2.RecommendRequest())


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (setting("bundle_id", ""), "bundle_id is set"),
        (setting("decision_id", ""), "decision_id is set"),
        (setting("request_id", ""), "request_id is set"),
        (setting("request_id", "r-2"), "request_id is the request's own, 'r-1'"),
        (setting("items", [ranking_pb2.RankedItem(item_id="d", position=4)]), "at most 3 items"),
        (setting("empty_reason", "why"), "if and only if the list is empty"),
        (emptied, "if and only if the list is empty"),
        (setting("degradations", [degradation_pb2.Degradation(component="als")]), "a degradation says its kind"),
        (setting("experiments[0].variant", "red"), "experiments of the request are echoed"),
        (setting("items[1].position", 3), "positions are 1 to n: here 2"),
        (setting("items[2].score", 0.9), "never increase: above it is 0.5"),
        (setting("items[0].score", math.nan), "scores are numbers"),
        (setting("items[2].item_id", "a"), "no item comes twice\nby: 'a'"),
        (setting("items[2].item_id", "gone"), "excluded items are absent"),
        (setting("items[2].item_id", "seen"), "excluded items are absent"),
        (setting("items[1].item_id", ""), "item_id is set"),
        (
            setting("items[1].reasons", [ranking_pb2.Reason(kind=ranking_pb2.REASON_KIND_PINNED)] * 4),
            "at most 4 reasons",
        ),
        (setting("items[1].reasons[0].kind", 0), "a reason says its kind"),
        (setting("items[1].reasons[0].kind", 1), "REASON_KIND_BECAUSE_OF_ITEM comes with its item_id"),
        (setting("items[1].sources[0].rank", 0), "a rank from 1"),
        (setting("items[1].propensity", 1.5), "propensity is a probability"),
        (setting("items[1].attributes[0].name", "colour"), "attributes are only those asked for"),
        (price_before_title, "attributes are in the order"),
        (
            setting("items[1].attributes", [attribute_pb2.Attribute(name="price")]),
            "columns without a value are left out",
        ),
    ],
)
def test_a_slate_that_breaks_a_promise_is_found(change: Callable[[Slate], None], promise: str) -> None:
    response = slate()
    change(response)
    with pytest.raises(AssertionError) as caught:
        assert_valid_slate(response, slate_request())
    assert promise in str(caught.value)


def test_the_message_shows_the_item() -> None:
    response = slate()
    response.items[1].position = 7
    with pytest.raises(AssertionError, match='item_id: "b"\nposition: 7'):
        assert_valid_slate(response, slate_request())


def found_request() -> retrieval_pb2.RetrieveRequest:
    return retrieval_pb2.RetrieveRequest(
        context=context_pb2.RequestContext(request_id="r-1", seed_item_ids=["seen"]),
        max_candidates=3,
        exclude_item_ids=["gone"],
        acceptable_bundle_ids=["b", "older"],
    )


def found() -> Found:
    candidates = candidates_pb2.CandidateList(
        bundle_id="b", item_ids=["x", "y", "z"], scores=[3, 2, 2], source_masks=[0b11, 0b01, 0b10]
    )
    candidates.source_columns.add(source="als", ranks=[1, 2, 0], scores=[0.5, 0.25, 0])
    candidates.source_columns.add(source="popularity", ranks=[2, 0, 1], scores=[1, 0, 2])
    return Found(candidates=candidates, bundle_id="b", request_id="r-1")


def by_row(response: Found) -> None:
    response.candidates.ClearField("item_ids")
    response.candidates.rows.extend([4, 5, 6])


def test_valid_candidates_pass() -> None:
    assert_valid_candidates(found(), found_request())
    request, response = found_request(), found()
    request.item_form = retrieval_pb2.ITEM_FORM_ROWS
    by_row(response)
    assert_valid_candidates(response, request)
    bare = Found(candidates=candidates_pb2.CandidateList(item_ids=["x"]), bundle_id="b", request_id="made")
    assert_valid_candidates(bare, retrieval_pb2.RetrieveRequest())


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (setting("bundle_id", "unasked"), "the bundle is one of ['b', 'older']"),
        (setting("request_id", "r-2"), "request_id is the request's own"),
        (setting("candidates.item_ids", ["w"]), "at most 3 candidates"),
        (emptied, "if and only if the list is empty"),
        (setting("candidates.rows", [1, 2, 3]), "either rows or item_ids, never both"),
        (by_row, "items are named by id, as asked"),
        (setting("candidates.item_ids[1]", ""), "an id is not empty"),
        (setting("candidates.scores", [1.0]), "every column has 3 entries, as the list\nby: scores has 4"),
        (setting("candidates.source_masks", [1]), "source_masks has 4"),
        (setting("candidates.source_columns[1].ranks", [1]), "source_columns[1].ranks has 4"),
        (setting("candidates.item_ids[1]", "x"), "no item comes twice\nby: 'x'"),
        (setting("candidates.item_ids[1]", "gone"), "excluded items are absent\nby: gone"),
        (setting("candidates.item_ids[1]", "seen"), "excluded items are absent\nby: seen"),
        (setting("candidates.scores[0]", math.inf), "scores are finite\nby: 'x'"),
        (setting("candidates.scores[2]", 2.5), "candidates are best first: above it is 2.0\nby: 'z'"),
        (setting("candidates.source_columns[1].source", "als"), "names of their own"),
        (setting("candidates.source_columns[1].source", ""), "names of their own"),
        (setting("candidates.source_columns[0].ranks[0]", -1), "a rank is 0 or more"),
        (setting("candidates.source_masks[1]", 0b10), "the source mask names the sources"),
        (setting("candidates.source_masks[1]", 0b101), "the source mask names the sources"),
    ],
)
def test_candidates_that_break_a_promise_are_found(change: Callable[[Found], None], promise: str) -> None:
    response = found()
    change(response)
    with pytest.raises(AssertionError) as caught:
        assert_valid_candidates(response, found_request())
    assert promise in str(caught.value)


def test_rows_of_another_bundle_than_the_answering_one_are_found() -> None:
    request, response = found_request(), found()
    request.item_form = retrieval_pb2.ITEM_FORM_ROWS
    by_row(response)
    response.candidates.bundle_id = "older"
    with pytest.raises(AssertionError, match="rows count in the answering bundle, 'b'\nby: 'older'"):
        assert_valid_candidates(response, request)


def similar_request() -> retrieval_pb2.SimilarItemsRequest:
    return retrieval_pb2.SimilarItemsRequest(item_ids=["given"], max_results=2)


def similar() -> retrieval_pb2.SimilarItemsResponse:
    candidates = candidates_pb2.CandidateList(item_ids=["x", "y"], scores=[1, -0.5], source_masks=[1, 1])
    candidates.source_columns.add(source="two_tower", ranks=[1, 2], scores=[1, -0.5])
    return retrieval_pb2.SimilarItemsResponse(candidates=candidates, bundle_id="b")


def test_valid_similar_items_pass() -> None:
    assert_valid_similar_items(similar(), similar_request())
    assert_valid_similar_items(retrieval_pb2.SimilarItemsResponse(bundle_id="b"), similar_request())


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (setting("bundle_id", ""), "bundle_id is set"),
        (setting("candidates.item_ids", ["z"]), "at most 2 items"),
        (setting("candidates.rows", [1, 2]), "items are named by id"),
        (setting("candidates.item_ids[1]", "x"), "no item comes twice"),
        (setting("candidates.item_ids[1]", "given"), "the given items are absent"),
        (setting("candidates.scores", [0.1]), "every column has 2 entries"),
        (setting("candidates.scores[0]", -0.9), "best first"),
        (setting("candidates.scores[0]", 1.5), "scores are cosines"),
        (setting("candidates.source_masks[0]", 2), "the source mask names the sources"),
        (setting("candidates.source_columns[0].source", "als"), "the only source is two_tower"),
    ],
)
def test_similar_items_that_break_a_promise_are_found(change: Callable[..., None], promise: str) -> None:
    response = similar()
    change(response)
    with pytest.raises(AssertionError, match=promise):
        assert_valid_similar_items(response, similar_request())


def vectors_request() -> retrieval_pb2.GetEmbeddingsRequest:
    users = [context_pb2.RequestContext(user_id="ann"), context_pb2.RequestContext()]
    return retrieval_pb2.GetEmbeddingsRequest(item_ids=["a", "lost", "b", "a"], users=users)


def vectors() -> retrieval_pb2.GetEmbeddingsResponse:
    response = retrieval_pb2.GetEmbeddingsResponse(bundle_id="b")
    for item_id in ("a", "b", "a"):
        response.items.add(id=item_id, values=[0.6, -0.8])
    for user_id in ("ann", ""):
        response.users.add(id=user_id, values=[0, 1])
    return response


def test_valid_vectors_pass() -> None:
    assert_valid_embeddings(vectors(), vectors_request())
    empty = retrieval_pb2.GetEmbeddingsResponse(bundle_id="b")
    assert_valid_embeddings(empty, retrieval_pb2.GetEmbeddingsRequest(item_ids=["lost"]))


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (setting("bundle_id", ""), "bundle_id is set"),
        (setting("items[1].id", "a"), "items in the order asked"),
        (setting("items[1].id", "unasked"), "items in the order asked"),
        (setting("items", [retrieval_pb2.Embedding(id="b", values=[0, 1])]), "items in the order asked"),
        (setting("users[1].id", "ann"), "one vector for each user"),
        (setting("users", [retrieval_pb2.Embedding(values=[0, 1])]), "one vector for each user"),
        (setting("items[1].values[0]", 0.5), "vectors have length 1"),
        (setting("users[0].values", [0]), "vectors have 2 values"),
        (setting("users[0].values[1]", math.nan), "vectors have length 1"),
    ],
)
def test_vectors_that_break_a_promise_are_found(change: Callable[..., None], promise: str) -> None:
    response = vectors()
    change(response)
    with pytest.raises(AssertionError, match=promise):
        assert_valid_embeddings(response, vectors_request())
