"""Known holes and licences of all packages that run in production: what `make audit` does.

Exit 1 where a package has a known hole, or a licence that is refused or unknown. Holes are looked up by pip-audit;
where its service cannot be reached, that is said and is no failure. What only development installs is not looked at.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

OURS = "tandem-recommender"
RUNTIME = ("serving", "testing", "redis", "s3", "tracing")
TRAINER = ("training", "redis", "s3")
# Their terms would reach those who use or offer Tandem; LGPL is refused since pip cannot keep it apart.
REFUSED = re.compile(
    r"GPL|GNU (Lesser|General|Affero)|Affero|SSPL|BUSL|Business Source|Commons Clause|EUPL|CC-BY-(NC|SA)", re.I
)
KNOWN = re.compile(r"\bMIT\b|BSD|Apache|ISC|Python Software Foundation|PSF|Zlib|Unlicense|CC0|MPL|Mozilla Public", re.I)
# Packages whose metadata says nothing: read in the LICENSE that they bring.
READ = {"hnswlib": "Apache-2.0"}


def runtime_packages(extras: Sequence[str] = RUNTIME) -> list[str]:
    """Return the names of all installed packages that the extras need, directly or not; ours left out."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(f"{OURS}[{','.join(extras)}]")]
    while waiting:
        needed = waiting.pop()
        mark = (_normal(needed.name), frozenset(needed.extras))
        if mark in seen:
            continue
        seen.add(mark)
        waiting += _needs(needed)
    return sorted({name for name, _ in seen} - {OURS})


def _needs(package: Requirement) -> Iterator[Requirement]:
    for line in metadata.distribution(package.name).requires or ():
        needed = Requirement(line)
        environments = ({"extra": extra} for extra in ("", *package.extras))
        if needed.marker is None or any(needed.marker.evaluate(each) for each in environments):
            yield needed


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def licences(packages: Sequence[str]) -> dict[str, str]:
    """Return the licence of each package: what pip-licenses reads in its metadata, or what we read ourselves."""
    command = [_tool("pip-licenses"), "--python", sys.executable, "--format=json", "--from=all", "--with-system"]
    rows = json.loads(_run([*command, "--packages", *packages]).stdout)
    found = {}
    for row in rows:
        told = [row[key] for key in ("License-Expression", "License-Classifier", "License-Metadata") if row.get(key)]
        name = _normal(row["Name"])
        usable = [text.splitlines()[0][:80] for text in told if text != "UNKNOWN"]
        found[name] = usable[0] if usable else READ.get(name, "UNKNOWN")
    return found


def refusals(found: dict[str, str]) -> list[str]:
    """Return what may not be installed in production, and why. "A OR B": one that is known is enough."""
    said = []
    for name, licence in sorted(found.items()):
        choices = re.split(r"\bOR\b", licence)
        if not any(KNOWN.search(choice) and not REFUSED.search(choice) for choice in choices):
            said.append(f"{name}: {licence}")
    return said


def holes(packages: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return known holes, and the packages of which nothing could be learned."""
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "runtime.txt"
        pinned.write_text("".join(f"{name}=={metadata.version(name)}\n" for name in packages))
        command = [_tool("pip-audit"), "--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json"]
        done = _run([*command, "--timeout=10", "--requirement", str(pinned)])
    return read_report(done.stdout, packages)


def read_report(written: str, packages: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what pip-audit's JSON says, as `holes` does; nothing was learned of what it skips or leaves out."""
    try:
        report: dict[str, Any] = json.loads(written)
    except ValueError:  # it ends with a trace where its service is not reached
        return [], list(packages)
    looked_at = {_normal(each["name"]): each for each in report["dependencies"] if "skip_reason" not in each}
    found = [
        f"{name} {each['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version'}"
        for name, each in looked_at.items()
        for hole in each["vulns"]
    ]
    return found, [name for name in packages if name not in looked_at]


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (our own tools)


def main() -> int:
    packages = runtime_packages((*RUNTIME, *TRAINER))
    found = licences(packages)
    for name in packages:
        sys.stdout.write(f"{name:40} {metadata.version(name):16} {found[name]}\n")
    refused = refusals(found)
    sys.stdout.write(f"licences: {len(packages)} packages, refused or unknown: {refused or 'none'}\n")
    known, unknown = holes(packages)
    sys.stdout.write(f"known holes of {len(packages) - len(unknown)} packages: {known or 'none'}\n")
    if unknown:
        sys.stdout.write(f"COULD NOT LOOK: pip-audit's service said nothing of {', '.join(unknown)}\n")
    return 1 if refused or known else 0


if __name__ == "__main__":
    sys.exit(main())
