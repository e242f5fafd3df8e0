from __future__ import annotations

import threading
import time

import pytest

from tandem_ranking.writer.group_commit import GroupCommit


class Disk:
    """Commits once it is told to; remembers the groups."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.turn = threading.Semaphore(0)

    def __call__(self, rows: list[int]) -> list[int]:
        self.groups.append(rows)
        assert self.turn.acquire(timeout=30)
        if -1 in rows:
            raise OSError("full")
        return [row * 10 for row in rows]


def in_background(write: GroupCommit[int, int], rows: list[int], answers: dict[int, object]) -> threading.Thread:
    def run() -> None:
        try:
            answers[rows[0]] = write(rows)
        except OSError as error:
            answers[rows[0]] = error

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def until(holds: object) -> None:
    deadline = time.monotonic() + 30
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_calls_that_come_during_a_commit_share_the_next_one_and_get_their_own_results() -> None:
    disk, answers = Disk(), {}
    write: GroupCommit[int, int] = GroupCommit(disk)
    first = in_background(write, [1, 2], answers)
    until(lambda: disk.groups)
    others = [in_background(write, rows, answers) for rows in ([3], [4, 5], [6])]
    until(lambda: len(write._waiting) == 3)
    disk.turn.release(2)
    for thread in (first, *others):
        thread.join(30)
    assert disk.groups[0] == [1, 2]
    assert sorted(disk.groups[1]) == [3, 4, 5, 6]
    assert len(disk.groups) == 2
    assert answers == {1: [10, 20], 3: [30], 4: [40, 50], 6: [60]}


def test_a_commit_that_fails_fails_for_its_group_alone() -> None:
    disk, answers = Disk(), {}
    write: GroupCommit[int, int] = GroupCommit(disk)
    first = in_background(write, [1], answers)
    until(lambda: disk.groups)
    others = [in_background(write, rows, answers) for rows in ([-1], [2])]
    until(lambda: len(write._waiting) == 2)
    disk.turn.release(3)
    for thread in (first, *others):
        thread.join(30)
    assert answers[1] == [10]
    assert isinstance(answers[-1], OSError)
    assert isinstance(answers[2], OSError)
    assert write([7]) == [70]


@pytest.mark.parametrize("calls", [1, 3])
def test_no_rows_are_no_results(calls: int) -> None:
    write: GroupCommit[int, int] = GroupCommit(lambda rows: rows)
    assert [list(write([])) for _ in range(calls)] == [[]] * calls
