import os
import signal
import sys
from typing import NoReturn


def main() -> None:
    """The entry point of `task-orchestrator` and of `python -m task_orchestrator`."""
    if sys.argv[1:2] == ["hook"] and not {"-h", "--help"} & set(sys.argv):
        from task_orchestrator.hook.command import quick

        return quick(sys.argv[2:])
    if sys.argv[1:2] == ["mcp"]:  # its client may think better of it while we start
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
    from task_orchestrator import cli

    cli.main()


def _leave(number: int, frame: object) -> NoReturn:
    os._exit(0)


if __name__ == "__main__":
    main()
