"""Who may import whom: the rules of the layout, read from the source itself."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "tandem": "shared/tandem",
    "tandem_core": "shared/tandem_core",
    "tandem_testing": "shared/tandem_testing",
    "tandem_cli": "shared/tandem_cli",
    "tandem_retrieval": "services/tandem_retrieval",
    "tandem_ranking": "services/tandem_ranking",
    "tandem_trainer": "trainer/tandem_trainer",
}
OURS = set(FOLDERS)
WIRE = {"grpc", "google", "grpc_health", "grpc_reflection", "grpc_status", "tandem"}
SERVING = {"numpy", "onnxruntime", "hnswlib", "pydantic", "pydantic_settings", "redis", "s3fs", "botocore"}
SIGNALS = {
    "signals_worker.py": "prometheus_client",
    "signals_side.py": "prometheus_client",
    "signals_traces.py": "opentelemetry",
}
TRAINING_ALONE = {"torch", "pandas", "implicit", "scipy", "sklearn", "pyarrow", "onnx", "onnxscript", "matplotlib"}


def roots(source: str) -> set[str]:
    """Return the top-level packages a module imports anywhere in it, the standard library left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a reader sees where a name comes from"
            names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names)


def modules(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / FOLDERS[package]).rglob("*.py"))


def breaches(paths: Iterable[Path], *, allowed: Set[str] | None = None, forbidden: Set[str] = frozenset()) -> list[str]:
    """Return "module imports package" for every import that is not allowed, or that is forbidden."""
    found = []
    for path in paths:
        imported = roots(path.read_text())
        wrong = imported & forbidden if allowed is None else imported - allowed
        found += [f"{path.relative_to(ROOT)} imports {name}" for name in sorted(wrong)]
    return found


def test_the_checker_sees_every_form_of_import() -> None:
    source = (
        "import os, torch.nn\nfrom pandas.api import types\ndef f():\n    import grpc as g\nfrom tandem.x import y\n"
    )
    assert roots(source) == {"torch", "pandas", "grpc", "tandem"}
    assert all(any(modules(package)) for package in FOLDERS)


def test_every_package_of_the_repository_is_looked_at() -> None:
    there = {p.parent.name for base in ("shared", "services", "trainer") for p in (ROOT / base).glob("*/__init__.py")}
    assert there == OURS


def test_the_stubs_import_their_runtime_alone() -> None:
    assert breaches(modules("tandem"), allowed={"tandem", "grpc", "google"}) == []


def test_the_core_knows_neither_the_services_nor_the_trainer() -> None:
    assert breaches(modules("tandem_core"), forbidden=(OURS - {"tandem_core", "tandem"}) | TRAINING_ALONE) == []


def test_in_the_core_only_grpc_modules_know_the_wire() -> None:
    plain = [path for path in modules("tandem_core") if not path.name.startswith("grpc_")]
    signals = [path for path in plain if path.name in SIGNALS]
    assert breaches([path for path in plain if path not in signals], allowed={"tandem_core", *SERVING}) == []
    assert [breaches([path], allowed={"tandem_core", "numpy", SIGNALS[path.name]}) for path in signals] == [[], [], []]
    wire = [path for path in modules("tandem_core") if path.name.startswith("grpc_")]
    assert wire
    assert breaches(wire, allowed={"tandem_core", *SERVING, *WIRE}) == []


def through_the_core(paths: Iterable[Path]) -> list[str]:
    """Return "module imports module" for every grpc_* module of the core that is imported, in whatever form."""
    found = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found += [
                f"{path.relative_to(ROOT)} imports {name}" for name in names if name.startswith("tandem_core.grpc_")
            ]
    return found


def test_nothing_reaches_the_wire_through_grpc_modules_of_the_core() -> None:
    plain = [path for path in modules("tandem_core") if not path.name.startswith("grpc_")]
    assert through_the_core([*plain, *modules("tandem_trainer")]) == []
    assert through_the_core(modules("tandem_ranking"))  # it would be seen


@pytest.mark.parametrize("service", ["tandem_retrieval", "tandem_ranking"])
def test_a_service_knows_the_core_and_the_wire_alone(service: str) -> None:
    assert breaches(modules(service), allowed={service, "tandem_core", *WIRE, *SERVING}) == []


def test_the_trainer_knows_neither_the_wire_nor_the_services() -> None:
    assert breaches(modules("tandem_trainer"), forbidden=WIRE | (OURS - {"tandem_core", "tandem_trainer"})) == []


def test_what_callers_install_needs_the_base_install_alone() -> None:
    plugin = [path for path in modules("tandem_testing") if path.name == "plugin.py"]
    others = [path for path in modules("tandem_testing") if path.name != "plugin.py"]
    base = {"tandem_testing", *WIRE}
    assert breaches(others, allowed=base) == []
    assert breaches(plugin, allowed=base | {"pytest"}) == []


def test_nobody_imports_the_command_line() -> None:
    others = [path for package in OURS - {"tandem_cli"} for path in modules(package)]
    assert breaches(others, forbidden={"tandem_cli"}) == []
