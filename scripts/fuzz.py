#!/usr/bin/env python3
"""Does the server do what its description says, whatever it is asked?

    scripts/fuzz.py [--cases 300] [--chains 60] [--seed N]

Schemathesis makes requests of /openapi.json, right ones and wrong ones, and follows the links from one operation to the
next; a real server on a new database in a temporary directory answers, and every answer is held against the
description. With 300 cases for each operation that are about ten thousand requests, in five to ten minutes; then it
goes on along the links alone for as many seconds as `--chains` says. The exit status is 1 if anything was wrong.
"""

import argparse
import sys
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from chaos import PROJECT, use_the_environment

KEY = "a-key-for-this-run-only"
SECONDS_MAX = 3600


def main() -> None:
    use_the_environment()
    sys.path.insert(0, str(PROJECT))
    from tests.conftest import ServerProcess
    from tests.web.fuzzing import fuzz

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300, help="at most so many for each operation and phase (300)")
    parser.add_argument("--chains", type=int, default=60, help="seconds for more chains of operations (60; at least 1)")
    parser.add_argument("--seed", type=int, default=Random().randrange(2**32), help="of the random choices")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        workspace = Path(folder) / "fuzz"
        workspace.mkdir()
        server = ServerProcess(Path(folder), environ={"API_SECRET_KEY": KEY, "LOG_LEVEL": "error"}).start()
        try:
            options = [f"--seed={asked.seed}", f"--max-examples={asked.cases}"]
            all_phases = fuzz(server.url, KEY, workspace, *options, seconds=SECONDS_MAX)
            options += ["--phases=stateful", f"--max-time={asked.chains}"]
            chains = fuzz(server.url, KEY, workspace, *options, seconds=SECONDS_MAX)
        finally:
            server.terminate()
        print(all_phases.stdout, chains.stdout, sep="\n")
        print(server.log.read_text(), file=sys.stderr)
    sys.exit(all_phases.returncode or chains.returncode)


if __name__ == "__main__":
    main()
