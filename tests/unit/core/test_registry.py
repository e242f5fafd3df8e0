from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tandem_core.errors import BundleRefused, NotFound
from tandem_core.registry import Current, Registry

WriteBundle = Callable[..., Path]


@pytest.fixture
def empty(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def three(empty: Registry, write_bundle: WriteBundle) -> Registry:
    """Bundles b1, b2 and b3, whole, none active."""
    for bundle_id in ("b1", "b2", "b3"):
        write_bundle(empty, bundle_id)
    return empty


def test_an_empty_registry_has_nothing_and_says_so(empty: Registry) -> None:
    assert empty.current() is None
    assert empty.bundle_ids() == []
    with pytest.raises(NotFound, match="no bundle to go back to"):
        empty.rollback()
    with pytest.raises(NotFound, match="no bundle 'b1'"):
        empty.activate("b1")
    assert empty.retain(3) == []


def test_a_published_bundle_is_listed_newest_first_and_serves_only_when_activated(three: Registry) -> None:
    assert three.bundle_ids() == ["b3", "b2", "b1"]
    assert three.current() is None
    assert three.activate("b1") == Current("b1") == three.current()
    assert three.manifest("b1").bundle_id == "b1"


def test_rolling_back_and_forth_swaps_the_current_and_the_previous(three: Registry) -> None:
    three.activate("b1")
    assert three.activate("b3") == Current("b3", "b1")
    assert three.rollback() == Current("b1", "b3") == three.current()
    assert three.rollback() == Current("b3", "b1")


def test_several_that_move_the_pointer_at_once_all_succeed_and_it_is_whole_at_any_time(three: Registry) -> None:
    """As calls to one admin port do, and those of containers, whose processes have the same numbers."""
    three.activate("b1")
    over = threading.Event()

    def move(bundle_id: str) -> int:
        return len([three.activate(each) for _ in range(100) for each in (bundle_id, "b1")])

    def look() -> int:
        looks = 0
        while not over.is_set():
            assert three.current() is not None
            looks += 1
        return looks

    with ThreadPoolExecutor() as threads:
        looking = threads.submit(look)
        moving = [threads.submit(move, bundle_id) for bundle_id in ("b1", "b2", "b3")]
        try:
            assert [each.result() for each in moving] == [200] * 3
        finally:
            over.set()
        assert looking.result()
    pointer = three.current()
    assert pointer is not None
    assert pointer.bundle_id != pointer.previous
    assert sorted(path.name for path in three.root.iterdir()) == ["CURRENT", "bundles", "staging"]


def test_activating_what_is_current_keeps_the_way_back(three: Registry) -> None:
    three.activate("b1")
    three.activate("b2")
    assert three.activate("b2") == Current("b2", "b1") == three.current()


def test_retaining_keeps_the_newest_and_never_deletes_what_serves_or_served(
    three: Registry, write_bundle: WriteBundle
) -> None:
    write_bundle(three, "b4")
    three.activate("b2")
    three.activate("b1")
    assert three.retain(1) == ["b3"]
    assert three.bundle_ids() == ["b4", "b2", "b1"]
    assert three.retain(5) == []


def test_a_bundle_still_being_written_is_never_listed(three: Registry) -> None:
    staging = three.new_staging("b9")
    (staging / "manifest.json").write_text("{")
    assert three.bundle_ids() == ["b3", "b2", "b1"]
    with pytest.raises(NotFound):
        three.activate("b9")


def test_stray_files_beside_the_bundles_are_no_bundles(three: Registry) -> None:
    (three.root / "bundles" / "README").write_text("")
    (three.root / "bundles" / ".hidden").mkdir()
    assert three.bundle_ids() == ["b3", "b2", "b1"]
    assert three.retain(1) == ["b2", "b1"]


def test_what_dead_processes_left_in_staging_goes_and_what_live_ones_write_stays(empty: Registry) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    dead, live, nameless = (empty.root / "staging" / f"x-{end}" for end in (child.pid, os.getppid(), "draft"))
    for folder in (dead, live, nameless):
        folder.mkdir(parents=True)
        (folder / "half").write_text("")
    fresh = empty.new_staging("x")
    assert sorted(path.name for path in (empty.root / "staging").iterdir()) == sorted([live.name, fresh.name])
    assert list(fresh.iterdir()) == []


def test_starting_over_in_the_same_process_starts_empty(empty: Registry) -> None:
    (empty.new_staging("x") / "half").write_text("")
    assert list(empty.new_staging("x").iterdir()) == []


def test_publishing_over_a_bundle_that_is_there_is_an_error_and_changes_nothing(
    three: Registry, write_bundle: WriteBundle
) -> None:
    with pytest.raises(OSError, match="not empty"):
        write_bundle(three, "b1", "other content")
    assert (three.path_of("b1") / "file.txt").read_text() == "content"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "file.txt").unlink(), r"file\.txt is missing"),
        (lambda folder: (folder / "file.txt").write_text("c0ntent"), r"file\.txt does not have the sha256"),
        (lambda folder: (folder / "file.txt").write_text("cont"), r"file\.txt has 4 bytes"),
        (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json does not exist"),
    ],
    ids=["missing", "changed", "cut", "no manifest"],
)
def test_a_damaged_bundle_is_not_activated_nor_rolled_back_to(
    three: Registry, damage: Callable[[Path], None], said: str
) -> None:
    three.activate("b1")
    damage(three.path_of("b2"))
    with pytest.raises(BundleRefused, match=said):
        three.activate("b2")
    assert three.current() == Current("b1")
    three.activate("b3")
    damage(three.path_of("b1"))
    with pytest.raises(BundleRefused, match=said):
        three.rollback()
    assert three.current() == Current("b3", "b1")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"b1"', b'{"bundle_id": "b1"}', b'{"bundle_id": "\xff'], ids=repr
)
def test_a_damaged_pointer_says_how_to_mend_it_and_activating_does(three: Registry, content: bytes) -> None:
    three.activate("b1")
    (three.root / "CURRENT").write_bytes(content)
    with pytest.raises(BundleRefused, match=r"CURRENT is damaged: activate a bundle again \(tandem bundles activate"):
        three.current()
    assert three.activate("b2") == Current("b2") == three.current()


@pytest.mark.parametrize(
    "bundle_id", ["", ".", "..", "../b1", "b1/../b2", "/etc", "a\\b", "b1\n", "a" * 129, ".b1", "b 1"]
)
def test_names_that_could_leave_the_folder_are_no_bundle_ids(three: Registry, bundle_id: str) -> None:
    for call in (three.path_of, three.activate, three.manifest, three.fingerprint):
        with pytest.raises(NotFound, match="is no bundle id"):
            call(bundle_id)
    with pytest.raises(NotFound, match="is no bundle id"):
        three.publish(three.new_staging("x"), bundle_id)


def test_the_fingerprint_changes_with_any_file(three: Registry) -> None:
    before = three.fingerprint("b1")
    assert three.fingerprint("b1") == before != three.fingerprint("b2")
    path = three.path_of("b1") / "file.txt"
    path.write_text("other")
    changed = three.fingerprint("b1")
    path.unlink()
    assert len({before, changed, three.fingerprint("b1")}) == 3
