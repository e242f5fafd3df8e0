"""Fits on disk: whole or not there, and trusted only where they are what they must be."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tandem_trainer.config import TrainConfig
from tandem_trainer.data import Dataset
from tandem_trainer.quality.cache import Fit, FitCache
from tandem_trainer.quality.context import Context
from tandem_trainer.quality.protocols import make_cut
from tandem_trainer.quality.rows import ROWS
from tandem_trainer.quality.run import compare

KEY, OTHER = "a" * 64, "b" * 64
FIT = Fit({"weights": np.arange(1000.0), "empty": np.empty((0, 3), np.float32)}, {"epochs": 3.0}, 1.5)


@pytest.fixture
def cache(tmp_path: Path) -> FitCache:
    return FitCache(tmp_path)


def test_a_fit_comes_back_with_its_arrays_notes_and_cost(cache: FitCache) -> None:
    cache.store("row", KEY, FIT)
    found = cache.load("row", KEY)
    assert found is not None
    assert np.array_equal(found.arrays["weights"], FIT.arrays["weights"])
    assert found.arrays["empty"].shape == (0, 3)
    assert (found.notes, found.core_seconds) == (FIT.notes, FIT.core_seconds)
    assert cache.load("row", OTHER) is None


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_meta(path: Path) -> None:
    np.savez(path, weights=np.arange(3))


def pickled(path: Path) -> None:
    np.savez(path, weights=np.array([{"run": "me"}], object), allow_pickle=True)


def of_another_key(path: Path) -> None:
    other = FitCache(path.parent / "other")
    other.store("row", OTHER, FIT)
    shutil.copy(other.path("row", OTHER), path)


def other_arrays_under_the_right_key(path: Path) -> None:
    with np.load(path, allow_pickle=False) as stored:
        entries = dict(stored)
    np.savez(path, **(entries | {"weights": entries["weights"] + 1}))


@pytest.mark.parametrize(
    "damage",
    [cut_short, flip_a_bit, empty, no_meta, pickled, of_another_key, other_arrays_under_the_right_key],
)
def test_what_is_torn_or_foreign_is_not_trusted(cache: FitCache, damage: Callable[[Path], None]) -> None:
    cache.store("row", KEY, FIT)
    damage(cache.path("row", KEY))
    assert cache.load("row", KEY) is None
    cache.store("row", KEY, FIT)
    assert cache.load("row", KEY) is not None


KILLED_WHILE_WRITING = """
import os, sys, time
from pathlib import Path
import numpy as np
from tandem_trainer.quality.cache import Fit, FitCache
def stop(handle):
    print("written, not renamed", flush=True)
    time.sleep(600)
os.fsync = stop
FitCache(Path(sys.argv[1])).store("row", "a" * 64, Fit({"weights": np.arange(1e5)}))
"""

KILLED_BETWEEN_FITS = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from conftest import CONFIG
from tandem_trainer.inputs import load_data
from tandem_trainer.quality.cache import FitCache
from tandem_trainer.quality.context import Context
from tandem_trainer.quality.protocols import make_cut
from tandem_trainer.quality.rows import ROWS
from tandem_trainer.quality.run import compare
def stop(row):
    print(row.name, flush=True)
    if row.name == "als":
        time.sleep(600)
context = Context(make_cut("loo", load_data(CONFIG, None), CONFIG), CONFIG, ROWS, FitCache(Path(sys.argv[1])))
compare(context, ["popularity", "als", "tfidf_neighbours"], tell=stop)
"""


def kill_after(code: str, folder: Path, line: str) -> None:
    """Run the code until it prints the line, and kill it there."""
    command = [sys.executable, "-c", code, str(folder), str(Path(__file__).parent)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert any(said.strip() == line for said in process.stdout)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_a_process_killed_while_it_writes_leaves_no_fit_behind(cache: FitCache, tmp_path: Path) -> None:
    kill_after(KILLED_WHILE_WRITING, tmp_path, "written, not renamed")
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".tmp"
    assert cache.load("row", KEY) is None
    cache.store("row", KEY, FIT)
    assert cache.load("row", KEY) is not None
    os.utime(left, (0, 0))
    FitCache(tmp_path)  # days later
    assert not left.exists()


def test_a_killed_run_goes_on_where_it_stopped(
    cache: FitCache, tmp_path: Path, synthetic: Dataset, config: TrainConfig
) -> None:
    kill_after(KILLED_BETWEEN_FITS, tmp_path, "als")
    context = Context(make_cut("loo", synthetic, config), config, ROWS, cache)
    report = compare(context, ["popularity", "als", "tfidf_neighbours"])
    assert {row.name: row.cached for row in report.rows} == {
        "popularity": True,
        "als": True,
        "tfidf_neighbours": False,
    }
    fresh = compare(Context(context.cut, config, ROWS), ["popularity", "als", "tfidf_neighbours"])
    assert [row.figures for row in report.rows] == [row.figures for row in fresh.rows]


def test_the_key_holds_settings_data_cut_part_and_code(
    synthetic: Dataset, monkeypatch: pytest.MonkeyPatch, config: TrainConfig
) -> None:
    cut = make_cut("loo", synthetic, config)

    def key(name: str = "als", part: str = "train", **changes: object) -> str:
        context = Context(changes.get("cut", cut), changes.get("config", config), ROWS)  # type: ignore[arg-type]
        return context.key(name, part)  # type: ignore[arg-type]

    assert key() == key()
    stronger = config.model_copy(update={"als": config.als.model_copy(update={"factors": 32})})
    fewer = replace(synthetic, events=synthetic.events.iloc[1:])
    others = {
        key(part="train+validation"),
        key(config=stronger),
        key(cut=make_cut("loo", fewer, config)),
        key(cut=make_cut("strong", synthetic, config)),
        key(name="popularity"),
    }
    assert len(others | {key()}) == 6
    assert key("popularity") == key("popularity", config=stronger)  # settings of another row decide nothing
    before = key()
    monkeypatch.setattr(type(ROWS["als"]), "code", ("tandem_trainer.als", "tandem_trainer.content"))
    assert key() != before
