#!/usr/bin/env python3
"""Does the server hold on to anything, if it works for long?

    scripts/soak.py [--minutes 30]

A real server with its default settings, on a new database in a temporary directory, is under a constant load of about
a third of what it can do: tasks are created, claimed by calls and streams, renewed, completed and deleted. Every
minute a line tells its memory, descriptors, the size of its write-ahead log, and how long calls take; the last line
tells how the memory grew over the second half, by least squares.
"""

import argparse
import asyncio
import signal
import sys

from chaos import PROJECT, use_the_environment


async def run(seconds: float) -> None:
    """SIGTERM ends it as Ctrl-C does: the server and the files go."""
    from tests.faults.soak import soak

    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    await soak(seconds, lambda line: print(line, flush=True))


def main() -> None:
    use_the_environment()
    sys.path.insert(0, str(PROJECT))
    import uvloop  # the load must not be slower than the server

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="how long; a fraction is allowed (30)")
    minutes = parser.parse_args().minutes
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(60 * minutes))


if __name__ == "__main__":
    main()
