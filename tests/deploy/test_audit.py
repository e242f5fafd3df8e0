"""What runs in production has licences that we may pass on."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", Path(__file__).parents[2] / "deploy" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_installed_package_of_production_has_a_refused_or_unknown_licence(audit: ModuleType) -> None:
    packages = audit.runtime_packages()
    assert {"grpcio", "protobuf", "numpy", "onnxruntime", "hnswlib", "pydantic", "rich", "redis"} <= set(packages)
    assert not {"torch", "pytest", "implicit", "pip-audit", "mypy"} & set(packages)  # never where it serves
    trainer = audit.runtime_packages(audit.TRAINER)
    assert {"torch", "implicit", "pandas"} <= set(trainer)
    everything = {*packages, *trainer}
    found = audit.licences(sorted(everything))
    assert set(found) == everything
    assert audit.refusals(found) == []


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("MIT", False),
        ("Apache Software License", False),
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", False),
        ("MIT OR GPL-3.0-only", False),
        ("GPL-3.0-or-later", True),
        ("MIT AND GPL-2.0-only", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("AGPL-3.0-only", True),
        ("GNU Affero General Public License v3", True),
        ("SSPL-1.0", True),
        ("UNKNOWN", True),
        ("Proprietary", True),
    ],
)
def test_licences_that_reach_further_than_their_package_are_refused(
    audit: ModuleType, licence: str, refused: bool
) -> None:
    assert audit.refusals({"some-package": licence}) == ([f"some-package: {licence}"] if refused else [])


def test_what_the_service_says_nothing_of_is_never_called_safe(audit: ModuleType) -> None:
    written = """{"dependencies": [
        {"name": "Bad_One", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}]},
        {"name": "good", "version": "2.0", "vulns": []},
        {"name": "hidden", "skip_reason": "not found"}], "fixes": []}"""
    found, unknown = audit.read_report(written, ["bad-one", "good", "hidden", "left-out"])
    assert found == ["bad-one 1.0: PYSEC-1, mended in 1.1, 2.0"]
    assert unknown == ["hidden", "left-out"]
    assert audit.read_report("no JSON", ["good"]) == ([], ["good"])
