"""tandem bundles: the registry from the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tandem_cli.access import with_access
from tandem_cli.console import out, user_errors
from tandem_core.errors import BundleRefused, NotFound
from tandem_core.registry_s3 import open_registry
from tandem_core.settings import ConfigError

app = typer.Typer(no_args_is_help=True)
RegistryOption = Annotated[Path, typer.Option("--registry", help="Folder of bundles, or s3://bucket/prefix.")]
TargetOption = Annotated[
    str, typer.Option("--target", help="Admin address of a service, to ask it instead of the folder.")
]
TIMEOUT_S = 60.0  # activating compares the hashes of all files
_UNUSABLE = (BundleRefused, NotFound, ConfigError, OSError)  # of registries, on S3 too


@app.command("list")
@with_access
def list_bundles(registry: RegistryOption = Path("bundles"), target: TargetOption = "") -> None:
    """List the bundles, newest first; the current one is marked."""
    if target:
        _list_at(target)
        return
    table = Table("", "bundle", "created (UTC)", "data", "items", "trained on the cut of")
    with user_errors(*_UNUSABLE):
        found = open_registry(registry)
        current = found.current()
        for bundle_id in found.bundle_ids():
            manifest = found.manifest(bundle_id)
            created = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest.created_ms / 1000))
            mark = "*" if current and current.bundle_id == bundle_id else ""
            table.add_row(
                mark, bundle_id, created, manifest.data.name, str(manifest.data.items), manifest.split.protocol
            )
    out.print(table)


@app.command()
@with_access
def activate(bundle_id: str, registry: RegistryOption = Path("bundles"), target: TargetOption = "") -> None:
    """Make a bundle the current one, after checking that it is whole."""
    if target:
        answer = _admin(target, "ActivateBundle", bundle_id=bundle_id)
        out.print(f"current is {bundle_id}, before it was {answer.previous_bundle_id or 'none'}")
        return
    with user_errors(*_UNUSABLE):
        current = open_registry(registry).activate(bundle_id)
    out.print(f"current is {current.bundle_id}, before it was {current.previous or 'none'}")


@app.command()
@with_access
def rollback(registry: RegistryOption = Path("bundles"), target: TargetOption = "") -> None:
    """Go back to the bundle that was current before."""
    if target:
        answer = _admin(target, "RollbackBundle")
        out.print(f"current is {answer.bundle_id}")
        return
    with user_errors(*_UNUSABLE):
        current = open_registry(registry).rollback()
    out.print(f"current is {current.bundle_id}, before it was {current.previous}")


def _admin(target: str, method: str, **fields: Any) -> Any:
    from tandem_cli.client import NotAnswered, ask_admin  # noqa: PLC0415

    with user_errors(NotAnswered):
        return ask_admin(target, method, TIMEOUT_S, **fields)


def _list_at(target: str) -> None:
    table = Table("", "bundle", "created (UTC)", "MB")
    answer = _admin(target, "ListBundles", page_size=200)
    while True:
        for bundle in answer.bundles:
            created = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(bundle.created.seconds))
            table.add_row("*" if bundle.current else "", bundle.bundle_id, created, f"{bundle.size_bytes / 1e6:.1f}")
        if not answer.next_page_token:
            break
        answer = _admin(target, "ListBundles", page_size=200, page_token=answer.next_page_token)
    out.print(table)
