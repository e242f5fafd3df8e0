"""tandem simulate: experiments on held-out events."""
# ruff: noqa: PLC0415  (pandas and scipy take seconds to import: only the command that uses them pays)

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from tandem_cli.console import out, user_errors
from tandem_cli.offline import ConfigOption, DataOption, RegistryOption, bundle_and_its_data

if TYPE_CHECKING:
    from tandem_trainer.simulate import Simulation

SHOWN = 5  # runs printed one by one; all are in the JSON


def simulate(
    a: Annotated[str, typer.Argument(help="Arm a: served, retrieval, popularity, placement:NAME, cold:served, ...")],
    b: Annotated[str, typer.Argument(help="Arm b; the same as a makes an A/A test.")],
    registry: RegistryOption = Path("bundles"),
    data: DataOption = None,
    config: ConfigOption = None,
    policies: Annotated[Path | None, typer.Option(help="Policy file of placements and experiments.")] = None,
    protocol: Annotated[str, typer.Option(help="Must be the one the bundle was trained on.")] = "leave_last_out",
    bundle_id: Annotated[str | None, typer.Option("--bundle", help="Default: the current one.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Experiments, each with a seed of its own.")] = 20,
    users: Annotated[int | None, typer.Option(min=4, help="A seeded sample of the users; default all.")] = None,
    visits: Annotated[int, typer.Option(min=1, help="Lists that each user sees.")] = 1,
    k: Annotated[int, typer.Option(min=1, max=500, help="Length of a list.")] = 10,
    seed: Annotated[int, typer.Option(min=0)] = 13,
    effect: Annotated[float, typer.Option(help="Relative effect to say the needed users for.")] = 0.05,
    interleave: Annotated[bool, typer.Option(help="Also mix both lists and let each user choose.")] = False,
    examination: Annotated[str, typer.Option(help="log2 or power: how looks fall with the position.")] = "log2",
    eta: Annotated[float, typer.Option(help="Of power: looks are position^-eta.")] = 1.0,
    relevant: Annotated[float, typer.Option(help="Click probability of a held-out item that is looked at.")] = 0.6,
    noise: Annotated[float, typer.Option(help="Of any other item.")] = 0.02,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
) -> None:
    """Simulate A/B tests of two arms on held-out events: p-values, intervals, the users an effect needs."""
    from tandem_cli.progress import ConsoleProgress
    from tandem_core.errors import BundleRefused, NotFound
    from tandem_core.experiment_file import load_experiments
    from tandem_core.policy import load_policies
    from tandem_trainer.click_model import ClickModel
    from tandem_trainer.evaluate import queries_of_test
    from tandem_trainer.simulate import simulate as run
    from tandem_trainer.simulate import simulated_arm, to_json

    with user_errors(ValueError, BundleRefused, NotFound):
        looks: Literal["log2", "power"] = "power" if examination == "power" else "log2"
        if examination not in ("log2", "power"):
            raise ValueError(f"--examination is {examination!r}; it is log2 or power")
        model = ClickModel(looks, eta, relevant, noise)
        bundle, dataset, split, _ = bundle_and_its_data(registry, bundle_id, data, config, protocol)
        offline = queries_of_test(bundle, dataset, split, most_users=users, seed=seed)
        experiments = load_experiments(policies, load_policies(policies))
        with ConsoleProgress() as progress:
            arms = {
                name: simulated_arm(name, bundle, experiments, offline, model, k, progress)
                for name in dict.fromkeys((a, b))
            }
        ids = [query.user_id for query in offline.queries]
        told = run(arms[a], arms[b], ids, runs=runs, visits=visits, effect=effect, seed=seed, interleaved=interleave)
    out.print(*tables(told), sep="\n")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(to_json(told, bundle, model), indent=1, allow_nan=False))
        out.print(f"all figures: {json_file}")


def tables(told: Simulation) -> list[Table]:
    """Return what is true, what the runs said in sum, and the first runs one by one."""
    from tandem_trainer.ab_statistics import POWER, rejections_expected

    n = len(told.runs)
    first = told.runs[0]
    sum_up = Table(
        title=f"{told.arms[0]} (a) against {told.arms[1]} (b): {told.users} users, "
        f"{told.visits} visit(s) each, {n} runs",
        title_justify="left",
        show_header=False,
    )
    sum_up.add_row("true clicks per visit, a and b", f"{told.expected[0]:.4f}   {told.expected[1]:.4f}")
    sum_up.add_row(
        "true difference, 95 % interval over users",
        f"{told.truth.mean:+.4f}   {_interval(told.truth.low, told.truth.high)}",
    )
    sum_up.add_row("mean of the differences that the runs measured", f"{sum(r.difference for r in told.runs) / n:+.4f}")
    low, high = rejections_expected(n)
    expected = f"; an A/A test: {low} to {high} in 99 % of such series" if told.same else ""
    sum_up.add_row("runs with p < 0.05", f"{told.rejected} of {n}{expected}")
    sum_up.add_row("runs whose interval holds the true difference", f"{told.covered} of {n}")
    sum_up.add_row(f"smallest difference one run finds with power {POWER:g}", f"{first.smallest:.4f}")
    sum_up.add_row("users an arm needs to find the true difference", _users(told.needed))
    sum_up.add_row(f"users an arm needs to find {told.effect:+.1%} of a", _users(told.wanted))
    if told.mixed:
        found = sum(each.p_value < 0.05 for each in told.mixed)
        preference = sum(each.preference.mean for each in told.mixed) / n
        sum_up.add_row("interleaved, runs with p < 0.05", f"{found} of {n}; mean preference for b {preference:+.4f}")
    each = Table("run", "users a, b", "difference", "95 % interval", "p", title="The first runs", title_justify="left")
    for number, run in enumerate(told.runs[:SHOWN], start=1):
        interval = _interval(run.low, run.high)
        each.add_row(str(number), "{}, {}".format(*run.users), f"{run.difference:+.4f}", interval, f"{run.p_value:.4f}")
    return [sum_up, each]


def _interval(low: float, high: float) -> str:
    return f"{low:+.4f} .. {high:+.4f}"


def _users(needed: float) -> str:
    return "no number would do: there is none" if math.isinf(needed) else f"{needed:,.0f}"
