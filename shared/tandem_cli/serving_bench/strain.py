"""What the real services do under strain: more calls than they can answer, more workers, many calls for long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from tandem.events.v1 import events_pb2
from tandem.ranking.v1 import ranking_pb2
from tandem.retrieval.v1 import retrieval_pb2
from tandem_cli.serving_bench.processes import Serving, services, stolen
from tandem_cli.serving_bench.world import World
from tandem_core.grpc_client import open_channel
from tandem_core.service_settings import ServiceSettings
from tandem_trainer.studies.report import Cell, StudyReport, StudyTable

RANKING = "tandem.ranking.v1.RankingService"
RECOMMEND = f"/{RANKING}/Recommend"
CHANNELS = 4
DEADLINE_S = 1.0  # of a call under overload: an answer later than this helps nobody
CALLERS = 8  # of closed loops
SHARES = (0.5, 1.0, 1.5, 3.0)


def overload(world: World, runs: int, seconds: float, folder: Path) -> StudyReport:
    """Return what comes of arrivals at shares of the peak, medians of runs that take turns."""
    queue_ms = ServiceSettings.model_fields["max_queue_ms"].default  # as they are served
    with services(world.registry.root, world.store, folder / "services.log", queue_ms=queue_ms) as serving:
        _pinned(serving)
        _client(serving, world, folder, kind="closed", seconds=seconds, alone=True)  # caches are filled
        peaks: list[float] = []
        found: dict[float, list[dict[str, Any]]] = {share: [] for share in SHARES}
        for _ in range(runs):
            peaks.append(_client(serving, world, folder, kind="closed", seconds=seconds, alone=True)["per second"])
            for share in SHARES:
                asked = {"kind": "open", "rate": share * peaks[-1], "seconds": seconds}
                found[share].append(_client(serving, world, folder, **asked))
    rows: list[tuple[Cell, ...]] = []
    for share, each in found.items():
        middle = {name: float(np.median([run[name] for run in each])) for name in ("p50", "p99", "refused", "late")}
        goodput = [run["per second"] / peak for run, peak in zip(each, peaks, strict=True)]
        other: Counter[str] = sum((Counter(run["other"]) for run in each), Counter())
        rows.append(
            (
                f"{share:g}x",
                share * float(np.median(peaks)),
                100 * float(np.median(goodput)),
                100 * middle["refused"],
                100 * middle["late"],
                middle["p50"],
                middle["p99"],
                ", ".join(f"{n} {code}" for code, n in other.items()),
            )
        )
    columns = ("arrivals", "per s", "answered, % of peak", "refused %", "late %", "p50 ms", "p99 ms", "other outcomes")
    return StudyReport(
        "overload",
        {**_facts(world), "peak, calls/s": float(np.median(peaks)), "runs": runs, "deadline, s": DEADLINE_S},
        (StudyTable("arrivals as an open loop; latencies are of calls that were answered", columns, tuple(rows)),),
        ("Goals: at 1.5x at least 80 % of the peak, at 3x at least 50 %. `make bench` prints what a refusal costs.",),
    )


def workers(world: World, runs: int, seconds: float, folder: Path) -> StudyReport:
    """Return CPU per request, how calls are split, and memory, with one worker of each service and with two."""
    cpu: dict[int, list[float]] = {1: [], 2: []}
    pss: dict[int, float] = {}
    splits: list[float] = []
    for count in (1, 2):
        (folder / str(count)).mkdir()
    first, second = (services(world.registry.root, world.store, folder / str(n) / "log", workers=n) for n in (1, 2))
    with first as one, second as two:
        for _ in range(runs + 1):  # the first warms up
            for count, serving in ((1, one), (2, two)):
                before, split_before = serving.usage(), _cpu_of_workers(serving)
                found = _client(serving, world, folder, kind="closed", seconds=seconds, threads=CALLERS)
                after, split_after = serving.usage(), _cpu_of_workers(serving)
                spent = sum(after[role].cpu_s - before[role].cpu_s for role in after)
                cpu[count].append(1000 * spent / found["calls"])
                pss[count] = sum(each.pss_mib for each in after.values())
                if count == 2:
                    took = {pid: split_after[pid] - split_before[pid] for pid in split_after}
                    splits += [100 * share for share in _shares(took, serving)]
    ratios = [b / a for a, b in zip(cpu[1][1:], cpu[2][1:], strict=True)]
    rows: tuple[tuple[Cell, ...], ...] = (
        ("CPU per request, ms", float(np.median(cpu[1][1:])), float(np.median(cpu[2][1:])), float(np.median(ratios))),
        ("PSS of both trees, MiB", pss[1], pss[2], pss[2] / pss[1]),
    )
    return StudyReport(
        "workers",
        {**_facts(world), "runs": runs},
        (StudyTable("one worker of each service, and two", ("", "one", "two", "ratio"), rows),),
        (
            f"CPU of the busier worker of each pair: at most {max(splits):.0f} % of its pair's.",
            "Goals: CPU at most 1.15x, calls split 50 +- 10 %, memory less than 1.25x.",
        ),
    )


def soak(world: World, calls: int, folder: Path) -> StudyReport:
    """Return the memory of the processes while mixed calls go on, written down ten times on the way."""
    rows: list[tuple[Cell, ...]] = []
    with services(world.registry.root, world.store, folder / "services.log") as serving:
        _client(serving, world, folder, kind="mixed", calls=max(calls // 20, 200))  # arenas and caches are filled
        rows.append(("0", *_memory(serving), ""))
        for part in range(1, 11):
            found = _client(serving, world, folder, kind="mixed", calls=calls // 10)
            other = ", ".join(f"{n} {code}" for code, n in found["other"].items())
            rows.append((f"{part * (calls // 10):,}", *_memory(serving), other))
    growth = 100 * (_cell(rows[-1][1]) / _cell(rows[0][1]) - 1)
    return StudyReport(
        "soak",
        {**_facts(world), "calls": calls, "growth, %": growth},
        (StudyTable("all processes, MiB", ("calls", "PSS without files", "PSS", "other outcomes"), tuple(rows)),),
        ("Goal: less than 5 % more (without files) after 200,000 mixed calls.",),
    )


def _cell(value: Cell) -> float:
    assert isinstance(value, float)  # noqa: S101  (a column of numbers)
    return value


def _facts(world: World) -> dict[str, Cell]:
    share, total = stolen()
    return {"items": world.items, "load": os.getloadavg()[0], "stolen CPU since boot, %": 100 * share / total}


def _memory(serving: Serving) -> tuple[float, float]:
    """Return MiB of all processes of the services: PSS without files, and PSS.

    What files take is shared with whoever else has them open on the machine, and changes with them.
    """
    anonymous = pss = 0.0
    for pid in serving.pids():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
        anonymous, pss = anonymous + kib["Pss_Anon"] / 1024, pss + kib["Pss"] / 1024
    return anonymous, pss


def _pinned(serving: Serving) -> None:
    cores = sorted(os.sched_getaffinity(0))
    serving.pin(cores[:-1] or cores)  # the last one is the client's


def _cpu_of_workers(serving: Serving) -> dict[int, float]:
    """Return CPU seconds of each serving process."""
    found = {}
    for pid in serving.pids():
        if (Path(f"/proc/{pid}/comm").read_text()).strip() == "tandem-worker":
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _shares(took: dict[int, float], serving: Serving) -> list[float]:
    """Return, of each pair of workers that have one parent, the busier one's share."""
    pairs: dict[int, list[float]] = {}
    for pid, seconds in took.items():
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        pairs.setdefault(parent, []).append(seconds)
    return [max(pair) / max(sum(pair), 1e-9) for pair in pairs.values() if len(pair) > 1]


def _client(serving: Serving, world: World, folder: Path, **asked: Any) -> dict[str, Any]:
    """Run what is below as a process of its own."""
    file = folder / "asked.json"
    mixed = [(method, request.hex()) for method, request in _mixed(world)] if asked["kind"] == "mixed" else []
    others = {"retrieval": serving.retrieval, "writer": serving.writer}
    file.write_text(
        json.dumps(
            {**asked, "target": serving.target, **others, "requests": [r.hex() for r in world.warm], "of": mixed}
        )
    )
    command = [sys.executable, "-m", "tandem_cli.serving_bench.strain", str(file)]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)  # noqa: S603
    return found


def _mixed(world: World) -> list[tuple[str, bytes]]:
    """Return calls of many kinds, most of them for lists."""
    calls = [(RECOMMEND, request) for request in (*world.warm, *world.cold[: len(world.warm) // 3])]
    items = [f"item-{row:07d}" for row in range(0, world.items, world.items // 40)]
    for k, item in enumerate(items):
        event = events_pb2.Event(user_id=f"user-{k}", item_id=item, event_type="click", insert_id=f"soak-{k}")
        context = ranking_pb2.RankRequest.FromString(world.warm[k]).context
        rank = ranking_pb2.RankRequest(context=context)
        rank.candidates.item_ids.extend(items)
        calls += [
            ("/tandem.retrieval.v1.RetrievalService/Retrieve", retrieval_pb2.RetrieveRequest().SerializeToString()),
            (
                "/tandem.retrieval.v1.RetrievalService/SimilarItems",
                retrieval_pb2.SimilarItemsRequest(item_ids=[item]).SerializeToString(),
            ),
            (f"/{RANKING}/Rank", rank.SerializeToString()),
            (
                f"/{RANKING}/Recommend",
                ranking_pb2.RecommendRequest(max_results=501).SerializeToString(),  # refused
            ),
            (
                "/tandem.events.v1.EventService/WriteEvents",
                events_pb2.WriteEventsRequest(events=[event]).SerializeToString(),
            ),
        ]
    return calls


# The client's own process


class _Outcomes:
    """What came of calls; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.latencies_ms: list[float] = []
        self.codes: Counter[str] = Counter()

    def note(self, code: grpc.StatusCode, began: float) -> None:
        with self._lock:
            self.codes[code.name] += 1
            if code is grpc.StatusCode.OK:
                self.latencies_ms.append((time.perf_counter() - began) * 1000)

    def told(self, seconds: float) -> dict[str, Any]:
        calls = self.codes.total()
        known = {"OK", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
        return {
            "calls": calls,
            "per second": self.codes["OK"] / seconds,
            "refused": self.codes["RESOURCE_EXHAUSTED"] / max(calls, 1),
            "late": self.codes["DEADLINE_EXCEEDED"] / max(calls, 1),
            "p50": float(np.percentile(self.latencies_ms or [0.0], 50)),
            "p99": float(np.percentile(self.latencies_ms or [0.0], 99)),
            "other": {code: n for code, n in self.codes.items() if code not in known},
        }


def _open_loop(channels: Sequence[grpc.Channel], requests: Sequence[bytes], rate: float, seconds: float) -> Any:
    """Call at exponential distances whether or not earlier calls were answered."""
    calls = [channel.unary_unary(RECOMMEND, None, None) for channel in channels]
    gaps = np.random.default_rng(0).exponential(1 / rate, int(rate * seconds))
    outcomes, done = _Outcomes(), threading.Semaphore(0)

    def finished(future: Any, due: float) -> None:
        outcomes.note(future.code(), due)
        done.release()

    begun = due = time.perf_counter()
    for number, gap in enumerate(gaps.tolist()):
        due += gap
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        future = calls[number % len(calls)].future(requests[number % len(requests)], timeout=DEADLINE_S)
        future.add_done_callback(partial(finished, due=due))
    for _ in gaps:
        done.acquire()
    return outcomes.told(max(time.perf_counter() - begun, seconds))


def _closed_loop(calls: Sequence[tuple[Any, bytes]], threads: int, more: Any) -> Any:
    """Call from threads without pause, in turns through `calls`, while `more(number)` holds."""
    outcomes = _Outcomes()

    def work(thread: int) -> None:
        number = thread
        while more(number):
            call, request = calls[number % len(calls)]
            began = time.perf_counter()
            try:
                call(request, timeout=20)
                outcomes.note(grpc.StatusCode.OK, began)
            except grpc.RpcError as error:
                outcomes.note(error.code(), began)
            number += threads

    workers_ = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    begun = time.perf_counter()
    for worker in workers_:
        worker.start()
    for worker in workers_:
        worker.join()
    return outcomes.told(time.perf_counter() - begun)


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    if asked["kind"] == "open" or asked.get("alone"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    requests = [bytes.fromhex(text) for text in asked["requests"]]
    targets = {"Ranking": asked["target"], "Retrieval": asked["retrieval"], "Event": asked["writer"]}

    def channel(method: str = RECOMMEND) -> grpc.Channel:
        service = method.split("/")[1]
        short = service.rpartition(".")[2].removesuffix("Service")
        return open_channel(targets[short], service)

    channels = [channel() for _ in range(CHANNELS)]
    for each in channels:
        each.unary_unary(RECOMMEND, None, None)(requests[0], timeout=20, wait_for_ready=True)
    if asked["kind"] == "open":
        found = _open_loop(channels, requests, asked["rate"], asked["seconds"])
    elif asked["kind"] == "closed":
        end = time.perf_counter() + asked["seconds"]
        calls = [(channels[i % CHANNELS].unary_unary(RECOMMEND, None, None), r) for i, r in enumerate(requests)]
        found = _closed_loop(calls, asked.get("threads", CALLERS), lambda _: time.perf_counter() < end)
    else:
        of = {method: channel(method).unary_unary(method, None, None) for method, _ in asked["of"]}
        calls = [(of[method], bytes.fromhex(text)) for method, text in asked["of"]]
        found = _closed_loop(calls, CHANNELS, lambda number: number < asked["calls"])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
