"""What it costs a service to refuse a call, and to answer the cheapest one: CPU of its process per call."""

from __future__ import annotations

import subprocess
import sys

import grpc
import pytest

pytestmark = pytest.mark.bench
CALLS = 3000
SERVER = """
import sys, threading, time, grpc
from tandem_core.grpc_admission import AdmissionInterceptor, WorkPool
go = threading.Event()
class H(grpc.GenericRpcHandler):
    def service(self, d):
        def work(request, context):
            if request == b"hold": go.wait()
            return request
        return grpc.unary_unary_rpc_method_handler(work)
pool = WorkPool(1, 60.0)
server = grpc.server(pool, interceptors=[AdmissionInterceptor(pool, 1)], handlers=[H()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
for line in sys.stdin:
    if line == "go\\n": go.set()
    print(time.process_time(), pool.refused, flush=True)
"""


def test_cost_of_one_rejection() -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None

    def say(line: str) -> tuple[float, int]:
        process.stdin.write(f"{line}\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        cpu, refused = process.stdout.readline().split()  # type: ignore[union-attr]
        return float(cpu), int(refused)

    with grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}") as channel:
        call = channel.unary_unary("/t/work")
        held = call.future(b"hold", timeout=120)

        def refused_calls(n: int) -> None:
            for _ in range(n):
                with pytest.raises(grpc.RpcError):
                    call(b"", timeout=10)

        while not call.future(b"", timeout=1).exception():
            pass
        refused_calls(200)
        before, n_before = say("tell")
        refused_calls(CALLS)
        after, n_after = say("tell")
        rejection_us = (after - before) / (n_after - n_before) * 1e6
        say("go")
        held.result()
        for _ in range(200):
            call(b"", timeout=10)
        before, _ = say("tell")
        for _ in range(CALLS):
            call(b"", timeout=10)
        after, _ = say("tell")
        call_us = (after - before) / CALLS * 1e6
        print(f"\nCPU of the server: {rejection_us:.0f} us a rejection, {call_us:.0f} us an empty call")
    process.kill()
    process.wait()
