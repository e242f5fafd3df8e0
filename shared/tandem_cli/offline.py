"""Commands around training: data in, bundle out, figures, users into the store."""
# ruff: noqa: PLC0415  (pandas and torch take seconds to import: only the commands that use them pay)

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tandem_cli.console import fail, out, user_errors

if TYPE_CHECKING:
    from tandem_core.bundle import Bundle
    from tandem_trainer.config import TrainConfig
    from tandem_trainer.data import Dataset
    from tandem_trainer.split import Split

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Folder of the data; its kind is recognised. None: synthetic.")
]
RegistryOption = Annotated[Path, typer.Option("--registry", help="Folder of bundles, or s3://bucket/prefix.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="TOML file; see deploy/config/train.toml.")]
StoreOption = Annotated[str, typer.Option("--store", envvar="TANDEM_STORE", help="sqlite:///PATH or redis://HOST/DB")]
ForgottenOption = Annotated[
    str, typer.Option("--store", envvar="TANDEM_STORE", help="Store whose forgotten users are left out; none if empty.")
]


def generate(
    folder: Annotated[Path, typer.Option("--out", help="Where to write the three tables.")],
    users: Annotated[int, typer.Option(min=1)] = 2000,
    items: Annotated[int, typer.Option(min=1)] = 500,
    density: Annotated[float | None, typer.Option(help="Events per user and item; default 18 events a user.")] = None,
    seed: int = 7,
) -> None:
    """Write a synthetic data set with planted tastes, Zipf popularity, drift, cold users and items."""
    from tandem_trainer.data import SyntheticConfig, write_tables
    from tandem_trainer.data.synthetic import generate as make

    per_user = 18.0 if density is None else density * items
    with user_errors(ValueError):
        dataset = make(SyntheticConfig(n_users=users, n_items=items, seed=seed, events_per_user=per_user))
        write_tables(dataset, folder)
    out.print(f"{len(dataset.users)} users, {len(dataset.items)} items, {len(dataset.events)} events in {folder}")


def train(
    config: ConfigOption = None,
    data: DataOption = None,
    registry: RegistryOption = Path("bundles"),
    store: ForgottenOption = "",
) -> None:
    """Fit all models on the training cut and publish them as one bundle."""
    from tandem_cli.progress import ConsoleProgress
    from tandem_core.registry_s3 import open_registry
    from tandem_trainer.train import train as run

    settings, dataset = load_config_and_data(config, data, store)
    for line in dataset.report.lines():
        out.print(line, highlight=False)
    with user_errors(ValueError), ConsoleProgress() as progress:
        trained = run(settings, dataset, open_registry(registry), progress)
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in sorted(trained.manifest.metrics.items()))
    state = "published, not active," if trained.held_back else "active"
    out.print(f"bundle {trained.bundle_id} is {state} in {registry}\n{metrics}", highlight=False)
    costs = trained.costs
    out.print(
        f"two towers: {costs['events_per_second']:,.0f} events/s, {costs['loading_share']:.1%} of the time for "
        f"gathering batches; memory peak {costs['memory_peak_mb']:,.0f} MB",
        highlight=False,
    )
    if trained.held_back:
        fail(f"{trained.bundle_id} was not activated: {trained.held_back}")


def evaluate(
    registry: RegistryOption = Path("bundles"),
    data: DataOption = None,
    config: ConfigOption = None,
    protocol: Annotated[str, typer.Option(help="Must be the one the bundle was trained on.")] = "leave_last_out",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures there.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="A seeded sample of the users; default all.")] = None,
    bundle_id: Annotated[str | None, typer.Option("--bundle", help="Default: the current one.")] = None,
    store: ForgottenOption = "",
) -> None:
    """Measure the bundle and its parts on held-out events: full ranking, intervals, slices."""
    from tandem_cli.progress import ConsoleProgress
    from tandem_cli.show import evaluation_tables
    from tandem_core.errors import BundleRefused, NotFound
    from tandem_core.stores.base import StoreUnavailable
    from tandem_trainer.evaluate import evaluate as run
    from tandem_trainer.evaluate import to_json

    with user_errors(ValueError, BundleRefused, NotFound, StoreUnavailable):
        bundle, dataset, split, settings = bundle_and_its_data(registry, bundle_id, data, config, protocol, store)
        with ConsoleProgress() as progress:
            evaluation = run(bundle, dataset, split, most_users=users, seed=settings.seed, progress=progress)
    out.print(*evaluation_tables(evaluation), sep="\n")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(to_json(evaluation, bundle), indent=1, allow_nan=False))
        out.print(f"all figures: {json_file}")


def bundle_and_its_data(
    registry: Path, bundle_id: str | None, data: Path | None, config: Path | None, protocol: str, store: str = ""
) -> tuple[Bundle, Dataset, Split, TrainConfig]:
    """Return a bundle, the data it was trained on, its cut and its settings, for what measures on held-out events.

    bundle_id: None means the current one. store: whose forgotten users are left out, "" for none. Raises NotFound,
    BundleRefused, StoreUnavailable, and ValueError where the data or the cut is another than the bundle's.
    """
    from tandem_core.bundle import load_bundle
    from tandem_core.errors import NotFound
    from tandem_core.registry_s3 import open_registry
    from tandem_core.stores.open import open_store
    from tandem_trainer.config import TrainConfig
    from tandem_trainer.evaluate import check_fits
    from tandem_trainer.inputs import load_data, split_data

    found = open_registry(registry)
    current = found.current() if bundle_id is None else None
    if current is None and bundle_id is None:
        raise NotFound(f"{registry} has no current bundle: run tandem train first")
    bundle = load_bundle(found.fetch(bundle_id or (current.bundle_id if current else "")))
    # The bundle knows how its data was read and cut; a configuration given here overrides that.
    settings = TrainConfig.model_validate(bundle.manifest.config) if config is None else _config(config)
    dataset = load_data(settings, data, store=open_store(store) if store else None)
    check_fits(bundle, dataset, protocol.replace("-", "_"))
    return bundle, dataset, split_data(settings, dataset), settings


def import_events(
    store: StoreOption,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Put the events of a data set into the store, so that its users are known when they ask. Safe to repeat."""
    from tandem_core.stores.base import StoreUnavailable
    from tandem_core.stores.open import open_store, without_password
    from tandem_trainer.seed_store import store_events

    _, dataset = load_config_and_data(config, data)
    with user_errors(ValueError, StoreUnavailable):
        new = store_events(open_store(store), dataset.events)
    out.print(f"{new} new of {len(dataset.events)} events in {without_password(store)}")


def import_users(
    store: StoreOption,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Put the users of a data set and their attributes into the store."""
    from tandem_core.stores.base import StoreUnavailable
    from tandem_core.stores.open import open_store, without_password
    from tandem_trainer.seed_store import store_users

    _, dataset = load_config_and_data(config, data)
    with user_errors(ValueError, StoreUnavailable):
        count = store_users(open_store(store), dataset.users)
    out.print(f"{count} users in {without_password(store)}")


def export_items(
    store: StoreOption,
    path: Annotated[Path, typer.Option("--out", help="Parquet: the items table of the next training.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Write the items of a data set with every change that came while serving: added, replaced and deleted ones."""
    from tandem_core.stores.base import StoreUnavailable
    from tandem_core.stores.open_live import open_live_store
    from tandem_trainer.live_items import with_live_items

    _, dataset = load_config_and_data(config, data)
    with user_errors(ValueError, StoreUnavailable):
        live = open_live_store(store)
        items, deleted = list(live.items()), live.deleted_ids()
        table = with_live_items(dataset.items, dataset.schema, items, deleted)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path, index=False)
    out.print(f"{len(table)} items in {path}: {len(items)} added or changed and {len(deleted)} deleted since training")


def _config(path: Path | None) -> TrainConfig:
    from tandem_trainer.config import load_config

    return load_config(path)


def load_config_and_data(config: Path | None, data: Path | None, store: str = "") -> tuple[TrainConfig, Dataset]:
    """Return the settings and the tables of a run; ends the command with one clear line where they are wrong."""
    from tandem_core.stores.base import StoreUnavailable
    from tandem_core.stores.open import open_store
    from tandem_trainer.inputs import load_data

    with user_errors(ValueError, StoreUnavailable):
        settings = _config(config)
        if data is None and settings.data.adapter == "auto":
            settings = settings.model_copy(update={"data": settings.data.model_copy(update={"adapter": "synthetic"})})
        return settings, load_data(settings, data, store=open_store(store) if store else None)
