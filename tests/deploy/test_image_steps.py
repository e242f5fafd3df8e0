"""The steps of the Dockerfiles, run into clean environments, and what they are for started from them."""

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


def steps(image: str) -> tuple[str, str]:
    """What is wheeled and what is installed, by the Dockerfile."""
    text = (ROOT / "deploy" / "docker" / f"{image}.Dockerfile").read_text()
    (wheeled,) = re.findall(r'pip wheel .* "(\.\[.*\])"', text)
    (installed,) = re.findall(r'pip install .* "(tandem-recommender\[.*\])"', text)
    return wheeled, installed


class Clean:
    """An environment made by the steps of an image. bin: its commands; names: its packages, as pip lists them."""

    def __init__(self, image: str, folder: Path) -> None:
        self._folder = folder
        self.bin = folder / "venv" / "bin"
        # What the tests themselves run with is none of the image's.
        self.environment = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "VIRTUAL_ENV")}
        self.environment["HNSWLIB_NO_NATIVE"] = "1"
        source, wheels = folder / "src", str(folder / "wheels")
        ignored = [f"--exclude={name}" for name in ("__pycache__", "*.egg-info")]
        copied = ["pyproject.toml", "constraints.txt", "README.md", "LICENSE", "shared", "services", "trainer"]
        source.mkdir()
        packed = subprocess.run(["tar", "c", *ignored, *copied], cwd=ROOT, capture_output=True, check=True)
        subprocess.run(["tar", "x"], cwd=source, input=packed.stdout, check=True)
        wheeled, installed = steps(image)
        constraint = ["--constraint", "constraints.txt", "--wheel-dir", wheels]
        self.run(sys.executable, "-m", "pip", "wheel", "-q", *constraint, wheeled, cwd=source)
        self.run(sys.executable, "-m", "venv", str(folder / "venv"))
        pip = (str(self.bin / "python"), "-m", "pip")
        self.run(*pip, "install", "-q", "--no-cache-dir", "--no-index", "--find-links", wheels, installed)
        self.names = self.run(*pip, "list", "--format=freeze")
        packages = next((folder / "venv").glob("lib/*/site-packages"))
        size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file() and path.suffix != ".pyc")
        print(f"{image}: {len(self.names.splitlines())} packages, {size / 1e6:.0f} MB in site-packages")  # noqa: T201

    def run(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            command, cwd=cwd or self._folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@pytest.mark.long
def test_the_trainer_s_steps_give_an_environment_that_trains(tmp_path: Path) -> None:
    clean = Clean("trainer", tmp_path)
    tandem = str(clean.bin / "tandem")
    clean.run(tandem, "generate", "--out", "data", "--users", "200", "--items", "100")
    config = tmp_path / "train.toml"
    config.write_text("[towers]\nmost_examples = 2000\n")
    clean.run(tandem, "train", "--config", str(config), "--data", "data", "--registry", "bundles")
    assert (tmp_path / "bundles" / "CURRENT").exists()


@pytest.mark.long
def test_the_service_s_steps_give_an_environment_that_serves(registry: Any, trained: Any, tmp_path: Path) -> None:
    clean = Clean("service", tmp_path)
    assert not re.search(r"^(torch|pandas|implicit|scipy)==", clean.names, flags=re.MULTILINE)
    config = tmp_path / "retrieval.toml"
    config.write_text(f'port = 0\nregistry = "{registry.root}"\nstore = "sqlite:///{tmp_path}/store.db"\n')
    command = [str(clean.bin / "python"), "-m", "tandem_retrieval", "--config", str(config)]
    with subprocess.Popen(command, env=clean.environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
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
