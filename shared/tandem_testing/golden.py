"""Slates as a production server may send them, one for each situation that a caller's page must be able to show."""

from __future__ import annotations

from collections.abc import Mapping

from tandem.common.v1 import attribute_pb2, context_pb2, degradation_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem_testing.seeded import BUNDLE_ID, SOURCES, readable_ids

_KINDS = ranking_pb2.ReasonKind
_MISSING = degradation_pb2.DegradationKind


def golden_slates() -> Mapping[str, ranking_pb2.RecommendResponse]:
    """Return fresh copies of the golden slates by situation; the same in every process and release of one contract.

    "warm": a known user, full reasons, attributes title and price. "cold": nobody known, popular items. "short": two
    items where twenty were asked for. "empty": none, and why. "degraded": two sources late, the ranker left out.
    "fallback": retrieval out of reach. "placed": a pinned, a promoted and a new item, one drawn by chance.
    "experiment": two assignments.
    """
    warm = _slate("warm", context_pb2.USER_REGIME_WARM)
    short = _slate("short", context_pb2.USER_REGIME_WARM, n=2)
    return {
        "warm": warm,
        "cold": _slate("cold", context_pb2.USER_REGIME_UNKNOWN, reason=_KINDS.REASON_KIND_POPULAR),
        "short": short,
        "empty": _empty(),
        "degraded": _degraded(),
        "fallback": _fallback(),
        "placed": _placed(),
        "experiment": _experiment(),
    }


def _slate(
    name: str,
    regime: context_pb2.UserRegime.ValueType,
    n: int = 20,
    reason: ranking_pb2.ReasonKind.ValueType = _KINDS.REASON_KIND_MATCHES_TASTE,
) -> ranking_pb2.RecommendResponse:
    slate = ranking_pb2.RecommendResponse(
        bundle_id=BUNDLE_ID, decision_id=f"golden-{name}", request_id=f"golden-{name}", regime=regime
    )
    history, *shown = readable_ids(n + 1, seed=len(name))
    for position, item_id in enumerate(shown, start=1):
        item = slate.items.add(item_id=item_id, position=position, score=round(1 - position / (n + 2), 6))
        item.reasons.add(kind=reason)
        if position % 4 == 1 and regime == context_pb2.USER_REGIME_WARM:
            item.reasons.add(kind=_KINDS.REASON_KIND_BECAUSE_OF_ITEM, item_id=history)
        item.sources.add(source=SOURCES[position % len(SOURCES)], rank=position, score=0.5)
        title, price = item_id.replace("-", " ").title(), 5.0 + position
        item.attributes.append(attribute_pb2.Attribute(name="title", string_value=title))
        item.attributes.append(attribute_pb2.Attribute(name="price", number_value=price))
    return slate


def _empty() -> ranking_pb2.RecommendResponse:
    slate = _slate("empty", context_pb2.USER_REGIME_UNKNOWN, n=0)
    slate.empty_reason = "no item passes the filter"
    return slate


def _degraded() -> ranking_pb2.RecommendResponse:
    slate = _slate("degraded", context_pb2.USER_REGIME_FEW_EVENTS)
    slate.degradations.add(kind=_MISSING.DEGRADATION_KIND_SOURCE_LATE, component="als", message="no time left")
    slate.degradations.add(kind=_MISSING.DEGRADATION_KIND_SOURCE_LATE, component="search", message="no time left")
    slate.degradations.add(kind=_MISSING.DEGRADATION_KIND_RANKER_SKIPPED, component="ranker", message="no time left")
    return slate


def _fallback() -> ranking_pb2.RecommendResponse:
    slate = _slate("fallback", context_pb2.USER_REGIME_WARM, reason=_KINDS.REASON_KIND_BACKFILL)
    slate.degradations.add(
        kind=_MISSING.DEGRADATION_KIND_RETRIEVAL_UNAVAILABLE, component="retrieval", message="DEADLINE_EXCEEDED"
    )
    return slate


def _placed() -> ranking_pb2.RecommendResponse:
    slate = _slate("placed", context_pb2.USER_REGIME_WARM)
    kinds = (_KINDS.REASON_KIND_PINNED, _KINDS.REASON_KIND_PROMOTED, _KINDS.REASON_KIND_NEW_ITEM)
    for item, kind in zip(slate.items, kinds, strict=False):
        del item.reasons[:]
        item.reasons.add(kind=kind)
    slate.items[2].propensity = 0.125
    return slate


def _experiment() -> ranking_pb2.RecommendResponse:
    slate = _slate("experiment", context_pb2.USER_REGIME_WARM)
    slate.experiments.add(experiment="home-diversity", variant="more")
    slate.experiments.add(experiment="ranker", variant="control")
    return slate
