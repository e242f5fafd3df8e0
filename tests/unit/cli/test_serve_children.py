"""Which settings `tandem serve` gives its services."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem_cli.serve import children


@pytest.mark.parametrize(
    ("table", "target"),
    [
        ("port = 7000\nworkers = 3", "ipv4:127.0.0.1:7000,127.0.0.1:7001,127.0.0.1:7002"),
        ("workers = 2\nports = [7000, 8000]", "ipv4:127.0.0.1:7000,127.0.0.1:8000"),
        ("threads = 1", "ipv4:127.0.0.1:50051"),
    ],
)
def test_ranking_knows_every_worker_of_retrieval(tmp_path: Path, table: str, target: str) -> None:
    config = tmp_path / "serve.toml"
    config.write_text(f"[retrieval]\n{table}\n")
    wanted = children(config, Path("bundles"), "sqlite:///s.db", 50051, 50052, 50053)
    found = {child.name: child for child in wanted}
    assert found["ranking"].environment["TANDEM_RANKING_RETRIEVAL_TARGET"] == target
