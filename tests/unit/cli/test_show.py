"""What the command line makes of answers: words, not codes."""

from __future__ import annotations

import pytest

from tandem.ranking.v1 import ranking_pb2
from tandem_cli.show import reason_text


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
