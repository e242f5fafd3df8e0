"""The steps of the service's Dockerfile, run into a clean environment, and a service started from it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).parents[2]
SERVICE = "tandem.retrieval.v1.RetrievalService"


def steps() -> tuple[str, str]:
    """What is wheeled and what is installed, by the Dockerfile."""
    text = (ROOT / "deploy" / "docker" / "service.Dockerfile").read_text()
    (wheeled,) = re.findall(r'pip wheel .* "(\.\[.*\])"', text)
    (installed,) = re.findall(r'pip install .* "(tandem-recommender\[.*\])"', text)
    return wheeled, installed


@pytest.mark.long
def test_the_image_s_steps_give_an_environment_that_serves(registry: Any, trained: Any, tmp_path: Path) -> None:
    source, wheels, home = tmp_path / "src", tmp_path / "wheels", tmp_path / "venv"
    ignored = [f"--exclude={name}" for name in ("__pycache__", "*.egg-info")]
    copied = ["pyproject.toml", "constraints.txt", "README.md", "LICENSE", "shared", "services", "trainer"]
    source.mkdir()
    packed = subprocess.run(["tar", "c", *ignored, *copied], cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "x"], cwd=source, input=packed.stdout, check=True)
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean["HNSWLIB_NO_NATIVE"] = "1"

    def run(*command: str, cwd: Path = tmp_path) -> str:
        done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    wheeled, installed = steps()
    constraint = ["--constraint", "constraints.txt", "--wheel-dir", str(wheels)]
    run(sys.executable, "-m", "pip", "wheel", "-q", *constraint, wheeled, cwd=source)
    run(sys.executable, "-m", "venv", str(home))
    python = str(home / "bin" / "python")
    run(python, "-m", "pip", "install", "-q", "--no-cache-dir", "--no-index", "--find-links", str(wheels), installed)
    names = run(python, "-m", "pip", "list", "--format=freeze")
    assert not re.search(r"^(torch|pandas|implicit|scipy)==", names, flags=re.MULTILINE)
    packages = next(home.glob("lib/*/site-packages"))
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file() and path.suffix != ".pyc")
    print(f"{len(names.splitlines())} packages, {size / 1e6:.0f} MB in site-packages")  # noqa: T201

    config = tmp_path / "retrieval.toml"
    config.write_text(f'port = 0\nregistry = "{registry.root}"\nstore = "sqlite:///{tmp_path}/store.db"\n')
    command = [python, "-m", "tandem_retrieval", "--config", str(config)]
    with subprocess.Popen(command, env=clean, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if '"listening"' in line)
            (port,) = re.findall(r'"port": (\d+)', line)
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                request = health_pb2.HealthCheckRequest(service=SERVICE)
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=60, wait_for_ready=True)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        finally:
            process.terminate()
        process.stderr.read()
        assert process.wait(60) == 0
