"""The client side, as a process of its own: python -m tandem_cli.serving_bench.load FILE reads what to do, prints JSON.

Open loop: calls start at their times whether or not earlier ones have been answered, and a call's latency counts from
the time it should have started, so that a stall is felt by all who would have come during it (Tene's "coordinated
omission"). Closed loop: a number of threads, each calling as soon as it has its answer.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from tandem.ranking.v1 import ranking_pb2
from tandem_cli.serving_bench.processes import channel_to

METHOD = "/tandem.ranking.v1.RankingService/Recommend"
TIMEOUT_S = 20.0


def open_loop(
    channel: grpc.Channel, requests: Sequence[bytes], rate: float, seconds: float, seed: int
) -> dict[str, Any]:
    """Call at exponential distances, `rate` a second on average; return latencies in ms, and what went wrong."""
    call = channel.unary_unary(METHOD, None, None)  # bytes in, bytes out: messages are not what is measured here
    gaps = np.random.default_rng(seed).exponential(1 / rate, max(1, int(rate * seconds)))
    latencies: list[float] = []
    wrong: dict[str, int] = {}
    done = threading.Semaphore(0)
    answers: list[bytes] = []

    def finished(future: Any, due: float, keep: bool) -> None:
        code = future.code()
        latencies.append((time.perf_counter() - due) * 1000)
        if code is not grpc.StatusCode.OK:
            wrong[code.name] = wrong.get(code.name, 0) + 1
        elif keep:
            answers.append(future.result())
        done.release()

    due = time.perf_counter()
    for number, gap in enumerate(gaps.tolist()):
        due += gap
        if (wait := due - time.perf_counter()) > 0:
            time.sleep(wait)
        future = call.future(requests[number % len(requests)], timeout=TIMEOUT_S)
        future.add_done_callback(partial(finished, due=due, keep=number % 20 == 0))
    for _ in gaps:
        done.acquire()
    return {"latencies_ms": latencies, "wrong": wrong, "degraded": degraded(answers), "looked_at": len(answers)}


def closed_loop(channel: grpc.Channel, requests: Sequence[bytes], threads: int, seconds: float) -> dict[str, Any]:
    """Call from `threads` threads without pause; return calls and seconds, and what went wrong."""
    call = channel.unary_unary(METHOD, None, None)
    end = time.perf_counter() + seconds
    counts, wrong = [0] * threads, [0] * threads

    def work(thread: int) -> None:
        number = thread
        while time.perf_counter() < end:
            try:
                call(requests[number % len(requests)], timeout=TIMEOUT_S)
                counts[thread] += 1
            except grpc.RpcError:
                wrong[thread] += 1
            number += threads

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"calls": sum(counts), "seconds": time.perf_counter() - begun, "wrong": sum(wrong)}


def degraded(answers: Sequence[bytes]) -> int:
    """Return how many answers say that something was left out, or hold no item."""
    found = [ranking_pb2.RecommendResponse.FromString(answer) for answer in answers]
    return sum(bool(each.degradations) or not each.items for each in found)


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text())
    if cores := asked.get("cores"):
        os.sched_setaffinity(0, cores)
    requests = [bytes.fromhex(text) for text in asked["requests"]]
    with channel_to(asked["target"]) as channel:
        channel.unary_unary(METHOD, None, None)(requests[0], timeout=TIMEOUT_S)
        if asked["kind"] == "open":
            found = open_loop(channel, requests, asked["rate"], asked["seconds"], asked["seed"])
        else:
            found = closed_loop(channel, requests, asked["threads"], asked["seconds"])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
