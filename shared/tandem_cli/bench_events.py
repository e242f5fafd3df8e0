"""tandem bench events: how many events the writer process takes in, each on disk before it is acknowledged."""
# ruff: noqa: PLC0415  (grpc takes its time to import)

from __future__ import annotations

import json
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tandem_cli.console import fail, out

if TYPE_CHECKING:
    import grpc

    from tandem.events.v1 import events_pb2

START_S = 60.0


def events(
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Events in one call.")] = 100,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Calls at a time.")] = 8,
    seconds: Annotated[float, typer.Option(min=0.5, max=60)] = 5.0,
    users: Annotated[int, typer.Option(min=1)] = 10_000,
    store: Annotated[str, typer.Option(help="Default: a new SQLite file, removed afterwards.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
) -> None:
    """Start a writer process, write events of many users from several clients at once, print events a second."""
    from tandem_cli.serve import SERVICES
    from tandem_cli.supervisor import Child

    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        url = store or f"sqlite:///{folder}/store.db"
        log = Path(folder) / "writer.log"
        environment = {"TANDEM_WRITER_PORT": "0", "TANDEM_WRITER_STORE": url, "TANDEM_WRITER_DRAIN_S": "0"}
        with log.open("wb") as file:
            writer = Child("writer", SERVICES["writer"], (), environment).start(file)
        try:
            address = f"127.0.0.1:{_port(log)}"
            seconds_each, took = _drive(address, batch, clients, seconds, users)
        finally:
            writer.terminate()
            writer.wait(30)
    figures = {
        "batch": batch,
        "clients": clients,
        "events": len(seconds_each) * batch,
        "events_per_s": len(seconds_each) * batch / took,
        "calls_per_s": len(seconds_each) / took,
        "p50_ms": 1000 * _quantile(seconds_each, 0.5),
        "p99_ms": 1000 * _quantile(seconds_each, 0.99),
    }
    out.print(
        f"{figures['events_per_s']:,.0f} events/s acknowledged ({clients} clients, {batch} events a call, "
        f"{figures['events']:,} events in {took:.1f} s); a call took {figures['p50_ms']:.1f} ms at p50, "
        f"{figures['p99_ms']:.1f} ms at p99",
        highlight=False,
    )
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=1))


def _drive(address: str, batch: int, clients: int, seconds: float, users: int) -> tuple[list[float], float]:
    """Return the seconds that each call took, and all of them together."""
    import grpc

    from tandem.events.v1 import events_pb2_grpc

    took: list[float] = []
    failures: list[grpc.RpcError] = []
    end = time.perf_counter() + seconds

    def write(client: int) -> None:
        with grpc.insecure_channel(
            address, [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub = events_pb2_grpc.EventServiceStub(channel)
            call = 0
            while (begun := time.perf_counter()) < end and not failures:
                try:
                    answer = stub.WriteEvents(_request(client, call, batch, users), timeout=30)
                except grpc.RpcError as error:
                    failures.append(error)
                    return
                took.append(time.perf_counter() - begun)
                assert {result.outcome for result in answer.results} == {1}  # noqa: S101  stored: what is counted
                call += 1

    begun = time.perf_counter()
    threads = [threading.Thread(target=write, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        fail(f"the writer answered {failures[0].code().name}: {failures[0].details()}")
    return took, time.perf_counter() - begun


def _request(client: int, call: int, batch: int, users: int) -> events_pb2.WriteEventsRequest:
    from tandem.events.v1 import events_pb2

    numbers = range((client * 1_000_000 + call) * batch, (client * 1_000_000 + call + 1) * batch)
    return events_pb2.WriteEventsRequest(
        events=[
            events_pb2.Event(
                insert_id=uuid.uuid4().hex, user_id=f"u{i * 7919 % users}", item_id=f"i{i % 997}", event_type="click"
            )
            for i in numbers
        ]
    )


def _port(log: Path) -> int:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        lines = [line for line in log.read_text().splitlines() if '"listening"' in line]
        if lines:
            return int(json.loads(lines[0])["port"])
        time.sleep(0.05)
    fail(f"the writer did not start: {log.read_text()[-500:]}")


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(int(q * len(values)), len(values) - 1)]
