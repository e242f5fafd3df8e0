"""python -m tandem_testing --port P --script FILE: stubs of all services on one port, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tandem_testing.running import serve
from tandem_testing.script_file import ScriptError, load_script, stub_set


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve stubs; prints one line of JSON when they listen. Returns the exit code: 2 where they cannot."""
    parser = argparse.ArgumentParser(prog="python -m tandem_testing", description=__doc__)
    parser.add_argument("--port", type=int, default=50052, help="0 takes a free one, which is printed")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--script", type=Path, help="TOML; tandem_testing/script_file.py says what may stand in it")
    given = parser.parse_args(arguments)
    return run(given.host, given.port, given.script)


def run(host: str, port: int, script: Path | None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code: 0, or 2 with one clear line on stderr."""
    # Blocked before any thread is started, so that no thread gets them and sigwait does.
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        stubs = stub_set() if script is None else load_script(script)
        with serve(*stubs.all, host=host, port=port) as running:
            if stubs.flap_health_s:
                running.flap_health(stubs.flap_health_s)
            line = {"event": "listening", "address": running.address, "port": running.port}
            sys.stdout.write(json.dumps({**line, "services": running.services}) + "\n")
            sys.stdout.flush()
            signal.sigwait(ending)
    except (ScriptError, RuntimeError) as error:  # RuntimeError: grpc could not bind
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
