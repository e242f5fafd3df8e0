"""What the command line makes of answers: words, not codes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tandem.ranking.v1 import ranking_pb2
from tandem_cli.show import reason_text, targets_table


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (ranking_pb2.Reason(kind=ranking_pb2.REASON_KIND_BECAUSE_OF_ITEM, item_id="i1"), "like Dune"),
        (ranking_pb2.Reason(kind=ranking_pb2.REASON_KIND_BECAUSE_OF_ITEM, item_id="i2"), "like i2"),
        (
            ranking_pb2.Reason(kind=ranking_pb2.REASON_KIND_POPULAR_IN_SEGMENT, segment="age=45-54,country=DE"),
            "popular with 45-54, DE",
        ),
        (ranking_pb2.Reason(kind=ranking_pb2.REASON_KIND_POPULAR_IN_SEGMENT), "popular with users like this"),
        (ranking_pb2.Reason(kind=ranking_pb2.REASON_KIND_POPULAR_IN_CATEGORY, category="nature"), "popular in nature"),
    ],
)
def test_a_reason_is_said_in_words(reason: ranking_pb2.Reason, words: str) -> None:
    assert reason_text(reason, {"i1": "Dune"}) == words


def test_every_kind_of_reason_has_words() -> None:
    kinds = set(ranking_pb2.ReasonKind.values()) - {ranking_pb2.REASON_KIND_UNSPECIFIED}
    texts = {kind: reason_text(ranking_pb2.Reason(kind=kind), {}) for kind in kinds}
    assert "other" not in texts.values()


@pytest.mark.parametrize(("items", "verdict"), [(500, "says nothing: the catalogue has 500 items"), (501, "pass")])
def test_finding_everything_among_as_many_as_there_are_is_no_success(items: int, verdict: str) -> None:
    evaluation = SimpleNamespace(catalogue_size=items, targets=[("recall@500", 0.6, 1.0, True)])
    assert verdict in next(iter(targets_table(cast(Any, evaluation)).columns[3].cells))
