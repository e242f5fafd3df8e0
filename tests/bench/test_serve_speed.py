"""The speed of serving, as `tandem bench serve` measures it by default."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.bench


def test_serving() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", "from tandem_cli.main import app; app()", "bench", "serve"]
    subprocess.run(command, cwd=root, env=os.environ, check=True)
