from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tandem_core.errors import BundleMismatch, BundleNotReady, BundleRefused
from tandem_core.manifest import read_manifest, verify_files
from tandem_core.registry import Registry
from tandem_core.serving_bundles import ServingBundles

WriteBundle = Callable[..., Path]


class World:
    """A registry, and what holds its bundles; loading is reading the text file, and is counted."""

    def __init__(self, registry: Registry, write: WriteBundle) -> None:
        self.registry = registry
        self.write = write
        self.read: list[str] = []
        self.failure: Exception | None = None
        self.bundles = ServingBundles(registry, self._load)

    def _load(self, bundle_id: str) -> str:
        self.read.append(bundle_id)
        if self.failure is not None:
            raise self.failure
        folder = self.registry.path_of(bundle_id)
        verify_files(folder, read_manifest(folder))
        return (folder / "file.txt").read_text()

    def current(self, bundle_id: str) -> None:
        """Write a bundle, activate it, look for it."""
        self.write(self.registry, bundle_id, f"content of {bundle_id}")
        self.registry.activate(bundle_id)
        self.bundles.refresh()

    def damage(self, bundle_id: str) -> None:
        (self.registry.path_of(bundle_id) / "file.txt").write_text(f"C0ntent of {bundle_id}")


@pytest.fixture
def world(tmp_path: Path, write_bundle: WriteBundle) -> World:
    return World(Registry(tmp_path), write_bundle)


def test_without_a_bundle_a_request_is_told_to_come_back_and_why(world: World) -> None:
    with pytest.raises(BundleNotReady, match="no bundle has been looked for yet"):
        world.bundles.held.choose()
    assert not world.bundles.refresh()
    with pytest.raises(BundleNotReady, match=r"has no current bundle: train one \(tandem train\)"):
        world.bundles.held.choose(["b1"])


def test_the_current_bundle_answers_and_is_read_once(world: World) -> None:
    world.current("b1")
    assert not world.bundles.refresh()
    assert world.bundles.held.choose() == "content of b1"
    assert world.read == ["b1"]
    assert world.bundles.held.refusal == ""


def test_a_request_may_still_ask_for_the_bundle_before(world: World) -> None:
    world.current("b1")
    world.current("b2")
    held = world.bundles.held
    assert (held.current_id, held.previous_id) == ("b2", "b1")
    assert held.choose() == "content of b2"
    assert held.choose(["b9", "b1", "b2"]) == "content of b1"  # the first that is held
    world.current("b3")
    with pytest.raises(BundleMismatch, match=r"none of \['b1'\] is loaded; loaded are \['b3', 'b2'\]"):
        world.bundles.held.choose(["b1"])


def test_what_a_request_holds_does_not_change_under_it(world: World) -> None:
    world.current("b1")
    held = world.bundles.held
    world.current("b2")
    assert held.choose() == "content of b1"


def test_rolling_back_takes_the_bundle_that_is_still_there(world: World) -> None:
    world.current("b1")
    world.current("b2")
    world.registry.rollback()
    assert world.bundles.refresh()
    assert world.bundles.held.choose() == "content of b1"
    assert world.read == ["b1", "b2"]


def test_a_bad_bundle_changes_nothing_but_the_reason(world: World) -> None:
    world.current("b1")
    world.write(world.registry, "b2", "content of b2")
    world.registry.activate("b2")
    world.damage("b2")
    for _ in range(3):
        assert not world.bundles.refresh()
    held = world.bundles.held
    assert held.choose() == "content of b1"
    assert (held.current_id, held.refused_id) == ("b1", "b2")
    assert "file.txt does not have the sha256" in held.refusal
    assert world.read == ["b1", "b2"]  # not read again while no file of it changes


def test_a_repaired_bundle_is_taken(world: World) -> None:
    world.current("b1")
    world.write(world.registry, "b2", "content of b2")
    world.registry.activate("b2")
    world.damage("b2")
    world.bundles.refresh()
    (world.registry.path_of("b2") / "file.txt").write_text("content of b2")
    assert world.bundles.refresh()
    assert world.bundles.held.choose() == "content of b2"
    assert (world.bundles.held.refused_id, world.bundles.held.refusal) == ("", "")


def test_a_refusal_is_forgotten_with_the_way_back_and_said_again_when_it_counts_again(world: World) -> None:
    world.current("b1")
    world.write(world.registry, "b2", "content of b2")
    pointer = world.registry.root / "CURRENT"
    to_b1 = pointer.read_text()
    world.registry.activate("b2")
    to_b2 = pointer.read_text()
    world.damage("b2")
    for text, refused in ((to_b2, "b2"), (to_b1, ""), (to_b2, "b2")):
        pointer.write_text(text)
        world.bundles.refresh()
        assert world.bundles.held.refused_id == refused
        assert bool(world.bundles.held.refusal) == bool(refused)
        assert world.bundles.held.current_id == "b1"


def test_what_may_pass_by_itself_is_tried_at_every_poll(world: World) -> None:
    world.write(world.registry, "b1", "content of b1")
    world.registry.activate("b1")
    world.failure = OSError("the disk is away")
    for _ in range(2):
        assert not world.bundles.refresh()
    assert world.bundles.held.refusal == "the disk is away"
    world.failure = None
    assert world.bundles.refresh()
    assert world.read == ["b1"] * 3


def test_a_bundle_the_loader_finds_wrong_is_read_again_only_when_it_changes(world: World) -> None:
    world.failure = BundleRefused("a vector is not finite")
    world.current("b1")
    world.bundles.refresh()
    assert world.read == ["b1"]
    with pytest.raises(BundleNotReady, match="a vector is not finite"):
        world.bundles.held.choose()


@pytest.mark.parametrize(
    ("pointer", "said"),
    [
        ("{", "is damaged"),
        ('{"bundle_id": "../b1", "previous": ""}', "is no bundle id"),
        ('{"bundle_id": "b7", "previous": ""}', "b7"),
    ],
)
def test_a_pointer_to_nowhere_is_refused_and_the_old_bundle_goes_on(world: World, pointer: str, said: str) -> None:
    world.current("b1")
    (world.registry.root / "CURRENT").write_text(pointer)
    for _ in range(2):
        assert not world.bundles.refresh()
    assert world.bundles.held.choose() == "content of b1"
    assert said in world.bundles.held.refusal


def test_the_bundle_before_can_be_kept_beside_and_one_that_is_gone_is_left_out(world: World) -> None:
    world.current("b1")
    world.current("b2")
    assert world.bundles.refresh() is False
    fresh = World(world.registry, world.write)
    assert fresh.bundles.refresh()
    fresh.bundles.keep("b0")
    assert fresh.bundles.held.previous_id == ""
    fresh.bundles.keep("b1")
    assert fresh.bundles.held.previous_id == "b1"
    assert fresh.bundles.held.choose(["b1"]) == "content of b1"
    assert fresh.bundles.held.choose() == "content of b2"


def test_a_bundle_that_a_later_check_finds_bad_is_let_go(world: World) -> None:
    world.current("b1")
    world.bundles.refuse_current("a golden query is off")
    held = world.bundles.held
    assert (held.current_id, held.loaded, held.refused_id, held.refusal) == ("", (), "b1", "a golden query is off")
    assert not world.bundles.refusal_may_pass
    assert not world.bundles.refresh()
    world.bundles.note_refusal("b9", "another process says so")
    assert (world.bundles.held.refused_id, world.bundles.held.refusal) == ("b9", "another process says so")


def test_who_must_know_what_others_still_serve_holds_the_bundle_before_from_the_start(world: World) -> None:
    world.current("b1")
    world.current("b2")
    later = ServingBundles(world.registry, world._load, both_at_start=True)
    assert later.refresh()
    assert (later.held.current_id, later.held.previous_id) == ("b2", "b1")
    assert later.held.choose(["b1"]) == "content of b1"
    world.damage("b1")
    without = ServingBundles(world.registry, world._load, both_at_start=True)
    assert without.refresh()
    assert (without.held.previous_id, without.held.choose()) == ("", "content of b2")
