"""tandem bench live."""
# ruff: noqa: PLC0415  (numpy and onnxruntime take time to import: only the commands that use them pay)

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tandem_cli.console import fail, out, user_errors


def live(
    registry: Annotated[Path, typer.Option(help="Folder of bundles; its current one is measured.")] = Path("bundles"),
    items: Annotated[int, typer.Option(min=1, help="Live items on top of the bundle.")] = 50_000,
    calls: Annotated[int, typer.Option(min=20, help="Of each variant, taking turns.")] = 300,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
) -> None:
    """What live items cost a request, in process: with none, with one, with many, and while they change."""
    from tandem_cli.live_bench import measure
    from tandem_core.bundle import load_bundle
    from tandem_core.errors import BundleRefused, NotFound
    from tandem_core.registry import Registry

    with user_errors(BundleRefused, NotFound):
        found = Registry(registry)
        if (current := found.current()) is None:
            fail(f"{registry} has no current bundle: train one (tandem train)")
        bundle = load_bundle(found.path_of(current.bundle_id))
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(bundle, items, calls, Path(folder))
    for name, value in figures.items():
        out.print(f"{name:52s} {value:12.4g}", highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1))
