from __future__ import annotations

import os
import sys
import threading

import pytest

from tandem_core.process_priority import NICENESS, behind_others


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux alone")
def test_what_is_done_behind_others_is_nice_and_what_comes_after_it_is_not() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before, threads = niceness(), threading.active_count()
    assert behind_others(niceness) == max(before, NICENESS)
    assert niceness() == before
    assert threading.active_count() == threads  # a process that forks has no thread beside its own
    with pytest.raises(ZeroDivisionError):
        behind_others(lambda: 1 // 0)
