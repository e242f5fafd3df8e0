"""tandem doctor: looks at all that serving needs, and says in plain words what is wrong and what helps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from tandem_cli.access import access_of_command
from tandem_cli.console import out
from tandem_cli.doctor_findings import Finding, State, bad

if TYPE_CHECKING:
    from tandem_core.service_settings import ServiceSettings

_MARKS = {State.GOOD: "[green]good[/]    ", State.DOUBTFUL: "[yellow]doubtful[/]", State.BAD: "[red]bad[/]     "}


def doctor(
    registry: Annotated[Path | None, typer.Option(help="Folder of bundles; default: the config's, or bundles.")] = None,
    store: Annotated[str | None, typer.Option(help="User store; default: the config's.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Address of a service that must answer; may be repeated.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The TOML of tandem serve; default: built-in settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Check machine, bundle, store, ports and certificates; exit with 1 where something is bad. Changes nothing."""
    found = []
    for finding in _all(registry, store, target or [], config):
        found.append(finding)
        if not as_json:
            _print(finding)
    n_bad = sum(finding.state is State.BAD for finding in found)
    if as_json:
        typer.echo(json.dumps({"good": n_bad == 0, "findings": [asdict(finding) for finding in found]}, indent=1))
    else:
        out.print(f"{len(found)} checks, {n_bad} bad")
    raise typer.Exit(1 if n_bad else 0)


def _print(finding: Finding) -> None:
    what = escape(f"{finding.area}: {finding.check}: {finding.says}")
    out.print(f"{_MARKS[finding.state]} {what}", highlight=False, soft_wrap=True)
    if finding.do:
        out.print(f"         [bold]do:[/] {escape(finding.do)}", highlight=False, soft_wrap=True)


def _all(registry: Path | None, store: str | None, targets: list[str], config: Path | None) -> Iterator[Finding]:
    from tandem_cli import doctor_data, doctor_machine, doctor_security, doctor_services  # noqa: PLC0415
    from tandem_core.certificates import CertificateFiles  # noqa: PLC0415

    services: dict[str, ServiceSettings] = {}
    yield from _settings(config, services)
    ranking: Any = services.get("ranking")
    first = next(iter(services.values()), None)
    registry = registry or (first.local_registry() if first is not None else Path("bundles"))
    store = store or (first.store if first is not None else "sqlite:///store.db")

    extras = ["serving", *(["redis"] if store.startswith("redis") else [])]
    yield from doctor_machine.machine(extras, sum(each.workers for name, each in services.items() if name != "writer"))
    yield from doctor_data.bundle(registry)
    yield from doctor_data.store(store)

    for name, settings in services.items():
        yield from doctor_security.server(name, settings, settings.host)
    if ranking is not None:
        files = CertificateFiles(ranking.retrieval_tls_cert, ranking.retrieval_tls_key, ranking.retrieval_tls_ca)
        yield from doctor_security.certificates("ranking to retrieval", files)
        yield from doctor_security.token("ranking to retrieval", ranking.retrieval_token_file)

    serving: list[doctor_services.Serves] = []
    for name, settings in services.items():
        for seen in doctor_services.ports(name, settings):
            if isinstance(seen, Finding):
                yield seen
            elif seen not in targets:
                targets = [*targets, seen]
    for address in targets:
        yield from doctor_services.answers(address, access_of_command(), serving)
    yield from doctor_services.agreement(serving, _current_id(registry))


def _settings(config: Path | None, services: dict[str, ServiceSettings]) -> Iterator[Finding]:
    """Add the settings of each service to `services`; yield what is wrong with them."""
    from tandem_core.service_arguments import load_settings  # noqa: PLC0415
    from tandem_core.settings import ConfigError, read_toml  # noqa: PLC0415
    from tandem_ranking.config import RankingSettings  # noqa: PLC0415
    from tandem_ranking.writer.config import WriterSettings  # noqa: PLC0415
    from tandem_retrieval.config import RetrievalSettings  # noqa: PLC0415

    try:
        tables = {} if config is None else read_toml(config)
    except ConfigError as error:
        yield bad("settings", str(config), str(error), "correct the file, or name another by --config")
        return
    kinds: dict[str, type[ServiceSettings]] = {
        "retrieval": RetrievalSettings,
        "ranking": RankingSettings,
        "writer": WriterSettings,
    }
    for name, kind in kinds.items():
        if name == "writer" and config is not None and name not in tables:
            continue  # it may run elsewhere
        where = "environment" if config is None else f"{config}: {name}"
        try:
            services[name] = load_settings(kind, tables.get(name, {}), where)
        except ConfigError as error:
            yield bad("settings", name, str(error), "correct it; deploy/config/serve.toml shows what there is")


def _current_id(registry: Path) -> str:
    from tandem_core.errors import BundleRefused  # noqa: PLC0415
    from tandem_core.registry import Registry  # noqa: PLC0415

    try:
        current = Registry(registry).current()
    except BundleRefused:
        return ""  # said already
    return current.bundle_id if current is not None else ""
