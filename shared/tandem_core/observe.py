"""What one request did: stages and their times, counts, what was shown. Noted here, told by those who want to know.

A service opens a `Record` per request; everything below it notes by the functions of this module, which do nothing
where nobody listens: in evaluation, training and tests. Standard library alone, as supervisors log with it too.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from time import perf_counter
from typing import Any, Protocol

from tandem_core.degradation import Degradation

SOURCE = "source:"  # stages of this prefix are candidate sources


class Spans(Protocol):
    """Where the stages of a traced request go, too. Stages nest: `close` ends what was opened last."""

    trace_id: str

    def open(self, name: str) -> None: ...

    def close(self) -> None: ...

    def traceparent(self) -> str:
        """Return what tells another service of the stage that is open (W3C Trace Context)."""
        ...


class Record:
    """One request. stages: (name, seconds), in the order they ended. counts: (metric, labels, by).

    listening: whether anybody wants to know more than what logs say.

    shown: (bundle id, rows) per list that went out. searches: (source, vector, rows) of approximate searches, kept of
    sampled requests alone.
    """

    __slots__ = (
        "bundle_id",
        "counts",
        "listening",
        "request_id",
        "rpc",
        "sampled",
        "searches",
        "shown",
        "source",
        "spans",
        "stages",
    )

    def __init__(self, rpc: str, *, listening: bool = True, sampled: bool = False, spans: Spans | None = None) -> None:
        self.rpc = rpc
        self.request_id = self.bundle_id = ""
        self.listening = listening
        self.sampled = sampled
        self.spans = spans
        self.source = ""
        self.stages: list[tuple[str, float]] = []
        self.counts: list[tuple[str, tuple[str, ...], float]] = []
        self.shown: list[tuple[str, Any]] = []
        self.searches: list[tuple[str, Any, Any]] = []


_RECORD: ContextVar[Record | None] = ContextVar("record", default=None)
_TALLYING = threading.Lock()
TALLIES: Counter[str] = Counter()  # since the start of the process
WATCHED: dict[str, Callable[[], float]] = {}  # gauge -> what it is now; asked every second, must neither wait nor fail
_NOTHING: AbstractContextManager[None] = nullcontext()


class _Stage:
    """A `with` block; a class, because a generator costs three times as much."""

    __slots__ = ("_begun", "_name", "_record")

    def __init__(self, name: str, record: Record) -> None:
        self._name = name
        self._record = record

    def __enter__(self) -> None:
        if self._record.spans is not None:
            self._record.spans.open(self._name)
        self._begun = perf_counter()

    def __exit__(self, *_: object) -> None:
        self._record.stages.append((self._name, perf_counter() - self._begun))
        if self._record.spans is not None:
            self._record.spans.close()


@contextmanager
def recording(record: Record) -> Iterator[Record]:
    """Note into this record within the block, in this thread alone."""
    before = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(before)


def current() -> Record | None:
    """Return the record of this thread's request, where there is one."""
    return _RECORD.get()


def stage(name: str) -> AbstractContextManager[None]:
    """Return a block that is timed. name: constant text, or one of few; never an id of a user or an item."""
    record = _RECORD.get()
    return _NOTHING if record is None or not record.listening else _Stage(name, record)


def source(name: str) -> AbstractContextManager[None]:
    """Return a block in which a candidate source is asked."""
    record = _RECORD.get()
    if record is None or not record.listening:
        return _NOTHING
    record.source = name
    return _Stage(SOURCE + name, record)


def count(metric: str, *labels: str, by: float = 1.0) -> None:
    """Add to a counter that `signals.COUNTERS` names."""
    record = _RECORD.get()
    if record is not None and record.listening:
        record.counts.append((metric, labels, by))


def found(name: str, candidates: int) -> None:
    """Note how many candidates a source found."""
    count("source_candidates", name, "found", by=candidates)


def kept(columns: Any) -> None:
    """Note how many candidates of each source are left after merging. columns: of a `CandidateBatch`."""
    record = _RECORD.get()
    if record is not None and record.listening:
        from numpy import count_nonzero  # noqa: PLC0415  (supervisors log with this module, and have no numpy)

        for name, column in columns.items():
            if name.startswith("rank:"):
                record.counts.append(("source_candidates", (name[5:], "kept"), int(count_nonzero(column))))


def dropped(given: int, by_rule: Mapping[str, Sized]) -> None:
    """Note how many candidates rules were given, and which of them dropped how many."""
    count("rule_candidates", "all", "given", by=given)
    for name, lost in by_rule.items():
        count("rule_candidates", name, "dropped", by=len(lost))


def tally(metric: str, by: int = 1) -> None:
    """Add to a counter without labels, outside of any request: what happens in a process's other threads."""
    with _TALLYING:
        TALLIES[metric] += by


def degraded(degradations: Iterable[Degradation]) -> None:
    """Note what is declared to the caller."""
    for each in degradations:
        count("degradations", each.kind.name, each.component)


def shown(bundle_id: str, rows: Any) -> None:
    """Note the rows of a list that goes out."""
    bundle_is(bundle_id)
    record = _RECORD.get()
    if record is not None and record.listening:
        record.shown.append((bundle_id, rows))


def searched(vector: Any, rows: Any) -> None:
    """Note what an approximate index answered, for the audit of its recall."""
    record = _RECORD.get()
    if record is not None and record.sampled and len(rows):
        record.searches.append((record.source, vector, rows))


def request_is(request_id: str) -> None:
    """Note what the request is called in logs and traces."""
    if (record := _RECORD.get()) is not None:
        record.request_id = request_id


def bundle_is(bundle_id: str) -> None:
    """Note which bundle answers."""
    if (record := _RECORD.get()) is not None:
        record.bundle_id = bundle_id


def traceparent() -> str:
    """Return the header for calls to other services; "" where this request is not traced."""
    record = _RECORD.get()
    return record.spans.traceparent() if record is not None and record.spans is not None else ""
