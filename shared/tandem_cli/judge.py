"""tandem judge: what somebody who reads titles and categories says of the lists."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tandem_cli.console import fail, out, user_errors
from tandem_cli.offline import ConfigOption, DataOption, ForgottenOption, RegistryOption, bundle_and_its_data

if TYPE_CHECKING:
    from tandem_trainer.studies.judge import Items, Judge, Judgement


class JudgeKind(StrEnum):
    """Whom to ask."""

    PROXY = "proxy"
    HTTP = "http"


def judge(
    registry: RegistryOption = Path("bundles"),
    data: DataOption = None,
    config: ConfigOption = None,
    protocol: Annotated[str, typer.Option(help="Must be the one the bundle was trained on.")] = "leave_last_out",
    users: Annotated[int, typer.Option(min=1, help="So many users, drawn by the seed.")] = 10,
    kind: Annotated[
        JudgeKind, typer.Option("--judge", help="proxy: overlap of categories, offline. http: a language model.")
    ] = JudgeKind.PROXY,
    endpoint: Annotated[str, typer.Option(help="Of http: base address of a chat endpoint, as https://HOST/v1.")] = "",
    model: Annotated[str, typer.Option(help="Of http: the model's name there.")] = "",
    key_env: Annotated[str, typer.Option(help="Of http: NAME of the environment variable that holds the key.")] = "",
    timeout: Annotated[float, typer.Option(min=0.1, help="Of http: seconds for an answer.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the sample of users.")] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all rows there.")] = None,
    bundle_id: Annotated[str | None, typer.Option("--bundle", help="Default: the current one.")] = None,
    store: ForgottenOption = "",
) -> None:
    """Show a judge 3 items that users had and 3 recommended: 1 to 10 and a reason each, and the mean.

    With --judge http titles and categories go to the endpoint, nothing else of the users does.
    """
    from tandem_cli.progress import ConsoleProgress
    from tandem_core.errors import BundleRefused, NotFound
    from tandem_core.stores.base import StoreUnavailable
    from tandem_trainer.studies.judge import study_judge
    from tandem_trainer.studies.judge_http import JudgeUnavailable

    with user_errors(ValueError, BundleRefused, NotFound, StoreUnavailable, JudgeUnavailable):
        asked = _judge(kind, endpoint, model, key_env, timeout)
        bundle, dataset, split, _ = bundle_and_its_data(registry, bundle_id, data, config, protocol, store)
        with ConsoleProgress() as progress:
            told = study_judge(bundle, dataset, split, asked, users, seed, progress)
    out.print(_table(told))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(told.to_json(), indent=1, allow_nan=False))
        out.print(f"all rows: {json_file}")


def _judge(kind: JudgeKind, endpoint: str, model: str, key_env: str, timeout: float) -> Judge:
    from tandem_trainer.studies.judge import ProxyJudge
    from tandem_trainer.studies.judge_http import HttpJudge

    if kind is JudgeKind.PROXY:
        if endpoint or model or key_env:
            fail("--endpoint, --model and --key-env are of --judge http; the proxy asks nobody")
        return ProxyJudge()
    if not endpoint or not model:
        fail("--judge http needs --endpoint and --model")
    key = os.environ.get(key_env, "").strip() if key_env else ""
    if key_env and not key:
        fail(f"the environment variable {key_env} is not set, or empty")
    return HttpJudge(endpoint, model, key, timeout)


def _table(told: Judgement) -> Table:
    used = f"{len(told.scores)} of {len(told.rows)} users" if len(told.scores) < len(told.rows) else "all users"
    table = Table(
        "user",
        "had",
        "recommended",
        "score",
        "reason",
        title=f"{escape(told.judge)}: mean {told.mean:.2f} of 10, {used}",
        title_justify="left",
        show_lines=True,
    )
    for case, verdict in told.rows:
        score = "-" if verdict.score is None else str(verdict.score)
        cells = (case.user_id, _lines(case.had), _lines(case.recommended), score, verdict.reason)
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _lines(items: Items) -> str:
    """Return a line for each item."""
    named = (f" ({', '.join(each.categories)})" if each.categories else "" for each in items)
    return "\n".join(each.title + more for each, more in zip(items, named, strict=True))
