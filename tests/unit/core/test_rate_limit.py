from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tandem_core import rate_limit
from tandem_core.rate_limit import RateLimit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_passes_and_then_as_many_calls_as_the_rate_says() -> None:
    clock = Clock()
    limit = RateLimit(10, 5, clock)
    assert [limit.wait_s("a") for _ in range(5)] == [0.0] * 5
    assert round(limit.wait_s("a"), 6) == 0.1
    clock.now += 0.1
    assert limit.wait_s("a") == 0.0
    assert limit.wait_s("a") > 0
    clock.now += 3600  # a pause fills the bucket, and no more than that
    assert [limit.wait_s("a") > 0 for _ in range(6)] == [False] * 5 + [True]


def test_one_caller_does_not_use_up_what_is_anothers() -> None:
    limit = RateLimit(1, 1, Clock())
    assert limit.wait_s("a") == 0.0
    assert limit.wait_s("a") > 0
    assert limit.wait_s("b") == 0.0


def test_callers_without_number_take_no_memory_without_bound() -> None:
    clock = Clock()
    limit = RateLimit(1, 1, clock)
    for k in range(rate_limit.MOST_CALLERS + 500):
        limit.wait_s(str(k))
    assert len(limit) == rate_limit.MOST_CALLERS
    assert limit.wait_s(str(rate_limit.MOST_CALLERS + 499)) > 0  # the newest are remembered


@given(st.lists(st.floats(0, 3), min_size=1, max_size=80), st.floats(0.5, 50), st.integers(1, 20))
def test_never_more_than_burst_plus_rate_pass_and_who_waits_as_told_passes(
    pauses: list[float], per_s: float, burst: int
) -> None:
    clock = Clock()
    limit = RateLimit(per_s, burst, clock)
    begun = clock.now
    for passed, pause in enumerate(pauses, start=1):
        clock.now += pause
        wait_s = limit.wait_s("a")
        if wait_s:
            clock.now += wait_s + 1e-6
            assert limit.wait_s("a") == 0.0
        assert passed <= burst + (clock.now - begun) * per_s + 1e-3
