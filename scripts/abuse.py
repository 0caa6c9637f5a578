#!/usr/bin/env python3
"""How is a server while it is attacked?

    scripts/abuse.py [--hardness 3] [--only NAME ...]

The attacks of tests/web/abuse.py and tests/mcp/abuse.py, one after the other, on a real server in a temporary
directory. Meanwhile an honest client asks /health over a connection of its own: at least half of its answers must take
less than 100 ms, and none may fail. The server's memory is told too. The exit status is 1 if it was any worse, or if an
attack was answered wrongly.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from chaos import PROJECT, use_the_environment

MEDIAN_MS_MAX = 100
GROWTH_BYTES_MAX = 512 * 2**20


def main() -> None:
    use_the_environment()
    sys.path.insert(0, str(PROJECT))
    from tests.conftest import ServerProcess
    from tests.mcp.abuse import ATTACKS as MCP_ATTACKS
    from tests.web.abuse import ATTACKS, ENVIRON, about, launch
    from tests.web.honest import watching

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hardness", type=int, default=3, help="of each attack; 1 as in the tests (3)")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these attacks alone")
    asked = parser.parse_args()
    wrong = []
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder), environ=ENVIRON).start()
        try:
            with watching(server.pid, server.port) as quiet:
                asyncio.run(asyncio.sleep(3))
            print(f"{'(nobody)':24}{quiet}", flush=True)
            begun_with = quiet.memory_after
            for attack in (*ATTACKS, *MCP_ATTACKS):
                if asked.only and attack.__name__ not in asked.only:
                    continue
                fault = ""
                with watching(server.pid, server.port) as figures:
                    try:
                        asyncio.run(launch(attack, server.port, asked.hardness))
                    except (AssertionError, TimeoutError, ConnectionError) as error:
                        fault = f"{type(error).__name__}: {error}"
                if figures.failed or figures.median_ms > MEDIAN_MS_MAX:
                    fault += " health was not well"
                if figures.memory_peak - begun_with > GROWTH_BYTES_MAX:
                    fault += " it took too much memory"
                wrong += [fault] if fault else []
                print(f"{about(attack):24}{figures}{' WRONG ' if fault else ''}{fault[:300]}", flush=True)
        finally:
            server.terminate()
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
