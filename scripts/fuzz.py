#!/usr/bin/env python3
"""Does the server do what its description says, whatever it is asked?

    scripts/fuzz.py [--cases 300] [--chains 60] [--decoders 120] [--seed N]

Schemathesis makes requests of /openapi.json, right ones and wrong ones, and follows the links from one operation to the
next; a real server on a new database in a temporary directory answers, and every answer is held against the
description. With 300 cases for each operation that are about ten thousand requests, in five to ten minutes; then it
goes on along the links alone for as many seconds as `--chains` says.

Before that Hypothesis gives each of our decoders (tests/web/decoding.py) noise, documents and spoilt documents, for as
many seconds as `--decoders` says, of which each decoder gets its part: they may refuse, and nothing else. The exit
status is 1 if anything was wrong. With --cases 0 the decoders are all.
"""

import argparse
import sys
import time
import traceback
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
    parser.add_argument("--decoders", type=int, default=120, help="seconds for the decoders (120)")
    parser.add_argument("--seed", type=int, default=Random().randrange(2**32), help="of the random choices")
    asked = parser.parse_args()
    wrong = fuzz_decoders(asked.decoders, asked.seed)
    if not asked.cases:
        sys.exit(bool(wrong))
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
    sys.exit(bool(wrong or all_phases.returncode or chains.returncode))


def fuzz_decoders(seconds: float, chance: int) -> int:
    """How many of the decoders did what they must not."""
    from tests.web.decoding import DECODERS

    return sum([fuzz_decoder(name, seconds / len(DECODERS), chance) for name in DECODERS])


def fuzz_decoder(name: str, seconds: float, chance: int) -> bool:
    """Whether it did what it must not; it goes on until then, or until its time is over."""
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis import strategies as st

    from tests.web.decoding import DECODERS, FORMS, in_time

    taken = []

    def try_it(content: bytes) -> None:
        taken.append(in_time(DECODERS[name], content))

    content = st.sampled_from(sorted(FORMS)).flatmap(FORMS.__getitem__)
    options = settings(max_examples=200, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    until, fault = time.monotonic() + seconds, ""
    while time.monotonic() < until and not fault:
        try:
            seed(chance + len(taken))(options(given(content)(try_it)))()
        except Exception:
            fault = traceback.format_exc()
    slowest = 1000 * max(taken, default=0)
    print(f"{name:8} {len(taken):7} cases, the slowest took {slowest:.1f} ms: {fault or 'nothing wrong'}", flush=True)
    return bool(fault)


if __name__ == "__main__":
    main()
