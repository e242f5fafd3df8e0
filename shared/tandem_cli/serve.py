"""Which processes `tandem serve` runs, and with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tandem_cli.supervisor import Child
from tandem_core.settings import ConfigError, read_toml

# Stopped in this order: ranking calls retrieval.
SERVICES = {"ranking": "tandem_ranking", "writer": "tandem_ranking.writer", "retrieval": "tandem_retrieval"}


def children(
    config: Path | None,
    registry: Path,
    store: str,
    retrieval_port: int,
    ranking_port: int,
    writer_port: int,
    decisions: Path | None = None,
) -> list[Child]:
    """Return the processes of both services as children; raises ConfigError for tables that are no process's.

    decisions: folder for decision records; None: none are kept, unless the file says so.
    """
    tables: dict[str, Any] = {} if config is None else read_toml(config)
    if unknown := set(tables) - set(SERVICES):
        raise ConfigError(f"{config}: unknown tables {sorted(unknown)}; there are {', '.join(SERVICES)}")
    retrieval_port = tables.get("retrieval", {}).get("port", retrieval_port)
    given = {
        "retrieval": {"port": retrieval_port, "registry": registry, "store": store},
        "ranking": {
            "port": ranking_port,
            "registry": registry,
            "store": store,
            "retrieval_target": _addresses(tables.get("retrieval", {}), retrieval_port),
        },
        "writer": {"port": writer_port, "registry": registry, "store": store},
    }
    if decisions is not None:
        given["ranking"]["decisions"] = given["writer"]["decisions"] = decisions
    # Each reads its table itself, since it refuses what it does not know; in the environment the rest.
    file = () if config is None else ("--config", str(config))
    return [
        Child(
            name,
            module,
            (*file, "--table", name),
            _environment(name, {key: value for key, value in given[name].items() if key not in tables.get(name, {})}),
        )
        for name, module in SERVICES.items()
    ]


def _addresses(retrieval: Mapping[str, Any], port: int) -> str:
    """Return the target that names every worker of retrieval."""
    ports = retrieval.get("ports") or [port + k for k in range(retrieval.get("workers", 1))]
    return "ipv4:" + ",".join(f"127.0.0.1:{each}" for each in ports)


def _environment(service: str, settings: Mapping[str, object]) -> dict[str, str]:
    return {f"TANDEM_{service.upper()}_{key.upper()}": str(value) for key, value in settings.items()}
