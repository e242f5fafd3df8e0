"""What is done while other workers serve, at low priority: it takes what they leave of the processors."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

NICENESS = 10

Done = TypeVar("Done")


def behind_others(work: Callable[[], Done]) -> Done:
    """Do something at low priority; return or raise what it does.

    In a thread, which is gone afterwards: only a thread can be nice for a while, a process that was nice once can not
    go back, nor can the workers that it forks.
    """
    with ThreadPoolExecutor(1, initializer=_be_nice) as pool:
        return pool.submit(work).result()


def _be_nice() -> None:
    if sys.platform == "linux":  # elsewhere threads have no priority of their own by these calls
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))
