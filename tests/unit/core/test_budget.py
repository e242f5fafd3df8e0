from __future__ import annotations

import time

import pytest

from tandem_core.budget import Budget
from tandem_core.errors import DeadlineExceeded


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, as its only entry."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_budget_counts_down_to_0_and_no_further(clock: list[float]) -> None:
    budget = Budget.of(2.0)
    assert budget.remaining() == 2
    clock[0] += 1.5
    assert budget.remaining() == 0.5
    assert not budget.expired()
    budget.check()
    clock[0] += 3
    assert budget.remaining() == 0
    assert budget.expired()


def test_nobody_waits_for_an_answer_after_the_deadline(clock: list[float]) -> None:
    budget = Budget.of(1.0)
    clock[0] += 1
    with pytest.raises(DeadlineExceeded, match="deadline has passed"):
        budget.check()


def test_without_a_deadline_there_is_always_time(clock: list[float]) -> None:
    for budget in (Budget(), Budget.of(None)):
        clock[0] += 1e9
        assert budget.remaining() == float("inf")
        budget.check()


def test_a_deadline_that_passed_before_the_request_came_is_expired_at_once(clock: list[float]) -> None:
    assert Budget.of(0.0).expired()
    assert Budget.of(-1.0).expired()
