"""Rules as a caller sees them, and what becomes of policies and bundles that do not fit each other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tandem.common.v1 import degradation_pb2
from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_core.bundle import Bundle, load_bundle
from tandem_core.experiment_file import make_experiments
from tandem_core.grpc_errors import ErrorInterceptor
from tandem_core.grpc_retrieval_client import RetrievalClient
from tandem_core.policy import PlacementPolicy
from tandem_core.ranking_pipeline import RankingPipeline
from tandem_core.registry import Registry
from tandem_core.scorer import Scored
from tandem_core.serving_bundles import ServingBundles
from tandem_core.settings import parse_settings
from tandem_core.stores.sqlite import SqliteStore
from tandem_ranking.servicer import RankingServicer
from tandem_testing import serve

Stub = ranking_pb2_grpc.RankingServiceStub
Serving = Callable[..., Any]
PINNED, PROMOTED = ranking_pb2.REASON_KIND_PINNED, ranking_pb2.REASON_KIND_PROMOTED


class NotANumber:
    """A ranker that gives NaN, and for one item infinity."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.feature_names = names

    def score(self, features: np.ndarray) -> Scored:
        scores = np.full(len(features), np.nan, np.float32)
        scores[:1] = np.inf
        return Scored(scores)


@pytest.fixture
def serving(retrieval_servicer: Any, store: SqliteStore) -> Serving:
    """serving(registry, change=..., **policy): a ranking service with one placement, its stub and its bundles."""

    @contextmanager
    def start(
        registry: Registry, change: Callable[[Bundle], Bundle] = lambda bundle: bundle, **policy: Any
    ) -> Iterator[tuple[Stub, ServingBundles[RankingPipeline]]]:
        policies = {"default": parse_settings(PlacementPolicy, policy, "test")}
        bundles = ServingBundles(
            registry, lambda name: RankingPipeline(change(load_bundle(registry.path_of(name))), policies)
        )
        bundles.refresh()
        with serve(retrieval_servicer, interceptors=[ErrorInterceptor()]) as retrieval:
            client = RetrievalClient(f"ipv4:{retrieval.address}", timeout_s=60.0)
            servicer = RankingServicer(bundles, store, client, make_experiments({}, policies, "test"))
            with serve(servicer, interceptors=[ErrorInterceptor()]) as ranking:
                options = [("grpc.enable_http_proxy", 0)]
                with grpc.insecure_channel(ranking.address, options=options) as channel:
                    yield Stub(channel), bundles
            client.close()

    return start


def ask(stub: Stub, now_s: int, **fields: Any) -> ranking_pb2.RecommendResponse:
    context = {"request_id": "r", "user_id": "warm", "event_time": {"seconds": now_s}, **fields.pop("context", {})}
    return stub.Recommend(ranking_pb2.RecommendRequest(context=context, **fields))


def relaxed(response: ranking_pb2.RecommendResponse) -> dict[str, str]:
    kind = degradation_pb2.DEGRADATION_KIND_RULE_RELAXED
    return {each.component: each.message for each in response.degradations if each.kind == kind}


def test_pins_promotions_and_filters_do_as_they_say(
    serving: Serving, two_bundles: Registry, bundle: Bundle, seen_by: Callable[[str], set[str]], now_s: int
) -> None:
    unseen = [item_id for item_id in reversed(bundle.catalog.item_ids) if item_id not in seen_by("warm")]
    price = dict(zip(bundle.catalog.item_ids, bundle.catalog.numbers["price"], strict=True))
    limit = float(np.nanmedian(bundle.catalog.numbers["price"]))
    cheap = [item_id for item_id in unseen if price[item_id] <= limit]
    policy = {
        "pins": [{"item_id": cheap[0], "position": 2}, {"item_id": cheap[3], "position": 30}],
        "promotions": [{"name": "p", "item_ids": cheap[1:3], "every": 5}],
        "blocked_item_ids": cheap[4:8],
        "filters": [{"name": "cheap", "items": {"column": "price", "max": limit}}],
    }
    with serving(two_bundles, **policy) as (stub, _):
        response = ask(stub, now_s)
    got = [item.item_id for item in response.items]
    assert (got[1], response.items[1].reasons[0].kind) == (cheap[0], PINNED)
    assert {got[4], got[9]} == set(cheap[1:3])
    assert {response.items[4].reasons[0].kind, response.items[9].reasons[0].kind} == {PROMOTED}
    assert len(set(got)) == 20  # retrieval knows of the filter
    assert all(price[item_id] <= limit for item_id in got)
    assert not set(got) & set(cheap[4:8])
    assert relaxed(response) == {
        "promotion:p": "no promoted item for 2 of its slots"
    }  # it has two items for four slots
    scores = [item.score for item in response.items]
    assert scores == sorted(scores, reverse=True)


def test_where_chance_took_part_the_propensity_says_how_much(
    serving: Serving, two_bundles: Registry, now_s: int
) -> None:
    with serving(two_bundles, exploration={"every": 5, "weight": 0.5, "pool_size": 4}) as (stub, _):
        answers = [ask(stub, now_s, context={"request_id": f"r{i}"}) for i in range(20)]
        again = ask(stub, now_s, context={"request_id": "r0"})
    for answer in answers:
        chance = [item.position for item in answer.items if item.propensity > 0]
        assert chance == [5, 10, 15, 20]
        assert all(0.1 < item.propensity <= 0.7 for item in answer.items if item.propensity)
    assert len({answer.items[4].item_id for answer in answers}) > 1
    assert again == answers[0]


def test_a_policy_that_names_an_unknown_column_is_served_without_that_rule_and_says_so(
    serving: Serving, two_bundles: Registry, now_s: int
) -> None:
    with serving(two_bundles, caps=[{"column": "colour", "limit": 1}]) as (stub, _):
        response = ask(stub, now_s)
    assert len(response.items) == 20
    assert relaxed(response) == {"cap:colour": relaxed(response)["cap:colour"]}
    assert "no text column 'colour' in bundle newer" in relaxed(response)["cap:colour"]


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"filters": [{"name": "rating", "items": {"column": "age_rating", "in": "12"}}]}, "filter rating"),
        ({"caps": [{"column": "categories", "limit": 1}]}, "at most 1 of one categories fill"),
    ],
    ids=["a filter without its column", "caps that cannot fill a list"],
)
def test_a_policy_that_no_bundle_can_keep_is_refused_with_an_explanation(
    serving: Serving, two_bundles: Registry, now_s: int, policy: dict[str, Any], why: str
) -> None:
    with serving(two_bundles, **policy) as (stub, _):
        state = stub.GetServingState(ranking_pb2.GetServingStateRequest()).state
        with pytest.raises(grpc.RpcError) as caught:
            ask(stub, now_s)
    assert not state.serving
    assert why in state.refusal
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_bundle_whose_ranker_wants_a_column_it_lacks_is_refused_and_the_old_one_goes_on(
    serving: Serving, publish_copy: Callable[..., Any], tmp_path: Path, now_s: int
) -> None:
    def rename(folder: Path) -> None:
        manifest = folder / "manifest.json"
        content = json.loads(manifest.read_text())
        content["ranker_features"] = [
            "number:weight" if name == "number:price" else name for name in content["ranker_features"]
        ]
        manifest.write_text(json.dumps(content))

    registry = Registry(tmp_path)
    publish_copy(registry, "newer")
    with serving(registry) as (stub, bundles):
        publish_copy(registry, "damaged", rename)
        assert not bundles.refresh()
        state = stub.GetServingState(ranking_pb2.GetServingStateRequest()).state
        assert (state.bundle_id, state.refused_bundle_id) == ("newer", "damaged")
        assert "trained on columns that this bundle can not compute: number:weight" in state.refusal
        assert ask(stub, now_s).bundle_id == "newer"


def test_a_ranker_that_gives_no_numbers_costs_the_order_alone(
    serving: Serving, two_bundles: Registry, now_s: int
) -> None:
    def broken(bundle: Bundle) -> Bundle:
        assert bundle.scorer is not None
        return replace(bundle, scorer=NotANumber(bundle.scorer.feature_names))  # type: ignore[arg-type]

    with serving(two_bundles, broken, use_ranker=True) as (stub, _):
        response = ask(stub, now_s)
        ranked = stub.Rank(ranking_pb2.RankRequest(candidates={"item_ids": ["i001", "i002", "i003"]}))
    assert len({item.item_id for item in response.items}) == 20
    assert all(math.isfinite(item.score) for item in [*response.items, *ranked.items])
    assert len(ranked.items) == 3
