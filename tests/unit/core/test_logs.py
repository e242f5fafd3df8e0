from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tandem_core import observe
from tandem_core.logs import JsonFormatter, Repeats, log_to_stderr


def formatted(message: str = "bundle loaded", *, failing: bool = False, **extra: object) -> dict[str, Any]:
    record = logging.getLogger("tandem.test").makeRecord(
        "tandem.test", logging.WARNING, "file.py", 1, message, (), None, extra=extra
    )
    record.created, record.msecs = 0.25, 250.0
    if failing:
        try:
            raise ValueError("bad\nthing")
        except ValueError:
            record.exc_info = sys.exc_info()
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_line_is_constant_text_with_its_fields_beside() -> None:
    assert formatted(bundle_id="b1", took_ms=1.5) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "warning",
        "logger": "tandem.test",
        "message": "bundle loaded",
        "bundle_id": "b1",
        "took_ms": 1.5,
    }


def test_what_json_has_no_word_for_is_written_as_text() -> None:
    line = formatted(path=Path("/x/y"), ids={"b"}, error=ValueError("no"))
    assert (line["path"], line["ids"], line["error"]) == ("/x/y", "{'b'}", "no")


def test_a_trace_stays_within_its_line() -> None:
    trace = formatted("request\nfailed", failing=True)["trace"]
    assert trace.startswith("Traceback")
    assert "ValueError: bad\nthing" in trace


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_all_logs_of_a_process_go_to_stderr_from_the_level_up(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr("info")
    logging.getLogger("some.library").debug("not this")
    logging.getLogger("some.library").info("but %s", "this")
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [json.loads(line)["message"] for line in printed.err.splitlines()] == ["but this"]


def test_a_line_says_which_request_it_is_about() -> None:
    record = observe.Record("Recommend")
    with observe.recording(record):
        observe.request_is("r1")
        line = formatted()
    assert (line["request_id"], line["rpc"]) == ("r1", "Recommend")
    assert "trace_id" not in line
    assert "request_id" not in formatted()


def test_what_repeats_is_said_a_few_times_then_counted() -> None:
    now = [0.0]
    repeats = Repeats(most=2, window_s=60, clock=lambda: now[0])

    def said(message: str, level: int = logging.WARNING) -> tuple[bool, int]:
        record = logging.getLogger("t").makeRecord("t", level, "f.py", 1, message, (), None)
        return repeats.filter(record), getattr(record, "left_out", 0)

    assert [said("store unavailable") for _ in range(5)] == [(True, 0)] * 2 + [(False, 0)] * 3
    assert said("another thing") == (True, 0)
    assert [said("started", logging.INFO) for _ in range(3)] == [(True, 0)] * 3
    now[0] = 61.0
    assert said("store unavailable") == (True, 3)
    assert said("store unavailable") == (True, 0)
