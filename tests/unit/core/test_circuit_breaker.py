from __future__ import annotations

import time

import pytest

from tandem_core.grpc_retrieval_client import CircuitBreaker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, as its only entry."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def broken(clock: list[float]) -> CircuitBreaker:
    """A breaker that has just opened for one second."""
    breaker = CircuitBreaker(threshold=3, open_s=1.0)
    for _ in range(3):
        assert breaker.allows()
        breaker.failed()
    return breaker


def test_calls_pass_until_so_many_in_a_row_have_failed(clock: list[float]) -> None:
    breaker = CircuitBreaker(threshold=3, open_s=1.0)
    for _ in range(5):  # never three in a row
        breaker.failed()
        breaker.failed()
        assert breaker.allows()
        breaker.succeeded()
    assert breaker.allows()


def test_after_them_calls_are_refused_for_a_while(broken: CircuitBreaker, clock: list[float]) -> None:
    assert not broken.allows()
    clock[0] += 0.99
    assert not broken.allows()


def test_then_one_call_alone_tries(broken: CircuitBreaker, clock: list[float]) -> None:
    clock[0] += 1
    assert broken.allows()
    assert not broken.allows()


def test_a_good_try_lets_everybody_through(broken: CircuitBreaker, clock: list[float]) -> None:
    clock[0] += 1
    assert broken.allows()
    broken.succeeded()
    assert all(broken.allows() for _ in range(9))


def test_a_failed_try_keeps_it_open_for_as_long_again(broken: CircuitBreaker, clock: list[float]) -> None:
    clock[0] += 1
    assert broken.allows()
    clock[0] += 0.5
    broken.failed()
    clock[0] += 0.9
    assert not broken.allows()
    clock[0] += 0.2
    assert broken.allows()


def test_a_try_that_never_reports_back_does_not_close_the_way_for_ever(
    broken: CircuitBreaker, clock: list[float]
) -> None:
    clock[0] += 1
    assert broken.allows()
    clock[0] += 1
    assert broken.allows()
