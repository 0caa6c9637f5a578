import sys


def main() -> None:
    """The entry point of `task-orchestrator` and of `python -m task_orchestrator`."""
    if sys.argv[1:2] == ["hook"] and not {"-h", "--help"} & set(sys.argv):
        from task_orchestrator.hook.command import quick

        return quick(sys.argv[2:])
    from task_orchestrator import cli

    cli.main()


if __name__ == "__main__":
    main()
