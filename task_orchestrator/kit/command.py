"""The commands: show what would change, ask, and write it."""

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import frozen
from cyclopts import App, Parameter

from task_orchestrator.connection import Flag
from task_orchestrator.display import complain, refuse_usage, say, say_json
from task_orchestrator.kit import claude_code, codex
from task_orchestrator.kit.parts import Change, Part, Unfit, changes
from task_orchestrator.kit.writing import write
from task_orchestrator.submit import absolute

UNWRITTEN = 1
_URL = re.compile(r"https?://[\w.:\[\]-]+(/[\w./~-]*)?", re.ASCII)

app = App(name="kit", help="Let Claude Code or Codex work with the queue: write what they need into a project.")


@Parameter(name="*")
@frozen
class Wishes:
    """What is to be done to a project.

    Parameters
    ----------
    work_directory
        The project, and the work directory whose tasks are meant.
    remove
        Take away exactly what was written.
    yes
        Do not ask; without it, and without a terminal, only the differences are shown.
    url
        The server's address, where TASK_ORCHESTRATOR_URL says nothing; http://127.0.0.1:8080 if nothing is said.
    json
        Print what changes as JSON; nothing is asked.
    """

    work_directory: str
    remove: Flag = False
    yes: Flag = False
    url: str | None = None
    json: Flag = False


@app.command(name="claude-code")
def for_claude_code(*, wishes: Wishes) -> int:
    """Write .mcp.json, a skill with the work loop, and a hook that renews leases; what is there already stays.

    Exits 1 if something was to be changed and was not.
    """
    return _carry_out(wishes, claude_code.parts, claude_code.AFTERWARDS)


@app.command(name="codex")
def for_codex(*, wishes: Wishes) -> int:
    """Write .codex/config.toml, .codex/hooks.json and a section of AGENTS.md; what is there already stays.

    Exits 1 if something was to be changed and was not.
    """
    return _carry_out(wishes, codex.parts, codex.AFTERWARDS)


def _carry_out(
    wishes: Wishes, parts: Callable[[Path, Sequence[str], str | None], Sequence[Part]], afterwards: str
) -> int:
    directory = Path(absolute(wishes.work_directory))
    if not directory.is_dir():
        refuse_usage(f"{directory}: there is no such directory")
    if wishes.url is not None and not _URL.fullmatch(wishes.url):
        refuse_usage(f"not the address of a server, without user and password: {wishes.url!r}")
    try:
        found = list(changes(directory, parts(directory, _program(), wishes.url), wishes.remove))
        if not wishes.json:
            _show(found, wishes.remove)
        agreed = bool(found) and (wishes.yes or _is_agreed(wishes.json))
        if agreed:
            write(directory, found)
    except Unfit as reason:
        complain(f"nothing was changed: {reason}")
        return UNWRITTEN
    if wishes.json:
        files = [{"path": str(it.path), "change": it.kind, "diff": it.diff()} for it in found]
        say_json({"files": files, "written": agreed})
    elif agreed:
        say("Taken away." if wishes.remove else f"Written. {afterwards}")
    return 0 if agreed or not found else UNWRITTEN


def _show(found: Sequence[Change], remove: bool) -> None:
    if found:
        say("".join(it.diff() for it in found).removesuffix("\n"))
    else:
        say("There is nothing of it to take away." if remove else "Everything is there already.")


def _is_agreed(json: bool) -> bool:
    if json or not sys.stdin.isatty():
        complain("nothing was changed: say --yes")
        return False
    print("Change these files? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    complain("nothing was changed")
    return False


def _program() -> list[str]:
    """How others start us: by name where that leads here, or else by our path."""
    name = "task-orchestrator"
    if shutil.which(name):
        return [name]
    beside = Path(sys.executable).parent / name
    return [str(beside)] if beside.exists() else [sys.executable, "-m", "task_orchestrator"]
