from __future__ import annotations

import threading

import numpy as np

from tandem_core import observe
from tandem_core.degradation import Degradation, DegradationKind
from tandem_core.index.hnsw import HnswIndex


def test_where_nobody_listens_nothing_is_noted() -> None:
    for record in (None, observe.Record("Recommend", listening=False)):
        if record is None:
            note()
            assert observe.current() is None
        else:
            with observe.recording(record):
                note()
            assert (record.stages, record.counts, record.shown, record.searches) == ([], [], [], [])


def note() -> None:
    with observe.stage("merge"), observe.source("als"):
        observe.found("als", 3)
    observe.kept({"rank:als": np.array([1, 0])})
    observe.dropped(4, {"cap": [7, 8]})
    observe.degraded([Degradation(DegradationKind.SOURCE_LATE, "als")])
    observe.shown("b1", np.array([1, 2]))
    observe.searched(np.ones(2), np.array([1]))


def test_a_record_keeps_what_was_noted_in_its_thread() -> None:
    record = observe.Record("Retrieve", sampled=True)
    other = threading.Thread(target=note)
    with observe.recording(record):
        note()
        other.start()
        other.join()
    note()
    assert [name for name, _ in record.stages] == ["source:als", "merge"]
    assert record.stages[1][1] >= record.stages[0][1] > 0
    assert record.counts == [
        ("source_candidates", ("als", "found"), 3),
        ("source_candidates", ("als", "kept"), 1),
        ("rule_candidates", ("all", "given"), 4),
        ("rule_candidates", ("cap", "dropped"), 2),
        ("degradations", ("SOURCE_LATE", "als"), 1),
    ]
    assert [(bundle_id, list(rows)) for bundle_id, rows in record.shown] == [("b1", [1, 2])]
    assert [source for source, _, _ in record.searches] == ["als"]
    assert record.bundle_id == "b1"


def test_a_stage_that_fails_is_timed_too() -> None:
    record = observe.Record("Retrieve")
    with observe.recording(record):
        try:
            with observe.stage("merge"):
                raise ValueError
        except ValueError:
            pass
    assert [name for name, _ in record.stages] == ["merge"]
    assert observe.current() is None


def test_approximate_indexes_leave_their_searches_for_the_audit_of_sampled_requests_alone() -> None:
    vectors = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
    index = HnswIndex.build(vectors, 8, 40, 40, 1)
    for sampled, kept in ((True, 1), (False, 0)):
        record = observe.Record("Retrieve", sampled=sampled)
        with observe.recording(record), observe.source("two_tower"):
            rows, _ = index.search(vectors[0], 5)
        assert [(source, list(found)) for source, _, found in record.searches] == [("two_tower", list(rows))] * kept
