"""A new bundle that is far worse than the current one is not activated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tandem_core.manifest import Manifest
from tandem_core.registry import Registry
from tandem_trainer.quality_gate import FIGURE, held_back


@pytest.fixture
def current(tmp_path: Path, publish_copy: Callable[..., Any]) -> Registry:
    """A registry whose current bundle is the trained one."""
    registry = Registry(tmp_path / "registry")
    publish_copy(registry, "current")
    return registry


def with_figure(registry: Registry, share: float) -> Manifest:
    """Return the manifest of a bundle whose figure is a share of the current one's."""
    manifest = registry.manifest("current")
    figures = {**manifest.metrics, FIGURE: share * manifest.metrics[FIGURE]}
    return manifest.model_copy(update={"bundle_id": "new", "metrics": figures})


@pytest.mark.parametrize(("share", "drop", "held"), [(0.49, 0.5, True), (0.51, 0.5, False), (0.9, 0.0, True)])
def test_what_loses_more_than_the_setting_allows_is_held_back_and_says_so(
    current: Registry, share: float, drop: float, held: bool
) -> None:
    why = held_back(with_figure(current, share), current, drop)
    assert bool(why) is held
    if held:
        assert FIGURE in why
        assert "tandem bundles activate new" in why


def test_a_better_bundle_the_first_one_and_one_after_a_damaged_pointer_are_activated(
    current: Registry, tmp_path: Path
) -> None:
    better = with_figure(current, 1.2)
    assert held_back(better, current, 0.0) == ""
    assert held_back(better, Registry(tmp_path / "empty"), 0.0) == ""
    (current.root / "CURRENT").write_bytes(b"{")
    assert held_back(with_figure(current, 0.1), current, 0.0) == ""


def test_a_setting_of_one_activates_anything(current: Registry) -> None:
    assert held_back(with_figure(current, 0.0), current, 1.0) == ""
