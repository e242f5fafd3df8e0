"""Real services and the peer as processes: started, waited for, measured from outside, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from tandem.ranking.v1 import ranking_pb2, ranking_pb2_grpc

LONGEST_START_S = 300.0
_TICKS = os.sysconf("SC_CLK_TCK")


class NotServing(RuntimeError):  # noqa: N818
    """A process did not come up: names its log."""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since start, resident and proportional (shared pages split among their users) memory in MiB."""

    cpu_s: float
    rss_mib: float
    pss_mib: float


@dataclass(slots=True)
class Serving:
    """Processes behind one address that answers Recommend. start_s: from execution to the first good answer.

    retrieval, writer: where they are reached, of our own services.
    """

    target: str
    process: subprocess.Popen[bytes]
    start_s: float = 0.0
    retrieval: str = ""
    writer: str = ""

    def pids(self) -> list[int]:
        return _tree(self.process.pid)

    def usage(self) -> dict[str, Usage]:
        """Return what the processes use, by role: all workers of a service together."""
        found: dict[str, Usage] = {}
        for pid in _tree(self.process.pid):
            role = _role(pid)
            if role and (one := _usage(pid)) is not None:
                sum_ = found.get(role, Usage(0, 0, 0))
                found[role] = Usage(sum_.cpu_s + one.cpu_s, sum_.rss_mib + one.rss_mib, sum_.pss_mib + one.pss_mib)
        return found

    def pin(self, cores: Sequence[int]) -> None:
        """Keep every thread of every process to these cores."""
        for pid in _tree(self.process.pid):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def services(
    registry: Path, store: Path, log: Path, workers: int = 1, *, queue_ms: float = 10_000
) -> Iterator[Serving]:
    """Run both services as `tandem serve` does, on free ports.

    workers: of each; its target then names all of them. queue_ms: so long may calls wait; short, and a closed loop
    measures what refusals cost.
    """
    ports = {name: [free_port() for _ in range(workers)] for name in ("retrieval", "ranking")}
    config = log.with_name(f"{log.name}.toml")
    same = f"workers = {workers}\nmax_queue_ms = {queue_ms}\n"
    config.write_text("".join(f"[{name}]\n{same}ports = {each}\n" for name, each in ports.items()))
    writer = free_port()
    command = [sys.executable, "-c", "from tandem_cli.main import app; app()", "serve", "--registry", str(registry)]
    command += ["--store", f"sqlite:///{store}", "--config", str(config), "--writer-port", str(writer)]
    target, retrieval = (
        f"127.0.0.1:{each[0]}" if workers == 1 else "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in each)
        for each in (ports["ranking"], ports["retrieval"])
    )
    with _running(command, target, log) as serving:
        serving.retrieval, serving.writer = retrieval, f"127.0.0.1:{writer}"
        yield serving


@contextmanager
def peer(script: Path, bundle: Path, store: Path, log: Path, *, naive_mmr: bool) -> Iterator[Serving]:
    """Run the plain implementation over the same bundle and store."""
    port = free_port()
    command = [sys.executable, str(script), "--bundle", str(bundle), "--store", str(store), "--port", str(port)]
    with _running([*command, "--naive-mmr"] if naive_mmr else command, f"127.0.0.1:{port}", log) as serving:
        yield serving


@contextmanager
def _running(command: list[str], target: str, log: Path) -> Iterator[Serving]:
    begun = time.monotonic()
    # A slow answer on a busy machine must not turn into a fallback: it would be another request that is measured.
    patient = {"TANDEM_RANKING_RETRIEVAL_TIMEOUT_MS": "10000", "TANDEM_RETRIEVAL_BUNDLE_POLL_S": "0.2"}
    environment = {**os.environ, **patient, "TANDEM_RANKING_BUNDLE_POLL_S": "0.2"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)  # noqa: S603  our own modules
    serving = Serving(target, process)
    try:
        with channel_to(target) as channel:
            until(lambda: _answers(channel), f"{target} (see {log})", process)
        serving.start_s = time.monotonic() - begun
        yield serving
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def channel_to(target: str) -> grpc.Channel:
    return grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])


def until(ask: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> float:
    """Ask until it is true; return the seconds it took. Raises NotServing after five minutes or a dead process."""
    begun = time.monotonic()
    while not ask():
        if time.monotonic() - begun > LONGEST_START_S or (process is not None and process.poll() is not None):
            raise NotServing(f"{what} does not serve")
        time.sleep(0.02)
    return time.monotonic() - begun


def _answers(channel: grpc.Channel) -> bool:
    try:
        request = ranking_pb2.RecommendRequest(max_results=1)
        return not ranking_pb2_grpc.RankingServiceStub(channel).Recommend(request, timeout=5).degradations
    except grpc.RpcError:
        return False


def stolen() -> tuple[float, float]:
    """Return CPU seconds that the host took from this machine, and all CPU seconds, since boot."""
    ticks = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7] / _TICKS, sum(ticks) / _TICKS


def _tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (stat := _stat(int(folder.name))):
            children.setdefault(int(stat[1]), []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name; nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _role(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    names = {"tandem_retrieval": "retrieval", "tandem_ranking": "ranking"}
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return names.get(module.partition(".")[0], "peer" if any(w.endswith("peer/server.py") for w in words) else "")


def _usage(pid: int) -> Usage | None:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines[1:])}
    stat = _stat(pid)
    if not stat:
        return None
    return Usage((int(stat[11]) + int(stat[12])) / _TICKS, kib["Rss"] / 1024, kib["Pss"] / 1024)
