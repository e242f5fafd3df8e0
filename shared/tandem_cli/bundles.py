"""tandem bundles: the registry from the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tandem_cli.console import out, user_errors
from tandem_core.errors import BundleRefused, NotFound
from tandem_core.registry import Registry

app = typer.Typer(no_args_is_help=True)
RegistryOption = Annotated[Path, typer.Option("--registry", help="Folder of bundles.")]


@app.command("list")
def list_bundles(registry: RegistryOption = Path("bundles")) -> None:
    """List the bundles, newest first; the current one is marked."""
    found = Registry(registry)
    table = Table("", "bundle", "created (UTC)", "data", "items", "trained on the cut of")
    with user_errors(BundleRefused):
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
def activate(bundle_id: str, registry: RegistryOption = Path("bundles")) -> None:
    """Make a bundle the current one, after checking that it is whole."""
    with user_errors(BundleRefused, NotFound):
        current = Registry(registry).activate(bundle_id)
    out.print(f"current is {current.bundle_id}, before it was {current.previous or 'none'}")


@app.command()
def rollback(registry: RegistryOption = Path("bundles")) -> None:
    """Go back to the bundle that was current before."""
    with user_errors(BundleRefused, NotFound):
        current = Registry(registry).rollback()
    out.print(f"current is {current.bundle_id}, before it was {current.previous}")
