"""Checks of the machine: Python, packages, threads, processors, limits, clock."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from tandem_cli.doctor_findings import Finding, bad, doubtful, good

AREA = "machine"
_DISTRIBUTION = "tandem-recommender"
_OLDEST_PYTHON = (3, 11)
_FEW_FILES = 1024  # each connection is one, and a service under load has hundreds
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_YEAR_2025_S = 1_735_689_600


def machine(extras: Sequence[str], workers: int) -> Iterator[Finding]:
    """Yield what was found. extras: of our own install, whose packages are needed. workers: of all services here."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _OLDEST_PYTHON:
        yield bad(AREA, "python", f"Python {version} is too old", "install Python 3.11 or newer")
    else:
        yield good(AREA, "python", f"Python {version}")
    yield packages(extras)
    yield _threads()
    yield _processors(workers)
    yield _open_files()
    yield _clock()


def packages(extras: Sequence[str]) -> Finding:
    """Compare what is installed with what our own package asks for."""
    from packaging.requirements import Requirement  # noqa: PLC0415

    try:
        ours = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return bad(AREA, "packages", f"{_DISTRIBUTION} is not installed", f"pip install '{_DISTRIBUTION}[serving]'")
    wrong = []
    for line in ours.requires or ():
        needed = Requirement(line)
        if needed.marker is not None and not any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        try:
            found = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
        else:
            if not needed.specifier.contains(found, prereleases=True):
                wrong.append(f"{needed.name} is {found}, needed is {needed.specifier}")
    if wrong:
        return bad(AREA, "packages", "; ".join(wrong), f"pip install '{_DISTRIBUTION}[{','.join(extras)}]'")
    return good(AREA, "packages", f"{_DISTRIBUTION} {ours.version} with all that {', '.join(extras)} needs")


def _threads() -> Finding:
    many = [f"{name}={value}" for name in _THREADS if (value := os.environ.get(name, "1")) != "1"]
    if many:
        says = f"{', '.join(many)}: native threads of one request fight with other requests"
        return doubtful(AREA, "threads", says, "unset them; the services set them to 1 for themselves")
    return good(AREA, "threads", "one native thread per library")


def _processors(workers: int) -> Finding:
    usable = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    limit = _cgroup_limit(Path("/sys/fs/cgroup/cpu.max"))
    usable = min(usable, limit)
    if workers > max(1.0, usable):
        says = f"{workers} workers are configured for {usable:g} processors"
        return doubtful(AREA, "processors", says, "set workers so that all services together have one each")
    return good(AREA, "processors", f"{usable:g} processors, {workers} workers configured")


def _cgroup_limit(path: Path) -> float:
    try:
        quota, period = path.read_text().split()
    except (OSError, ValueError):
        return float("inf")  # no cgroup, or one of another kind
    return float("inf") if quota == "max" else int(quota) / int(period)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FEW_FILES:
        says = f"a process may open {soft} files, and each connection is one"
        return doubtful(AREA, "open files", says, f"ulimit -n 4096 (up to {hard} without root)")
    return good(AREA, "open files", "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft}")


def _clock() -> Finding:
    now_s = time.time()
    told = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if now_s < _YEAR_2025_S:
        return bad(AREA, "clock", f"the clock says {told}", "set it (NTP): ages of events and certificates need it")
    return good(AREA, "clock", told)
