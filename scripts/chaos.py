#!/usr/bin/env python3
"""Does the server keep its promises when everything goes wrong?

    scripts/chaos.py [--minutes 1] [--faults kill,term,…] [--seed N] [--clients 16]

Many clients call a real server, on a new database in a temporary directory, while it is killed, told to stop, its disk
gets slow or full or fails, its clock is set and connections break. Every call and answer is written down with its
time, and held against the record: no task is missing, none is held by two at once or completed twice, no stale lease
is good for anything, the order is kept, the history has no gap, and in the end every task comes to its end. Nothing is
left behind. The last line tells the numbers; the exit status is 1 if anything was wrong.
"""

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path
from random import Random

PROJECT = Path(__file__).parents[1]
PYTHON = PROJECT / ".venv" / "bin" / "python"


def use_the_environment() -> None:
    """Go on in .venv, whoever has started us."""
    if Path(sys.prefix).resolve() != (PROJECT / ".venv").resolve():
        if not PYTHON.exists():
            sys.exit("there is no .venv yet: run scripts/setup dev")
        os.execv(PYTHON, [str(PYTHON), *sys.argv])


def arguments(known: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1, help="how long things go wrong; a fraction is allowed (1)")
    parser.add_argument("--faults", default=",".join(known), help=f"which ones, by commas ({','.join(known)})")
    parser.add_argument("--seed", type=int, default=Random().randrange(2**32), help="of the random choices")
    parser.add_argument("--clients", type=int, default=16, help="how many at a time (16)")
    asked = parser.parse_args()
    asked.faults = asked.faults.split(",")
    if unknown := set(asked.faults) - set(known):
        parser.error(f"--faults: there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return asked


def main() -> None:
    use_the_environment()
    sys.path.insert(0, str(PROJECT))
    from tests.faults.room import with_own_mounts
    from tests.faults.weather import FAULTS

    asked = arguments(FAULTS)
    if "disk-full" in asked.faults:
        with_own_mounts()
    sys.exit(asyncio.run(wreak(asked)))


async def wreak(asked: argparse.Namespace) -> int:
    """The exit status. SIGTERM ends it as Ctrl-C does: the server and the files go."""
    from tests.faults import chaos

    def report(text: str) -> None:
        print(text, flush=True)

    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    line, findings = await chaos.wreak(60 * asked.minutes, asked.faults, asked.seed, asked.clients, report)
    report(line)
    return 1 if findings else 0


if __name__ == "__main__":
    main()
