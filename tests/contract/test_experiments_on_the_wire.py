"""Experiments as a caller meets them: assignments in the answer, policies in the list, teams on the items."""

from __future__ import annotations

from collections import Counter
from typing import Any

import grpc
import pytest

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_core.bundle import Bundle
from tandem_testing import assert_valid_slate

Stub = ranking_pb2_grpc.RankingServiceStub


@pytest.fixture(scope="module")
def grpc_add_to_server() -> Any:
    return ranking_pb2_grpc.add_RankingServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer(ranking_servicer: Any) -> Any:
    return ranking_servicer


@pytest.fixture(scope="module")
def grpc_stub_cls() -> type[Stub]:
    return Stub


def asked(
    placement: str, now_s: int, session: str = "", said: tuple[tuple[str, str], ...] = (), **fields: Any
) -> ranking_pb2.RecommendRequest:
    context: dict[str, Any] = {"placement": placement, "user_id": "warm", "session_id": session, **fields}
    request = ranking_pb2.RecommendRequest(context=context, max_results=12)
    request.context.event_time.FromSeconds(now_s)
    for experiment, variant in said:
        request.context.experiments.add(experiment=experiment, variant=variant)
    return request


def assignments(response: Any) -> list[tuple[str, str]]:
    return [(each.experiment, each.variant) for each in response.experiments]


def ids(response: Any) -> list[str]:
    return [item.item_id for item in response.items]


def test_the_variant_decides_the_list_and_stands_in_the_answer(grpc_stub: Stub, now_s: int) -> None:
    lists: dict[str, set[tuple[str, ...]]] = {"plain": set(), "popular": set()}
    for i in range(12):
        request = asked("tested", now_s, user_id="", session=f"s{i}")
        response = grpc_stub.Recommend(request)
        assert_valid_slate(response, request)
        ((name, variant),) = assignments(response)
        assert name == "order"
        again = grpc_stub.Recommend(request)
        assert assignments(again) == assignments(response)
        lists[variant].add(tuple(ids(response)))
    assert all(lists.values())


def test_a_forced_variant_is_followed_and_other_words_are_echoed(grpc_stub: Stub, now_s: int) -> None:
    said = (("button", "green"), ("order", "popular"))
    popular = grpc_stub.Recommend(asked("tested", now_s, said=said))
    assert assignments(popular) == list(said)
    plain = grpc_stub.Recommend(asked("tested", now_s, said=(("order", "plain"),)))
    assert ids(plain) != ids(popular)
    unknown = grpc_stub.Recommend(asked("tested", now_s, said=(("order", "purple"),)))
    assert assignments(unknown) == [("order", "purple")]
    assert ids(unknown) == ids(plain)  # the placement's own policy


def test_two_lists_are_mixed_and_every_item_tells_its_team(grpc_stub: Stub, now_s: int) -> None:
    plain, popular = (
        grpc_stub.Recommend(asked("mixed", now_s, said=(("duel", variant),))) for variant in ("plain", "popular")
    )
    assert not any(item.team for item in plain.items)
    assert ids(plain) != ids(popular)
    seen: set[tuple[str, ...]] = set()
    for i in range(8):
        request = asked("mixed", now_s, request_id=f"mixed-{i}")
        response = grpc_stub.Recommend(request)
        assert_valid_slate(response, request)
        assert assignments(response) == [("duel", "interleaved")]
        assert Counter(item.team for item in response.items) == {"plain": 6, "popular": 6}
        for item in response.items:
            assert item.item_id in ids({"plain": plain, "popular": popular}[item.team])
        assert ids(grpc_stub.Recommend(request)) == ids(response)  # seeded by the request
        seen.add(tuple(ids(response)))
    assert len(seen) > 1


def test_rank_is_in_experiments_too(grpc_stub: Stub, bundle: Bundle) -> None:
    request = ranking_pb2.RankRequest(
        context={"placement": "mixed", "user_id": "warm"}, candidates={"item_ids": bundle.catalog.item_ids[:10]}
    )
    response = grpc_stub.Rank(request)
    assert assignments(response) == [("duel", "interleaved")]
    assert sorted(ids(response)) == sorted(bundle.catalog.item_ids[:10])
    assert Counter(item.team for item in response.items) == {"plain": 5, "popular": 5}


def test_policies_of_variants_are_no_placements(grpc_stub: Stub, now_s: int) -> None:
    placements = grpc_stub.GetServingState(ranking_pb2.GetServingStateRequest()).placements
    assert not [name for name in placements if "?" in name]
    with pytest.raises(grpc.RpcError) as caught:
        grpc_stub.Recommend(asked("tested?order=popular", now_s))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
