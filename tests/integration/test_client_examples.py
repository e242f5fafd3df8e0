"""The examples for callers run as they stand, against the stubs as a process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "protos" / "examples"
BUF = Path(sys.executable).parents[1] / "node" / "node_modules" / ".bin" / "buf"


@pytest.fixture(scope="module")
def stubs(module_launch: Any) -> str:
    """Where `tandem stub` listens."""
    running = module_launch.tandem("stub", "--port", "0", name="stub")
    return f"127.0.0.1:{running.port}"


def run(*command: str, **environment: str) -> str:
    variables = {**os.environ, **environment}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def patient(path: Path, folder: Path) -> str:
    """Return a copy of an example whose deadlines a busy machine cannot miss."""
    copy = folder / path.name
    text, changed = re.subn(r"timeout=[\d.]+", "timeout=50", path.read_text())
    assert changed
    copy.write_text(text)
    return str(copy)


def test_the_example_that_waits_gets_a_list_and_writes_an_event(stubs: str, tmp_path: Path) -> None:
    lines = run(sys.executable, patient(EXAMPLES / "recommend.py", tmp_path), stubs).splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4", "5", "event:"]
    assert lines[-1] == "event: EVENT_OUTCOME_STORED"


def test_the_asyncio_example_gets_a_list_for_each_user(stubs: str, tmp_path: Path) -> None:
    lines = run(sys.executable, patient(EXAMPLES / "recommend_aio.py", tmp_path), stubs).splitlines()
    assert [line.split()[0] for line in lines] == ["u1", "u2", "u3"]
    assert {len(line.split()) for line in lines} == {4}


@pytest.mark.skipif(not BUF.exists(), reason="buf is not installed here (make protos-check brings it, with Node)")
def test_the_example_of_another_language_gets_the_same_list(stubs: str) -> None:
    answer = json.loads(run("sh", str(EXAMPLES / "recommend.sh"), stubs, BUF=str(BUF)))
    assert [item["position"] for item in answer["items"]] == [1, 2, 3]
