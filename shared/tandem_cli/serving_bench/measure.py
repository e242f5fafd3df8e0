"""Measuring one size: everything about a run that its table shows, medians of several runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from tandem_cli.serving_bench.inner import Inner, median_parts
from tandem_cli.serving_bench.load import METHOD, TIMEOUT_S, degraded
from tandem_cli.serving_bench.processes import Serving, channel_to, peer, services, stolen, until
from tandem_cli.serving_bench.world import World
from tandem_core.manifest import MANIFEST_NAME, read_manifest

CONNECTIONS = 4  # of the saturating client: as many calls are under way at once


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured. runs: of each load, medians are shown. calls: of the interleaved comparison."""

    runs: int
    calls: int
    seconds: float  # of each load
    rates: Sequence[float]  # shares of the saturation


@dataclass(slots=True)
class Figures:
    """All figures of one size by name; see `report`."""

    items: int
    values: dict[str, Any] = field(default_factory=dict)


def measure(world: World, effort: Effort, folder: Path, peer_script: Path | None) -> Figures:
    """Start the services over a bundle, measure, end them; then the peer, if there is one."""
    figures = Figures(world.items)
    figures.values["indexes"] = {
        name: info.model_dump(exclude_none=True) for name, info in read_manifest(world.bundle_path).indexes.items()
    }
    inner = Inner(world)
    figures.values["parts_us"] = median_parts(inner, world.warm, effort.calls)
    with services(world.registry.root, world.store, folder / "services.log") as serving:
        figures.values["start_s"] = serving.start_s
        for kind, requests in (("warm", world.warm), ("cold", world.cold)):
            figures.values[kind] = _compared(inner, serving, requests, effort.calls, kind)
        figures.values["saturation"] = _saturations(serving, world, effort, folder, peer_script)
        peak = figures.values["saturation"]["ours"]["per second"]
        figures.values["load"] = {share: _load(serving, world, share * peak, effort, folder) for share in effort.rates}
        figures.values["memory"] = {r: {"rss": u.rss_mib, "pss": u.pss_mib} for r, u in serving.usage().items()}
        figures.values["reload_s"] = _reload(serving, world)
    if peer_script is not None:
        figures.values["peer profile"] = _profile(peer_script, world)
    return figures


def _profile(script: Path, world: World) -> str:
    """Return where the plain implementation spends its time: the functions that take most, by their own time."""
    command = [sys.executable, str(script), "--bundle", str(world.bundle_path), "--store", str(world.store)]
    done = subprocess.run([*command, "--profile", "user-0"], capture_output=True, text=True, check=True)  # noqa: S603
    lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    return "\n".join(line.replace(f"{script.parent}/", "").replace(f"{sys.prefix}/", "") for line in lines)


def _compared(inner: Inner, serving: Serving, requests: list[bytes], calls: int, kind: str) -> dict[str, Any]:
    """Make the same requests as kernels, as pipelines and over gRPC, in turns; times in ms, CPU in ms per request."""
    names = [ranking_pb2.RecommendRequest.FromString(each).context.user_id for each in requests[: min(50, calls)]]
    kernels = [inner.kernels_of(name) for name in names]
    taken: dict[str, list[float]] = {"kernels": [], "in process": [], "over gRPC": []}
    cpu: dict[str, float] = dict.fromkeys(taken, 0.0)
    before = serving.usage()
    warm_up = 20
    with channel_to(serving.target) as channel:
        call: Callable[..., bytes] = channel.unary_unary(METHOD, None, None)
        for number in range(calls + warm_up):
            which = number % len(names)
            if number == warm_up:
                before = serving.usage()
                cpu = dict.fromkeys(taken, 0.0)
                taken = {name: [] for name in taken}
            for name, work in (
                ("kernels", lambda which=which: [kernel() for kernel in kernels[which]]),
                ("in process", lambda which=which: inner.pipelines(names[which])),
                ("over gRPC", lambda which=which: call(requests[which], timeout=TIMEOUT_S)),
            ):
                begun, cpu_begun = time.perf_counter(), time.thread_time()
                work()
                taken[name].append((time.perf_counter() - begun) * 1000)
                cpu[name] += (time.thread_time() - cpu_begun) * 1000
    after = serving.usage()
    spent = {role: (after[role].cpu_s - before[role].cpu_s) * 1000 / calls for role in after}
    cpu["over gRPC"] = sum(spent.values()) * calls  # of the services; the caller's own is not theirs
    return {
        **{name: {**_percentiles(times), "cpu": cpu[name] / calls} for name, times in taken.items()},
        "cpu by process": spent,
        "users": kind,
    }


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    shown = {"p50": 50, "p95": 95, "p99": 99, "p99.9": 99.9}
    return {name: float(np.percentile(times, share)) for name, share in shown.items()}


def _load(serving: Serving, world: World, rate: float, effort: Effort, folder: Path) -> dict[str, Any]:
    """Return latencies of warm users who arrive at a rate, as an open loop; medians of the runs."""
    runs = [
        _client({"kind": "open", "rate": rate, "seconds": effort.seconds, "seed": run}, serving, world.warm, folder)
        for run in range(effort.runs)
    ]
    each = [_percentiles(run["latencies_ms"]) for run in runs]
    return {
        "rate": rate,
        **{name: float(np.median([run[name] for run in each])) for name in each[0]},
        "wrong": sum(sum(run["wrong"].values()) for run in runs),
        "degraded": sum(run["degraded"] for run in runs),
        "stolen": float(np.median([run["stolen"] for run in runs])),
    }


def _saturations(
    serving: Serving, world: World, effort: Effort, folder: Path, peer_script: Path | None
) -> dict[str, dict[str, Any]]:
    """Saturate the services and the peers in turns, so that a busy machine troubles all alike; medians of the runs."""
    with ExitStack() as stack:
        servers = {"ours": serving}
        if peer_script is not None:
            for name, naive in (("peer", False), ("peer, naive MMR", True)):
                log = folder / f"peer-{naive}.log"
                servers[name] = stack.enter_context(
                    peer(peer_script, world.bundle_path, world.store, log, naive_mmr=naive)
                )
        runs = [
            {name: _peak(server, world.warm, effort.seconds, folder) for name, server in servers.items()}
            for _ in range(effort.runs)
        ]
    return {name: _median_peak([run[name] for run in runs], [run["ours"] for run in runs]) for name in servers}


def _median_peak(runs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the runs; "ours over it" and "its CPU over ours" are medians of each run's ratio."""
    cpu = {role: float(np.median([run["cpu"][role] for run in runs])) for role in runs[0]["cpu"]}
    median = {
        name: float(np.median([run[name] for run in runs])) for name in ("per second", "per second and core", "stolen")
    }
    pairs = list(zip(ours, runs, strict=True))
    return {
        **median,
        "cpu by process": cpu,
        "cpu": sum(cpu.values()),
        "wrong": sum(run["wrong"] for run in runs),
        "client": runs[0]["client"],
        "ours over it": float(np.median([our["per second"] / run["per second"] for our, run in pairs])),
        "its CPU over ours": float(
            np.median([our["per second and core"] / run["per second and core"] for our, run in pairs])
        ),
    }


def _peak(serving: Serving, requests: list[bytes], seconds: float, folder: Path) -> dict[str, Any]:
    cores = _cores()
    serving.pin(cores["services"])
    before, stolen_before = serving.usage(), stolen()
    if shutil.which("h2load"):
        found = _h2load(serving.target, requests[0], seconds, cores["client"], folder)
    else:
        found = _client({"kind": "closed", "threads": CONNECTIONS, "seconds": seconds}, serving, requests, folder)
        found["client"] = "our own, closed loop (no h2load here)"
    after, stolen_after = serving.usage(), stolen()
    serving.pin(sorted({core for part in cores.values() for core in part}))
    cpu = {role: (after[role].cpu_s - before[role].cpu_s) * 1000 / max(found["calls"], 1) for role in after}
    with channel_to(serving.target) as channel:  # h2load looks at HTTP codes alone: gRPC's come in trailers
        call = channel.unary_unary(METHOD, None, None)
        sample = degraded([call(request, timeout=TIMEOUT_S) for request in requests[:20]])
    return {
        "per second": found["calls"] / found["seconds"],
        "per second and core": 1000 / max(sum(cpu.values()), 1e-9),
        "cpu": cpu,
        "wrong": found["wrong"] + sample,
        "client": found["client"],
        "stolen": (stolen_after[0] - stolen_before[0]) / max(stolen_after[1] - stolen_before[1], 1e-9),
    }


def _h2load(target: str, request: bytes, seconds: float, cores: list[int], folder: Path) -> dict[str, Any]:
    """Saturate with h2load: one framed message, sent over and over. An error in gRPC's trailers makes an answer short:
    what came back is compared with what good answers weigh.
    """
    with channel_to(target) as channel:
        answer = channel.unary_unary(METHOD, None, None)(request, timeout=TIMEOUT_S)
    framed = folder / "request.bin"
    framed.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
    command = ["h2load", "-D", f"{seconds * 1000:.0f}ms", "-c", str(CONNECTIONS), "-m", "1", "-t", "1"]
    command += ["-d", str(framed), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    pinned = f"import os, sys; os.sched_setaffinity(0, {cores}); os.execvp(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", pinned, *command, f"http://{target}{METHOD}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  a fixed command
    total, succeeded = (int(re.search(rf"(\d+) {word}", done.stdout)[1]) for word in ("done", "succeeded"))  # type: ignore[index]
    data = int(re.search(r"\((\d+)\) data", done.stdout)[1])  # type: ignore[index]
    # Made-up request ids differ in no length, and scores are floats: answers weigh nearly the same.
    short = max(0.0, total - data / (len(answer) + 5))
    wrong = total - succeeded + (round(short) if short > 0.05 * total else 0)
    return {"calls": total, "seconds": seconds, "wrong": wrong, "client": "h2load"}


def _client(asked: dict[str, Any], serving: Serving, requests: list[bytes], folder: Path) -> dict[str, Any]:
    """Run our own client as a process of its own, on its own core."""
    file = folder / "asked.json"
    asked = {**asked, "target": serving.target, "cores": _cores()["client"], "requests": [r.hex() for r in requests]}
    file.write_text(json.dumps(asked))
    before = stolen()
    command = [sys.executable, "-m", "tandem_cli.serving_bench.load", str(file)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)  # noqa: S603
    after = stolen()
    return {**found, "stolen": (after[0] - before[0]) / max(after[1] - before[1], 1e-9)}


def _cores() -> dict[str, list[int]]:
    """Return which cores belong to whom in peak runs: the last one to the client, where there is more than one."""
    mine = sorted(os.sched_getaffinity(0))
    return {"client": mine[-1:], "services": mine[:-1] or mine}


def _reload(serving: Serving, world: World) -> float:
    """Publish the same bundle under another id, activate it, and return the seconds until both services have it."""
    registry, other = world.registry, f"{world.bundle_id}-again"
    if not registry.path_of(other).exists():
        staging = registry.new_staging("again")
        for path in world.bundle_path.iterdir():
            if path.name != MANIFEST_NAME:
                (staging / path.name).hardlink_to(path)
        manifest = read_manifest(world.bundle_path).model_copy(update={"bundle_id": other})
        (staging / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1))
        registry.publish(staging, other)
    registry.activate(other)
    with channel_to(serving.target) as channel:
        stub = ranking_pb2_grpc.RankingServiceStub(channel)
        request = ranking_pb2.RecommendRequest(max_results=1)
        taken = until(lambda: stub.Recommend(request, timeout=TIMEOUT_S).bundle_id == other, "the new bundle")
    registry.activate(world.bundle_id)
    return taken
