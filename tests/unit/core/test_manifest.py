from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tandem_core.errors import BundleRefused
from tandem_core.manifest import FileEntry, Golden, Manifest, read_manifest, sha256_of, verify_files

MakeManifest = Callable[..., Manifest]


@pytest.fixture
def folder(tmp_path: Path, make_manifest: MakeManifest) -> Path:
    (tmp_path / "a.bin").write_bytes(b"abc")
    entry = FileEntry(size=3, sha256=hashlib.sha256(b"abc").hexdigest())
    (tmp_path / "manifest.json").write_text(make_manifest(files={"a.bin": entry}).model_dump_json())
    return tmp_path


def changed(folder: Path, **values: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_manifest_is_the_same_after_writing_and_reading(folder: Path, make_manifest: MakeManifest) -> None:
    manifest = read_manifest(folder)
    assert manifest == make_manifest(files=manifest.files)
    verify_files(folder, manifest)


def test_a_golden_query_without_context_is_written_as_before_there_was_any() -> None:
    golden = Golden(history=[1], user_attributes={}, now_ms=5, expected=[0.5])
    assert "context" not in golden.model_dump_json()
    on_tv = golden.model_copy(update={"context": {"device": "tv"}})
    assert Golden.model_validate_json(on_tv.model_dump_json()) == on_tv


def test_a_missing_manifest_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match=r"manifest\.json does not exist"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"format": 1}, r"has format 1; this version reads 4\. It was made by an older version: train again"),
        ({"format": 5}, "has format 5; this version reads 4: serve it with a newer version"),
        ({"schema_digest": "0" * 64}, "feature schema does not have its recorded digest"),
        ({"created_ms": "yesterday"}, "created_ms: .*valid integer"),
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"als": {"alpha": 1, "regularization": 1}}, r"als\.half_life: Field required"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(folder: Path, values: dict[str, object], said: str) -> None:
    changed(folder, **values)
    with pytest.raises(BundleRefused, match=said) as caught:
        read_manifest(folder)
    assert "manifest.json" in str(caught.value)


def test_a_manifest_cut_short_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(BundleRefused, match="is not a manifest"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "is missing"), (b"abcd", "has 4 bytes, the manifest says 3"), (b"abd", "does not have the sha256")],
)
def test_a_file_that_is_not_what_the_manifest_says_is_named(folder: Path, content: bytes | None, said: str) -> None:
    if content is None:
        (folder / "a.bin").unlink()
    else:
        (folder / "a.bin").write_bytes(content)
    with pytest.raises(BundleRefused, match=rf"a\.bin.* {said}"):
        verify_files(folder, read_manifest(folder))


def test_the_hash_is_sha256(folder: Path) -> None:
    assert sha256_of(folder / "a.bin") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
