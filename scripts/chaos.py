#!/usr/bin/env python3
"""Does the server keep its promises when everything goes wrong?

    scripts/chaos.py [--minutes 1] [--faults kill,term,…] [--seed N] [--clients 16]
    scripts/chaos.py --database postgres [--instances 3] …

Many clients call a real server, on a new database in a temporary directory, while it is killed, told to stop, its disk
gets slow or full or fails, its clock is set and connections break. Every call and answer is written down with its
time, and held against the record: no task is missing, none is held by two at once or completed twice, no stale lease
is good for anything, the order is kept, the history has no gap, and in the end every task comes to its end. Nothing is
left behind. The last line tells the numbers; the exit status is 1 if anything was wrong.

With PostgreSQL there are several servers on one database, which has a standby. They are killed, stopped and paused, the
database is restarted, crashes, throws them out, is taken over by its standby, has no connections left and stands
still, the network between is cut, reset, slow. Moreover limits hold over all servers, readers of the feed and the
webhook hear everything, and after each fault all servers work again within 30 s: the line before the last tells the
longest time.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

PROJECT = Path(__file__).parents[1]
PYTHON = PROJECT / ".venv" / "bin" / "python"


def use_the_environment() -> None:
    """Go on in .venv, whoever has started us."""
    if Path(sys.prefix).resolve() != (PROJECT / ".venv").resolve():
        if not PYTHON.exists():
            sys.exit("there is no .venv yet: run scripts/setup dev")
        os.execv(PYTHON, [str(PYTHON), *sys.argv])


def arguments(known: Mapping[str, Sequence[str]]) -> argparse.Namespace:
    """`known`: which faults there are with each database."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1, help="how long things go wrong; a fraction is allowed (1)")
    all_of_them = "; ".join(f"{database}: {','.join(faults)}" for database, faults in known.items())
    parser.add_argument("--faults", help=f"which ones, by commas; all that there are ({all_of_them})")
    parser.add_argument("--database", choices=tuple(known), default="sqlite")
    parser.add_argument("--instances", type=int, default=3, help="how many servers share PostgreSQL (3)")
    parser.add_argument("--seed", type=int, default=Random().randrange(2**32), help="of the random choices")
    parser.add_argument("--clients", type=int, default=16, help="how many at a time (16)")
    parser.add_argument(
        "--keep", type=Path, help="an empty directory for the servers' logs and the record of all calls"
    )
    asked = parser.parse_args()
    there = known[asked.database]
    asked.faults = asked.faults.split(",") if asked.faults else list(there)
    if unknown := set(asked.faults) - set(there):
        parser.error(f"--faults: there is no {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    return asked


def main() -> None:
    use_the_environment()
    sys.path.insert(0, str(PROJECT))
    from tests.faults.gales import GALES
    from tests.faults.room import with_own_mounts
    from tests.faults.weather import FAULTS

    asked = arguments({"sqlite": FAULTS, "postgres": tuple(GALES)})
    if "disk-full" in asked.faults:
        with_own_mounts()
    sys.exit(asyncio.run(wreak(asked)))


async def wreak(asked: argparse.Namespace) -> int:
    """The exit status. SIGTERM ends it as Ctrl-C does: the server and the files go."""
    from tests.faults import chaos, scene

    def report(text: str) -> None:
        print(text, flush=True)

    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    with nullcontext(asked.keep) if asked.keep else TemporaryDirectory(prefix="chaos-") as workspace:
        some = (60 * asked.minutes, asked.faults, asked.seed, asked.clients, Path(workspace), report)
        several = asked.database == "postgres"
        line, findings = await (scene.wreak(*some, asked.instances) if several else chaos.wreak(*some))
    report(line)
    return 1 if findings else 0


if __name__ == "__main__":
    main()
