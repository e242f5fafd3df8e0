"""A training run that dies leaves nothing that could be served; the same seed gives the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tandem_cli.main import app
from tandem_core.registry import Registry
from tandem_trainer.config import load_config
from tandem_trainer.inputs import load_data
from tandem_trainer.progress import Progress
from tandem_trainer.train import train

CONFIG = {
    "threads": 1,
    "data": {"adapter": "synthetic", "synthetic_users": 60, "synthetic_items": 40},
    "towers": {"most_examples": 256, "validations": 1},
    "ranker": {"folds": 2, "epochs": 1},
    "ranker_data": {"most_requests": 50},
}


@pytest.fixture
def config(tmp_path: Path, write_toml: Callable[..., Path]) -> Path:
    """The smallest run that fits everything: some six seconds, most of them the export to ONNX."""
    return write_toml(tmp_path / "train.toml", CONFIG)


def leftovers(registry: Registry) -> list[Path]:
    staging = registry.root / "staging"
    return sorted(staging.iterdir()) if staging.is_dir() else []


StartTraining = Callable[[], Any]


@pytest.fixture
def start(launch: Any, own_registry: Registry, config: Path) -> StartTraining:
    """start(): a training run in a process of its own."""
    return lambda: launch.tandem("train", "--config", str(config), "--registry", str(own_registry.root), name="train")


def killed_at(file: str, run: Any, registry: Registry, wait_until: Callable[..., Any]) -> None:
    """Kill a run as soon as it has written a file of its bundle, which nobody may see then."""
    folder, pattern = registry.root / "staging", f"train-*-{run.process.pid}"
    wait_until(lambda: any(folder.glob(f"{pattern}/{file}" if file else pattern)), 120, f"staging {pattern} {file}")
    run.kill()
    assert run.process.returncode == -9
    assert [path.is_dir() for path in folder.glob(pattern)] == [True]


def test_a_killed_run_leaves_no_half_bundle_and_who_publishes_next_cleans_up(
    start: StartTraining,
    own_registry: Registry,
    publish_copy: Callable[..., Any],
    whole_bundles: Callable[..., list[str]],
    wait_until: Callable[..., Any],
) -> None:
    publish_copy(own_registry, "before")
    pointer = (own_registry.root / "CURRENT").read_bytes()
    killed_at("", start(), own_registry, wait_until)
    assert (own_registry.root / "CURRENT").read_bytes() == pointer
    assert whole_bundles(own_registry) == ["before"]
    assert leftovers(own_registry)
    publish_copy(own_registry, "next")
    assert leftovers(own_registry) == []
    assert set(whole_bundles(own_registry)) == {"before", "next"}


@pytest.mark.long
def test_a_run_killed_late_leaves_no_half_bundle_and_the_same_seed_gives_the_same_bytes_in_every_process(
    start: StartTraining,
    own_registry: Registry,
    config: Path,
    whole_bundles: Callable[..., list[str]],
    wait_until: Callable[..., Any],
    tmp_path: Path,
) -> None:
    killed_at("item_vectors.npy", start(), own_registry, wait_until)
    assert own_registry.current() is None
    assert whole_bundles(own_registry) == []
    last = start()
    settings = load_config(config)
    here = train(settings, load_data(settings, None), Registry(tmp_path / "here"), Progress())
    assert last.process.wait(300) == 0, last.text
    assert leftovers(own_registry) == []
    current = own_registry.current()
    assert current is not None
    there = own_registry.manifest(current.bundle_id)
    assert there.files == here.manifest.files
    when = {"bundle_id", "created_ms"}
    assert there.model_dump(exclude=when) == here.manifest.model_dump(exclude=when)
    assert there.bundle_id.rpartition("-")[2] == here.bundle_id.rpartition("-")[2]


# Runs in a process without threads, since it forks: each child publishes, and dies at the next touch of a file.
DIE_EVERYWHERE = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from tandem_core.manifest import read_manifest, verify_files
from tandem_core.registry import Registry

registry, original = Registry(Path(sys.argv[1])), Path(sys.argv[2])

def publish(bundle_id, touches_left):
    staging = registry.new_staging("train")
    shutil.copytree(original, staging, dirs_exist_ok=True)
    manifest = read_manifest(staging).model_copy(update={"bundle_id": bundle_id})
    (staging / "manifest.json").write_text(manifest.model_dump_json())
    left = itertools.count(touches_left, -1)

    def count_down(event, arguments):
        if (event == "open" or event.startswith("os.")) and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count_down)
    registry.publish(staging, bundle_id)
    registry.activate(bundle_id)
    registry.retain(2)
    os._exit(0)

for moment in itertools.count():
    child = os.fork() or publish(f"b{moment:04}", moment)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    current = registry.current()
    named = [current.bundle_id, current.previous] if current else []
    for bundle_id in {*named, *registry.bundle_ids()} - {""}:
        verify_files(registry.path_of(bundle_id), registry.manifest(bundle_id))
    if status == 0:
        break
    assert status == -signal.SIGKILL, status
assert current.bundle_id == f"b{moment:04}", "who comes through is the current one"
print("died", moment, "times")
"""


@pytest.mark.long
def test_wherever_a_publishing_process_is_killed_every_visible_bundle_is_whole(
    launch: Any, own_registry: Registry, bundle_folder: Path
) -> None:
    run = launch.command("publish", "-c", DIE_EVERYWHERE, str(own_registry.root), str(bundle_folder))
    assert run.process.wait(300) == 0, run.text
    deaths = int(run.text.split()[1])
    assert deaths > 40  # each file is touched more than once
    assert len(leftovers(own_registry)) <= 1  # of the last death: those before were cleaned up


HEADER = "user_id,item_id,timestamp,event_type\n"
EVENTS = HEADER + "".join(f"u{n % 9},i{n % 7},{1_700_000_000_000 + n * 60_000},click\n" for n in range(90))
BAD_TABLES: dict[str, tuple[dict[str, str], str]] = {
    "no folder": ({}, "no such file or folder"),
    "no events": ({"items.csv": "item_id,title\ni1,One\n"}, "no events table"),
    "empty file": ({"events.csv": ""}, "events.csv: the file is empty"),
    "header alone": ({"events.csv": HEADER}, "events.csv: the table is empty"),
    "missing column": ({"events.csv": "user_id,timestamp,event_type\nu1,1,click\n"}, "events.csv: column 'item_id'"),
    "missing column of items": ({"events.csv": EVENTS, "items.csv": "name\nOne\n"}, "items.csv: column 'item_id'"),
    "no time that can be read": ({"events.csv": HEADER + "u1,i1,yesterday,click\n"}, "no usable event is left"),
    "not a Parquet file": ({"events.parquet": "no parquet"}, "events.parquet: not a readable Parquet file"),
    "not text": ({"events.csv": HEADER + "\udcff\udcfe,i1,1,click\n"}, "events.csv: not utf-8 text"),
    "one event": ({"events.csv": HEADER + "u1,i1,1700000000000,click\n"}, ""),
    "nothing but dislikes": ({"events.csv": EVENTS.replace("click", "dislike")}, ""),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_data_that_cannot_be_trained_on_is_one_clear_error_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    files, named = BAD_TABLES[case]
    folder, registry = tmp_path / "data", tmp_path / "registry"
    if files:
        folder.mkdir()
    for name, text in files.items():
        (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    result = CliRunner().invoke(app, ["train", "--data", str(folder), "--registry", str(registry)])
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if line.strip()]
    assert [line.startswith("error:") for line in errors] == [True]
    assert named in errors[0]
    assert not (registry / "bundles").exists()
    assert not (registry / "CURRENT").exists()
    assert leftovers(Registry(registry)) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("epoch = 3", "epoch"),
        ("[towers]\nepochs = 0", "towers.epochs"),
        ("[data]\nadapter = 'sinthetic'", "sinthetic"),
        ("[split]\nprotocol = 'by_the_moon'", "by_the_moon"),
        ("seed = ", "is not TOML"),
    ],
)
def test_a_wrong_training_config_is_one_clear_error_and_leaves_nothing(tmp_path: Path, text: str, named: str) -> None:
    config, registry = tmp_path / "train.toml", tmp_path / "registry"
    config.write_text(text)
    result = CliRunner().invoke(app, ["train", "--config", str(config), "--registry", str(registry)])
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if line.strip()]
    assert [line.startswith("error:") for line in errors] == [True]
    assert named in errors[0]
    assert not (registry / "bundles").exists()
    assert leftovers(Registry(registry)) == []
