"""Answers and figures as tables for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from tandem.common.v1 import context_pb2, degradation_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2

if TYPE_CHECKING:
    from tandem_trainer.evaluate import Evaluation

REASONS_SHOWN = 2  # the strongest; answers hold up to four

_REASONS = {
    ranking_pb2.REASON_KIND_MATCHES_TASTE: "matches taste",
    ranking_pb2.REASON_KIND_SIMILAR_USERS: "similar users chose it",
    ranking_pb2.REASON_KIND_POPULAR: "popular",
    ranking_pb2.REASON_KIND_NEW_ITEM: "new",
    ranking_pb2.REASON_KIND_BACKFILL: "fills the list",
    ranking_pb2.REASON_KIND_PINNED: "pinned there",
    ranking_pb2.REASON_KIND_PROMOTED: "promoted",
}


def reason_text(reason: ranking_pb2.Reason, titles: Mapping[str, str]) -> str:
    """Return a reason in words; titles: of items that may be named."""
    if reason.kind == ranking_pb2.REASON_KIND_BECAUSE_OF_ITEM:
        return f"like {titles.get(reason.item_id, reason.item_id)}"
    if reason.kind == ranking_pb2.REASON_KIND_POPULAR_IN_SEGMENT:
        values = [part.partition("=")[2] or part for part in reason.segment.split(",")]  # "age=25,gender=F"
        return f"popular with {', '.join(values)}" if reason.segment else "popular with users like this"
    if reason.kind == ranking_pb2.REASON_KIND_POPULAR_IN_CATEGORY:
        return f"popular in {reason.category}" if reason.category else "popular in a liked category"
    return _REASONS.get(reason.kind, "other")


def title_of(item: ranking_pb2.RankedItem) -> str:
    titles = [attribute.string_value for attribute in item.attributes if attribute.name == "title"]
    return titles[0] if titles else item.item_id


def recommendation_table(
    response: ranking_pb2.RecommendResponse,
    heading: str,
    titles: Mapping[str, str] | None = None,
    chosen_next: Collection[str] = (),
) -> Table:
    """Return the list as a table; items of `chosen_next` (what the user really turned to next) get a star."""
    regime = context_pb2.UserRegime.Name(response.regime).removeprefix("USER_REGIME_").lower().replace("_", " ")
    table = Table(title=f"{escape(heading)} [dim]({regime})[/]", title_justify="left", caption_justify="left")
    table.add_column("rank", justify="right", min_width=4)
    table.add_column("title", min_width=20, max_width=40, no_wrap=True)
    table.add_column("score", justify="right", min_width=6)
    table.add_column("reasons", min_width=20, max_width=48, no_wrap=True)
    for item in response.items:
        star = " [bold yellow]*[/]" if item.item_id in chosen_next else ""
        reasons = ", ".join(reason_text(reason, titles or {}) for reason in item.reasons[:REASONS_SHOWN])
        table.add_row(str(item.position), escape(title_of(item)) + star, f"{item.score:.4f}", escape(reasons))
    if response.empty_reason:
        table.caption = response.empty_reason
    if response.degradations:
        kinds = [
            degradation_pb2.DegradationKind.Name(d.kind).removeprefix("DEGRADATION_KIND_").lower()
            for d in response.degradations
        ]
        table.caption = f"degraded: {', '.join(kinds)}"
    return table


def explanation_table(response: ranking_pb2.ExplainItemResponse, item_id: str) -> Table:
    """Return what each stage did to the item, and where it stands."""
    stands = f"place {response.position}" if response.position else f"not in the list: lost at {response.lost_at}"
    table = Table(title=f"{escape(item_id)}: {escape(stands)}", title_justify="left", caption_justify="left")
    table.add_column("stage", min_width=20)
    for name in ("score before", "after", "place before", "after"):
        table.add_column(name, justify="right")
    for part in response.parts:
        places = [str(place) if place else "-" for place in (part.position_before, part.position_after)]
        table.add_row(escape(part.stage), f"{part.before:.4f}", f"{part.after:.4f}", *places)
    table.caption = f"bundle {escape(response.bundle_id)}"
    return table


def similar_table(response: retrieval_pb2.SimilarItemsResponse, titles: Mapping[str, str]) -> Table:
    """Return the list as a table; items without a title in `titles` go by their id."""
    table = Table(title=f"bundle {escape(response.bundle_id)}", title_justify="left")
    table.add_column("rank", justify="right", min_width=4)
    table.add_column("title", min_width=20, max_width=60, no_wrap=True)
    table.add_column("score", justify="right", min_width=6)
    found = response.candidates
    for rank, (item_id, score) in enumerate(zip(found.item_ids, found.scores, strict=True), start=1):
        table.add_row(str(rank), escape(titles.get(item_id) or item_id), f"{score:.4f}")
    return table


def history_table(titles: Sequence[str], heading: str = "recent history") -> Table:
    """Return what the user did last, newest first."""
    table = Table(title=" ", title_justify="left")  # a line for the title, so that rows stand beside rows
    table.add_column(heading, max_width=28, no_wrap=True)
    for title in titles or ["(none)"]:
        table.add_row(escape(title))
    return table


_SHOWN = (
    "hit_rate@10",
    "ndcg@10",
    "recall@10",
    "recall@20",
    "recall@100",
    "recall@500",
    "mrr",
    "precision@10",
    "map@10",
    "coverage@20",
    "diversity@20",
    "novelty@20",
    "gini@20",
)


def evaluation_tables(evaluation: Evaluation) -> list[Table]:
    """Return the figures of all arms, what is better than what, and the slices of the served list."""
    arms = list(evaluation.reports)
    main = Table(
        title=f"{evaluation.protocol}: {evaluation.users} users, {evaluation.catalogue_size} items, "
        f"full ranking, seen left out; served by default: {evaluation.served}",
        title_justify="left",
    )
    main.add_column("metric")
    for arm in arms:
        main.add_column(arm, justify="right")
    if "ranked" in arms:
        main.caption = (
            "retrieval: the merged candidates; rules_only and ranked: what is shown, with the default rules, in that "
            "order and in the ranker's.\nThe rules give some accuracy for variety (diversity@20, coverage@20) and new "
            "items."
        )
        main.caption_justify = "left"
    for name in _SHOWN:
        values = [evaluation.reports[arm].values.get(name) for arm in arms]
        if any(value is not None for value in values):
            main.add_row(name, *("" if value is None else f"{value:.4f}" for value in values))
    versus = Table(
        "metric", "arm", "against", "difference", "95 % interval", title="Paired over users", title_justify="left"
    )
    for c in evaluation.compared:
        interval = f"{c.difference.low:+.4f} .. {c.difference.high:+.4f}"
        versus.add_row(c.metric, c.better, c.than, f"{c.difference.mean:+.4f}", interval)
    return [main, versus, targets_table(evaluation), _slices(evaluation)]


def targets_table(evaluation: Evaluation) -> Table:
    """Return the figures that textbooks ask of a production system, and whether retrieval reaches them here."""
    table = Table("target", "above", "retrieval", "", title="Targets", title_justify="left")
    for name, target, value, passed in evaluation.targets:
        verdict = "not computed" if passed is None else "[green]pass[/]" if passed else "[red]fail[/]"
        depth = name.partition("@")[2]
        if name.startswith("recall@") and int(depth) >= evaluation.catalogue_size:
            verdict = f"says nothing: the catalogue has {evaluation.catalogue_size} items"
        table.add_row(name, f"{target:.2f}", "" if value is None else f"{value:.4f}", verdict)
    return table


def _slices(evaluation: Evaluation) -> Table:
    table = Table("slice", "users or items", "recall@10", title="Retrieval by slice", title_justify="left")
    for kind, metrics in evaluation.reports["retrieval"].slices.items():
        for name, found in metrics.get("recall@10", {}).items():
            table.add_row(f"{kind}: {name}", str(found.n), f"{found.mean:.4f}" if found.n else "")
    return table
