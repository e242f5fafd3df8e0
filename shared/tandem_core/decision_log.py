"""Decision records in files: hourly segments per process, written beside the requests, kept for a while, forgettable.

<folder>/decisions-<YYYYMMDDTHH>-<pid>.jsonl   one record a line
<folder>/policies/<hash>.json                  the policies that the records name
<folder>/forgotten.jsonl                       hashes of users whose records were deleted, for what is still in memory
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tandem_core import observe
from tandem_core.decisions import Decision, DecisionUnreadable, from_line, policy_hash, to_line, without_candidates
from tandem_core.policy import PlacementPolicy

log = logging.getLogger(__name__)

_FLUSH_S = 1.0
_MOST_WAITING = 10_000
_HOUR_S = 3600.0
_IN_FLIGHT_MS = 2000  # requests that read a user's history before it was deleted have been answered by then


class DecisionLog:
    """Takes decisions from serving threads and writes them about once a second, best effort.

    What is not written yet is lost with the process; what does not fit into the queue is dropped and counted. sample:
    share in [0, 1] of decisions kept with all candidates, chosen by the decision's id, so that every process and every
    retry chooses alike. keep_hours: older segments are deleted. Start it after a fork: it has a thread.
    """

    def __init__(self, folder: Path, sample: float = 0.01, keep_hours: float = 24 * 7) -> None:
        self._folder = folder
        self._sample = sample
        self._keep_s = keep_hours * _HOUR_S
        self._waiting: queue.Queue[tuple[int, Decision]] = queue.Queue(_MOST_WAITING)
        self._stopping = threading.Event()
        self._swept = 0.0
        self.dropped = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._thread.start()

    def add(self, decision: Decision) -> None:
        """Take a whole decision; never waits."""
        whole = int.from_bytes(hashlib.blake2b(decision.decision_id.encode(), digest_size=4).digest()) / 2**32
        try:
            kept = decision if whole < self._sample else without_candidates(decision)
            self._waiting.put_nowait((_now_ms(), kept))
        except queue.Full:
            self.dropped += 1
            observe.tally("decisions_dropped")
            if self.dropped & (self.dropped - 1) == 0:  # said at 1, 2, 4, 8, ...
                log.warning("decision records dropped: the disk is slower than the requests", extra={"n": self.dropped})

    def close(self) -> None:
        """Write what waits, and end."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_FLUSH_S):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        decisions = []
        while not self._waiting.empty():
            decisions.append(self._waiting.get_nowait())
        try:
            if decisions:
                self._write(decisions)
            if time.monotonic() - self._swept > _HOUR_S or not self._swept:
                self._swept = time.monotonic()
                self._sweep()
        except Exception:  # best effort: a full disk, or a damaged file, must not end the records of the hours to come
            self.dropped += len(decisions)
            observe.tally("decisions_dropped", len(decisions))
            log.exception("decision records not written", extra={"n": len(decisions)})

    def _write(self, decisions: list[tuple[int, Decision]]) -> None:
        name = f"decisions-{time.strftime('%Y%m%dT%H', time.gmtime())}-{os.getpid()}.jsonl"
        with _locked(self._folder):
            forgotten = _forgotten(self._folder)
            kept = [d for taken_ms, d in decisions if taken_ms > forgotten.get(_hash(d.user_id), -1)]
            _append(self._folder / name, "".join(to_line(decision) + "\n" for decision in kept).encode())

    def _sweep(self) -> None:
        oldest = time.time() - self._keep_s
        with _locked(self._folder):
            for path in segments(self._folder):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _append(path: Path, lines: bytes) -> None:
    """Write all of the lines behind those of a file, or none; half a line that a process left as it died goes first."""
    with path.open("a+b", buffering=0) as file:
        whole = file.seek(0, os.SEEK_END)
        if whole and os.pread(file.fileno(), 1, whole - 1) != b"\n":
            whole = path.read_bytes().rfind(b"\n") + 1
            file.truncate(whole)
        try:
            left = memoryview(lines)
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(whole)  # or what comes when there is room again would be of no use either
            raise


def segments(folder: Path) -> list[Path]:
    """Return the files with records, oldest first."""
    return sorted(folder.glob("decisions-*.jsonl"))


def read_decisions(paths: Iterable[Path]) -> Iterator[Decision]:
    """Yield the decisions of files, in order; raises DecisionUnreadable naming file and line.

    A last line without an end, as a process leaves that is killed while it writes, is left out if it is no record.
    """
    for path in paths:
        with path.open() as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield from_line(line)
                except DecisionUnreadable as error:
                    if not line.endswith("\n"):
                        continue
                    raise DecisionUnreadable(f"{path}:{number}: {error}") from error


def write_policies(folder: Path, policies: Iterable[PlacementPolicy]) -> None:
    """Keep policies under the names that records call them by."""
    target = folder / "policies"
    target.mkdir(parents=True, exist_ok=True)
    for policy in policies:
        path = target / f"{policy_hash(policy)}.json"
        if not path.exists():
            staged = path.with_suffix(f".{os.getpid()}")
            staged.write_text(policy.model_dump_json())
            staged.replace(path)


def read_policy(folder: Path, name: str) -> PlacementPolicy:
    """Return the policy that a record of the folder names; raises DecisionUnreadable where it is not there."""
    path = folder / "policies" / f"{name}.json"
    try:
        return PlacementPolicy.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise DecisionUnreadable(f"{path}: {error}") from error


def forget(folder: Path, user_id: str) -> int:
    """Delete every record of a user, also those that serving processes have still in memory or are about to make.

    A line that cannot be read, as a process leaves that dies while it writes, may be of anybody: it goes too. Returns
    how many were on disk. Raises OSError where a file cannot be rewritten: nothing is then known to be deleted.
    """
    if not folder.is_dir():
        return 0
    deleted = 0
    with _locked(folder):
        # Only what processes still have in memory needs the hashes: those of older deletions go.
        recent = {user: ms for user, ms in _forgotten(folder).items() if ms > _now_ms() - _HOUR_S * 1000}
        recent[_hash(user_id)] = _now_ms() + _IN_FLIGHT_MS
        staged = folder / "forgotten.staged"
        staged.write_text("".join(json.dumps({"user": u, "until_ms": ms}) + "\n" for u, ms in recent.items()))
        staged.replace(folder / "forgotten.jsonl")
        for path in segments(folder):
            lines = path.read_text().splitlines(keepends=True)
            kept = [line for line in lines if not _may_be_of(user_id, line)]
            if len(kept) < len(lines):
                deleted += len(lines) - len(kept)
                staged = path.with_suffix(".rewritten")
                staged.write_text("".join(kept))
                staged.replace(path)
    return deleted


def _may_be_of(user_id: str, line: str) -> bool:
    try:
        return bool(json.loads(line)["user_id"] == user_id)
    except (ValueError, KeyError, TypeError):
        return True


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _hash(user_id: str) -> str:
    return hashlib.blake2b(user_id.encode(), digest_size=16).hexdigest()


def _forgotten(folder: Path) -> Mapping[str, int]:
    path = folder / "forgotten.jsonl"
    if not path.exists():
        return {}
    return {each["user"]: each["until_ms"] for each in map(json.loads, path.read_text().splitlines())}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep writers and those who rewrite apart, across processes."""
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
