"""Commands on decision records: make decisions again, see what other rules would have shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tandem_cli.console import fail, out, user_errors

if TYPE_CHECKING:
    from tandem_core.bundle import Bundle
    from tandem_core.decisions import Decision
    from tandem_core.policy import PlacementPolicy

Records = Annotated[Path, typer.Argument(help="A file of decision records, or the folder the service writes them to.")]
Bundles = Annotated[Path, typer.Option(help="Folder of bundles: those that the decisions were made with.")]


def replay(records: Records, registry: Bundles = Path("bundles")) -> None:
    """Make recorded decisions again and compare bit for bit; ends with code 1 where one comes out otherwise."""
    from tandem_core.replay import CannotReplay  # noqa: PLC0415
    from tandem_core.replay import replay as make_again  # noqa: PLC0415

    again = same = 0
    for decision, bundle, policies in _whole(records, registry):
        try:
            made = make_again(decision, bundle, policies)
        except CannotReplay as error:
            out.print(f"left out: {error}", markup=False)
            continue
        again += 1
        same += made.identical
        if not made.identical:
            out.print(f"{decision.decision_id}: not the same list")
            for place, (was, now) in enumerate(zip(decision.shown.item_ids, made.item_ids, strict=False), start=1):
                if was != now:
                    out.print(f"  place {place}: {was} was shown, {now} now", markup=False)
                    break
            else:
                out.print("  the same items, other scores or propensities")
    out.print(f"{same} of {again} replayed decisions are identical")
    if not again:
        fail("no decision of these records can be replayed: they hold no candidates (see decisions_sample)")
    if same < again:
        raise typer.Exit(1)


def preview_rules(
    records: Records,
    policy: Annotated[Path, typer.Option(help="TOML with the placements to try.")],
    registry: Bundles = Path("bundles"),
    top: Annotated[int, typer.Option(help="Items listed that come and go most.")] = 10,
) -> None:
    """Show what recorded requests would have been answered with under other rules: what comes, what goes."""
    from tandem_core.policy import load_policies  # noqa: PLC0415
    from tandem_core.replay import CannotReplay, under  # noqa: PLC0415
    from tandem_core.settings import ConfigError  # noqa: PLC0415

    with user_errors(ConfigError):
        policies = load_policies(policy)
    seen = changed = places = kept = moved = 0
    comes: Counter[str] = Counter()
    goes: Counter[str] = Counter()
    relaxed: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for decision, bundle, _ in _whole(records, registry):
        if decision.placement not in policies:
            left_out[decision.placement] += 1
            continue
        try:
            slate = under(decision, bundle, policies[decision.placement])
        except CannotReplay as error:
            out.print(f"left out: {error}", markup=False)
            continue
        before = decision.shown.item_ids
        after = tuple(bundle.catalog.item_ids[row] for row in slate.items.rows.tolist())
        seen += 1
        changed += before != after
        places += len(before)
        kept += len(set(before) & set(after))
        moved += sum(1 for was, now in zip(before, after, strict=False) if was != now)
        comes.update(set(after) - set(before))
        goes.update(set(before) - set(after))
        relaxed.update(each.component for each in slate.degradations if each.kind.name == "RULE_RELAXED")
    for name, n in left_out.items():
        out.print(f"{n} decisions of placement {name!r} left out: {policy} does not have it", markup=False)
    if not seen:
        fail("no decision of these records can be made again under these rules")
    out.print(f"{seen} decisions: {changed} would look different, {100 * changed / seen:.1f} %")
    share = 100 / max(places, 1)
    out.print(f"items kept {share * kept:.1f} %, places with another item {share * moved:.1f} %")
    for title, counts in (("come", comes), ("go", goes), ("rules relaxed", relaxed)):
        for name, n in counts.most_common(top):
            out.print(f"{title}: {name} ({n})", markup=False)


def _whole(records: Path, registry: Path) -> Iterator[tuple[Decision, Bundle, dict[str, PlacementPolicy]]]:
    """Yield the decisions of the sample, with their bundle and policies by hash; ends with what stands in the way."""
    from tandem_core.bundle import load_bundle  # noqa: PLC0415
    from tandem_core.decision_log import read_decisions, read_policy, segments  # noqa: PLC0415
    from tandem_core.decisions import DecisionUnreadable  # noqa: PLC0415
    from tandem_core.errors import BundleRefused, NotFound  # noqa: PLC0415
    from tandem_core.grpc_decisions import with_filters  # noqa: PLC0415
    from tandem_core.registry import Registry  # noqa: PLC0415

    folder = records if records.is_dir() else records.parent
    files = segments(records) if records.is_dir() else [records]
    if not files or not all(file.is_file() for file in files):
        fail(f"{records}: no decision records there")
    bundles: dict[str, Bundle] = {}
    policies: dict[str, PlacementPolicy] = {}
    with user_errors(DecisionUnreadable, NotFound, BundleRefused, OSError):
        for decision in _of_sample(read_decisions(files)):
            if decision.bundle_id not in bundles:
                path = Registry(registry).path_of(decision.bundle_id)
                bundles = {decision.bundle_id: load_bundle(path, retrieval=False)}
            for name in (decision.policy, *(team.policy for team in decision.teams)):
                if name not in policies:
                    policies[name] = read_policy(folder, name)
            yield with_filters(decision), bundles[decision.bundle_id], policies


def _of_sample(decisions: Iterable[Decision]) -> Iterator[Decision]:
    return (decision for decision in decisions if decision.retrieved is not None or decision.not_replayable)
