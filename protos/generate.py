"""Generate the Python code of every proto into shared/tandem; with --check, only say whether it is up to date."""

from __future__ import annotations

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
TARGET = PROTOS.parent / "shared"


def generate(into: Path) -> None:
    """Write modules and type stubs for all protos below `into`/tandem, with a package file in each folder."""
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("tandem/**/*.proto"))
    include = Path(protoc.__file__).parent / "_proto"
    kinds = {"python": "", "grpc_python": "", "mypy": "quiet:", "mypy_grpc": "quiet:"}
    outputs = [f"--{kind}_out={options}{into}" for kind, options in kinds.items()]
    # The plugins stand beside this interpreter, which need not be on PATH.
    outputs += [f"--plugin={name}={Path(sys.executable).parent / name}" for name in PLUGINS]
    if protoc.main(["protoc", f"-I{PROTOS}", f"-I{include}", *outputs, *files]) != 0:
        raise SystemExit("protoc refused the protos above")
    for folder in {into / "tandem", *(path.parent for path in (into / "tandem").glob("**/*_pb2.py"))}:
        for package in (folder, *folder.parents):
            if package == into:
                break
            (package / "__init__.py").write_text('"""Generated from protos/, never edited: see `make protos`."""\n')
    (into / "tandem" / "py.typed").touch()


def differences(left: Path, right: Path) -> list[str]:
    """Names of generated files that differ between two trees, or that only one of them has."""
    names = {
        path.relative_to(root)
        for root in (left, right)
        for path in root.glob("tandem/**/*")
        if path.is_file() and path.suffix != ".pyc"
    }
    return sorted(
        str(name)
        for name in names
        if not ((left / name).exists() and (right / name).exists())
        or not filecmp.cmp(left / name, right / name, shallow=False)
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        if "--check" in sys.argv[1:]:
            if stale := differences(Path(scratch), TARGET):
                raise SystemExit("generated code is not up to date, run `make protos`: " + ", ".join(stale))
            print("generated code is up to date")
            return
        shutil.rmtree(TARGET / "tandem", ignore_errors=True)
        shutil.copytree(Path(scratch) / "tandem", TARGET / "tandem")


if __name__ == "__main__":
    main()
