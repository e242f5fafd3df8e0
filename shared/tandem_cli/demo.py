"""The demo: everything once, for real, on one machine, ending with nothing left running."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pandas as pd
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.table import Table

from tandem_cli.client import Asking, NotAnswered, ask_over
from tandem_cli.console import fail, out, user_errors
from tandem_cli.progress import ConsoleProgress
from tandem_cli.serve import children
from tandem_cli.show import evaluation_tables, history_table, recommendation_table
from tandem_cli.supervisor import Supervisor
from tandem_core.bundle import load_bundle
from tandem_core.registry import Registry
from tandem_core.stores.open import open_store
from tandem_trainer.config import DataSettings, TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.evaluate import evaluate
from tandem_trainer.inputs import load_data
from tandem_trainer.seed_store import store_events, store_users
from tandem_trainer.train import Trained, train

SHOWN = 10
TIMED_CALLS = 300
START_TIMEOUT_S = 60.0
RANKING = "tandem.ranking.v1.RankingService"

# What differs from the defaults for the known sets: items with fewer than 5 events are left out of ml-1m, as the
# published figures on it do.
SETTINGS = {"ml-1m": DataSettings(adapter="ml-1m", min_item_events=5)}


@dataclass(frozen=True, slots=True)
class Person:
    """One of the four users shown. history: titles, newest first. chosen_next: held-out items, if any are known."""

    heading: str
    asking: Asking
    history: Sequence[str] = ()
    chosen_next: frozenset[str] = frozenset()


def run_demo(name: str, data: Path | None, folder: Path) -> None:
    """Train, publish, serve, ask, measure, stop."""
    started = time.monotonic()
    folder = folder / name
    registry = Registry(folder / "bundles")
    settings = TrainConfig(data=SETTINGS.get(name, DataSettings(adapter=name)))
    out.rule(f"1. Data: {name}")
    with user_errors(ValueError):
        dataset = load_data(settings, data, cache=folder)
    for line in dataset.report.lines():
        out.print(line, highlight=False)
    out.rule("2. Train and publish")
    with user_errors(ValueError), ConsoleProgress() as progress:
        trained = train(settings, dataset, registry, progress)
    out.print(f"bundle [bold]{trained.bundle_id}[/] is active", highlight=False)
    store = f"sqlite:///{(folder / 'store.db').absolute()}"
    _seed(store, trained)
    out.rule("3. Serve and ask")
    retrieval_port, ranking_port, writer_port = _free_port(), _free_port(), _free_port()
    services = Supervisor(children(None, registry.root, store, retrieval_port, ranking_port, writer_port))
    services.start(log_to=folder / "services.log")
    try:
        _ask_everybody(f"127.0.0.1:{ranking_port}", trained, folder)
    finally:
        services.end()
    out.rule("4. Evaluation on held-out events")
    with ConsoleProgress() as progress:
        bundle = load_bundle(registry.path_of(trained.bundle_id))
        evaluation = evaluate(bundle, dataset, trained.split, seed=settings.seed, progress=progress)
    out.print(*evaluation_tables(evaluation), sep="\n")
    out.print(f"\nEverything is stopped. The demo took {time.monotonic() - started:.0f} s; its files are in {folder}")


def _seed(store_url: str, trained: Trained) -> None:
    """Put users and what they did before the test events into the store: what comes after is for them to choose."""
    split = trained.split
    known = [split.train, split.validation, split.test_history, split.validation_history]
    events = pd.concat([part for part in known if part is not None]).sort_values("timestamp", kind="stable")
    store = open_store(store_url)
    new = store_events(store, events)
    users = store_users(store, trained.dataset.users)
    store.close()
    out.print(f"store: {new} events and {users} users imported; held-out events stay out", highlight=False)


def _ask_everybody(target: str, trained: Trained, folder: Path) -> None:
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        _wait_until_serving(channel, folder / "services.log")
        people = _people(trained)
        titles = dict(zip(trained.dataset.items["item_id"], trained.dataset.items["title"], strict=True))
        for person in people:
            try:
                response = ask_over(channel, target, person.asking, timeout_s=5.0)
            except NotAnswered as error:
                fail(f"{error}; the services' log is {folder / 'services.log'}")
            table = recommendation_table(response, person.heading, titles, person.chosen_next)
            beside = Table.grid(padding=(0, 2))
            beside.add_row(table, history_table(person.history))
            out.print(beside, "")
        out.print("[bold yellow]*[/] is what the user really turned to next; no model and no service was told.\n")
        out.print(_timings(channel, target, people[0].asking))


def _people(trained: Trained) -> list[Person]:
    """Return a warm user, one known by three events, one with a profile only, one nobody knows; chosen by the seed."""
    dataset, split = trained.dataset, trained.split
    before = pd.concat([split.train, split.validation]).sort_values("timestamp", kind="stable")
    sizes = before.groupby("user_id").size()
    tested = sizes[sizes.index.isin(split.test["user_id"])]
    typical = tested[tested.between(tested.quantile(0.4), tested.quantile(0.7))].index
    rng = np.random.default_rng(trained.manifest.split.seed)
    warm, other = rng.choice(np.sort(typical.to_numpy(dtype=str)), 2, replace=len(typical) < 2)
    last_ms = int(dataset.events["timestamp"].max()) + 60_000
    few = before[before["user_id"] == other]["item_id"].tail(3).tolist()
    profile = _profile(dataset, rng)
    return [
        Person(
            f"Warm user {warm}",
            Asking(str(warm), SHOWN, now_ms=last_ms),
            _titles(dataset, before[before["user_id"] == warm]["item_id"].tail(SHOWN).tolist()),
            frozenset(split.test[split.test["user_id"] == warm]["item_id"]),
        ),
        Person(
            "User known only by three events, sent along",
            Asking("demo-few-events", SHOWN, events=few, now_ms=last_ms),
            _titles(dataset, few),
        ),
        Person(
            f"New user with a profile: {', '.join(f'{k}={v}' for k, v in profile.items()) or '(none in this data)'}",
            Asking("demo-new", SHOWN, attributes=profile, now_ms=last_ms),
        ),
        Person("Unknown user", Asking("demo-nobody", SHOWN, now_ms=last_ms)),
    ]


def _profile(dataset: Dataset, rng: np.random.Generator) -> dict[str, str]:
    names = list(dataset.schema.user_attributes)
    complete = dataset.users.dropna(subset=names) if names else dataset.users.head(0)
    if complete.empty:
        return {}
    row = complete.iloc[int(rng.integers(len(complete)))]
    return {name: str(row[name]) for name in names}


def _titles(dataset: Dataset, item_ids: Sequence[str]) -> list[str]:
    """Return titles, the newest (last) first."""
    titles = dataset.items.set_index("item_id")["title"]
    return [titles.get(item_id) or item_id for item_id in reversed(item_ids)]


def _timings(channel: grpc.Channel, target: str, asking: Asking) -> Table:
    """Return what a client in another process than the services waits, after a warm-up."""
    asking = Asking(asking.user_id, 20, now_ms=asking.now_ms)
    for _ in range(20):
        ask_over(channel, target, asking, timeout_s=5.0)
    seconds = []
    for _ in range(TIMED_CALLS):
        begun = time.perf_counter()
        ask_over(channel, target, asking, timeout_s=5.0)
        seconds.append(time.perf_counter() - begun)
    p50, p95, p99 = np.percentile(np.array(seconds) * 1000, [50, 95, 99])
    table = Table(
        "calls", "p50", "p95", "p99", title="Recommend, 20 of 500 candidates, warm user", title_justify="left"
    )
    table.add_row(str(TIMED_CALLS), f"{p50:.2f} ms", f"{p95:.2f} ms", f"{p99:.2f} ms")
    return table


def _wait_until_serving(channel: grpc.Channel, log: Path) -> None:
    """Wait for ranking to say SERVING and to have found retrieval; its own health does not wait for retrieval."""
    health = health_pb2_grpc.HealthStub(channel)
    deadline = time.monotonic() + START_TIMEOUT_S
    asking = Asking("", 1)
    while time.monotonic() < deadline:
        try:
            reply = health.Check(health_pb2.HealthCheckRequest(service=RANKING), timeout=1.0, wait_for_ready=True)
            serving = reply.status == health_pb2.HealthCheckResponse.SERVING
            if serving and not ask_over(channel, "ranking", asking, timeout_s=1.0).degradations:
                return
        except (grpc.RpcError, NotAnswered):
            pass  # not up yet: asked again until the deadline, which reports
        time.sleep(0.1)
    fail(f"the services did not start within {START_TIMEOUT_S:.0f} s; their log is {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
