"""What `tandem serve` does with services that end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SERVICE = """
import sys, time
from pathlib import Path
runs = Path(sys.argv[1])
with runs.open("a") as file:
    file.write("x")
codes = [int(code) for code in sys.argv[2:]]
done = len(runs.read_text())
if done <= len(codes):
    sys.exit(codes[done - 1])
time.sleep(600)
"""
SERVE = """
import sys
from tandem_cli.supervisor import Child, Supervisor
steady, other, *codes = sys.argv[1:]
Supervisor([Child("steady", "service", [steady]), Child("other", "service", [other, *codes])]).run()
"""


def serve(tmp_path: Path, *codes: int) -> subprocess.Popen[bytes]:
    """Serve two: one that stays, and one that ends with these codes, one after another, before it stays."""
    (tmp_path / "service.py").write_text(SERVICE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    runs = [str(tmp_path / "steady"), str(tmp_path / "other"), *map(str, codes)]
    return subprocess.Popen([sys.executable, "-c", SERVE, *runs], env=environment)


@pytest.mark.parametrize("codes", [(1, 2, 2), (1, -9)])
def test_a_service_that_ran_is_started_again_and_takes_none_with_it(tmp_path: Path, codes: tuple[int, ...]) -> None:
    process = serve(tmp_path, *codes)
    other = tmp_path / "other"
    deadline = time.monotonic() + 60
    while not other.exists() or len(other.read_text()) <= len(codes):
        assert process.poll() is None, f"ended with code {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 0
    assert (tmp_path / "steady").read_text() == "x"


def test_one_that_cannot_run_as_it_is_configured_ends_the_start(tmp_path: Path) -> None:
    assert serve(tmp_path, 2).wait(60) == 2
