"""Golden slates keep the contract, and stay as they are."""

from __future__ import annotations

import hashlib

import pytest

from tandem.ranking.v1 import ranking_pb2
from tandem_testing import assert_valid_slate, golden_slates

NAMES = list(golden_slates())


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_slate_keeps_every_promise(name: str) -> None:
    request = ranking_pb2.RecommendRequest(return_attributes=["title", "price"])
    assert_valid_slate(golden_slates()[name], request)


def test_golden_slates_are_the_same_everywhere_and_changing_one_changes_no_other() -> None:
    first = golden_slates()
    first["warm"].items[0].score = 7
    again = golden_slates()
    assert again["warm"].items[0].score != 7
    digests = {
        name: hashlib.sha256(slate.SerializeToString(deterministic=True)).hexdigest()[:8]
        for name, slate in again.items()
    }
    assert len(set(digests.values())) == len(NAMES)
    top = [(item.item_id, item.score) for item in again["warm"].items[:2]]
    assert top == [("ancient-willow", 0.954545), ("dapper-badger", 0.909091)]


def test_each_situation_shows_what_it_is_for() -> None:
    slates = golden_slates()
    assert not slates["empty"].items
    assert slates["empty"].empty_reason
    assert len(slates["short"].items) == 2
    assert len(slates["degraded"].degradations) == 3
    assert len(slates["experiment"].experiments) == 2
    kinds = [item.reasons[0].kind for item in slates["placed"].items[:3]]
    assert kinds == [
        ranking_pb2.REASON_KIND_PINNED,
        ranking_pb2.REASON_KIND_PROMOTED,
        ranking_pb2.REASON_KIND_NEW_ITEM,
    ]
    assert 0 < slates["placed"].items[2].propensity < 1
