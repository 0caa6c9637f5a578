"""`task-orchestrator demo`: a server with a database of its own, two workers, and real tasks about a real folder."""

import os
import signal
import sys
from asyncio import CancelledError, create_subprocess_exec, create_task, get_running_loop, sleep, timeout, wait_for
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory
from typing import Any

from attrs import define, field, frozen

from task_orchestrator.client import Client
from task_orchestrator.connection import Flag
from task_orchestrator.display import FINAL, complain, refuse_usage, say, say_json, seconds_between, show_table

START_SECONDS = 30
RUN_SECONDS = 300
STOP_SECONDS = 20
TASK_SECONDS = 60
STEP_SECONDS = 0.2
GREETING = "Task Orchestrator is listening on "
RANKS = {"high": 0, "medium": 1, "low": 2}
# What would change the server that is to be shown, or show us another one.
_FOREIGN = ("APP_", "SERVER_", "LOG_", "DATABASE_URL", "API_SECRET_KEY", "ENABLE_CORS", "TASK_ORCHESTRATOR_")


@frozen
class Chore:
    """A task of the demonstration: what it is called, how urgent it is, and the script that does it."""

    title: str
    priority: str
    script: str


FILES = "find . -name '.?*' -prune -o -name node_modules -prune -o -type f"
CHORES = (
    Chore("the largest files", "low", f"{FILES} -size +0 -exec du -k {{}} + | sort -rn | head -5"),
    Chore("files by kind", "medium", f"{FILES} -print | sed -n 's/.*\\.//p' | sort | uniq -c | sort -rn | head -5"),
    Chore("how many commits", "high", "git log --oneline 2>/dev/null | wc -l"),
    Chore("lines of code", "medium", f"{FILES} -name '*.py' -exec cat {{}} + | wc -l"),
    Chore("left to do", "low", f"{FILES} -exec grep -IE 'TODO|FIXME' {{}} + | wc -l"),
    Chore("the latest commits", "high", "git log -3 --format='%h %s' 2>/dev/null || echo 'not a git repository'"),
    Chore("how many files", "high", f"{FILES} -print | wc -l"),
    Chore("the newest files", "low", "ls -t | head -5"),
)


@define
class Outcome:
    """A chore's task as it was submitted, then as it ended, with its history."""

    chore: Chore
    task: dict[str, Any]
    history: list[dict[str, Any]] = field(factory=list)

    def seqs(self, kind: str) -> list[int]:
        """The event numbers of the history's entries of one type, such as `claimed`."""
        return [entry["seq"] for entry in self.history if entry["type"].removeprefix("task.") == kind]


async def demo(directory: Path | None = None, /, *, json: Flag = False) -> int:
    """Start a server and two workers, have them do real tasks about a folder, and check what was recorded.

    Exits 0 only if every task was claimed and completed exactly once, in the order of their priorities.
    Nothing is left behind.

    Parameters
    ----------
    directory
        The folder; if nothing is said, the git repository we are in, or else the one of this program.
    json
        Print only the outcome, as one JSON document.
    """
    folder, why = _folder(directory)
    if not folder.is_dir():
        refuse_usage(f"no such directory: {folder}")
    if not json:
        say(f"The demonstration works on {folder}, {why}. Its tasks only read.")
        sys.stdout.flush()
    showing = create_task(_demo(folder, json))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Only the first counts, or else the second would interrupt the cleaning up.
        get_running_loop().add_signal_handler(number, lambda: showing.cancelling() or showing.cancel())
    try:
        return await showing
    except CancelledError:
        return 130


async def _demo(folder: Path, json: bool) -> int:
    with TemporaryDirectory(prefix="task-orchestrator-demo-") as scratch:
        try:
            outcomes = await _show(folder, Path(scratch), quiet=json)
        except (RuntimeError, TimeoutError) as error:
            complain(f"the demonstration failed: {error or 'it took too long'}")
            return 1
    problems = verify(outcomes)
    if json:
        tasks = [{"title": outcome.chore.title, **outcome.task} for outcome in outcomes]
        say_json({"work_directory": str(folder), "ok": not problems, "problems": problems, "tasks": tasks})
    else:
        _summarise(outcomes, problems)
    return 1 if problems else 0


async def _show(folder: Path, scratch: Path, quiet: bool) -> list[Outcome]:
    async with AsyncExitStack() as stack:
        database = f"sqlite:///{scratch}/tasks.db"
        serve = ("serve", "--host", "127.0.0.1", "--port", "0", "--database", database)
        log = scratch / "server.log"
        url = await _address(await stack.enter_async_context(_process(serve, log)), log)
        client = await stack.enter_async_context(Client(url))
        outcomes = [await _submit(client, chore, folder) for chore in CHORES]
        if not quiet:
            say(f"{GREETING}{url}; {len(outcomes)} tasks for two workers\n")
        workers = {}
        for name in ("ann", "bob"):
            work = ("worker", "--url", url, "--work-directory", str(folder), "--exec", "sh", "--worker-id", name)
            log = scratch / f"{name}.log"
            workers[log] = await stack.enter_async_context(_process(work, log))
        async with timeout(RUN_SECONDS):
            await _follow(client, outcomes, workers, quiet)
        for outcome in outcomes:
            outcome.history = await client.history(outcome.task["task_id"])
        return outcomes


@asynccontextmanager
async def _process(arguments: Sequence[str], log: Path) -> AsyncIterator[Process]:
    """One of our own commands, ended when left. In a session of its own: Ctrl-C is for us to pass on."""
    with log.open("wb") as output:
        process = await create_subprocess_exec(
            *(sys.executable, "-m", "task_orchestrator", *arguments),
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
            env=_environment(os.environ),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            await wait_for(process.wait(), STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in ours.items() if not name.startswith(_FOREIGN)}


async def _address(server: Process, log: Path) -> str:
    async with timeout(START_SECONDS):
        while server.returncode is None:
            if address := _announced(log):
                return address
            await sleep(STEP_SECONDS)
    raise RuntimeError(f"the server did not start\n{_end_of(log)}")


def _announced(log: Path) -> str | None:
    whole_lines = log.read_text(errors="replace").rpartition("\n")[0].splitlines()
    return next((line.removeprefix(GREETING) for line in whole_lines if line.startswith(GREETING)), None)


async def _submit(client: Client, chore: Chore, folder: Path) -> Outcome:
    task = await client.submit(
        chore.script,
        work_directory=str(folder),
        priority=chore.priority,
        timeout_seconds=TASK_SECONDS,
        metadata={"title": chore.title},
    )
    return Outcome(chore, task)


async def _follow(client: Client, outcomes: Sequence[Outcome], workers: Mapping[Path, Process], quiet: bool) -> None:
    """Until every task is final, tell each step that one of them takes. Raises RuntimeError if a worker ends."""
    open_ = {outcome.task["task_id"]: outcome for outcome in outcomes}
    while open_:
        for log, worker in workers.items():
            if worker.returncode is not None:
                raise RuntimeError(f"a worker ended\n{_end_of(log)}")
        page = await client.list(limit=len(outcomes))
        for task in sorted(page["tasks"], key=lambda task: task["updated_at"]):
            outcome = open_.get(task["task_id"])
            if outcome is None or task["status"] == outcome.task["status"]:
                continue
            if not quiet:
                say(f"{task['updated_at']}  {task['status']:<10} {outcome.chore.priority:<7} {outcome.chore.title}")
            outcome.task = task
            if task["status"] in FINAL:
                del open_[task["task_id"]]
        await sleep(STEP_SECONDS)


def verify(outcomes: Sequence[Outcome]) -> list[str]:
    """What the record says against "exactly once, in order of priority"; nothing if it bears that out."""
    problems = []
    for outcome in outcomes:
        for kind in ("claimed", "completed"):
            if (times := len(outcome.seqs(kind))) != 1:
                problems.append(f"{outcome.chore.title}: {kind} {times} times")
    claimed = sorted((outcome for outcome in outcomes if outcome.seqs("claimed")), key=lambda o: o.seqs("claimed"))
    if claimed != sorted(claimed, key=lambda o: (RANKS[o.chore.priority], outcomes.index(o))):
        problems.append("claimed out of order: " + ", ".join(outcome.chore.title for outcome in claimed))
    return problems


def _summarise(outcomes: Sequence[Outcome], problems: Sequence[str]) -> None:
    for outcome in outcomes:
        text = (outcome.task.get("result") or {}).get("output") or outcome.task.get("error_message") or ""
        say(f"\n{outcome.chore.title}: {outcome.chore.script}\n{text.rstrip()}")
    say()
    heads = ["task", "priority", "worker", "status", "waited s", "ran s"]
    rows = [[o.chore.title, o.chore.priority, _claimant(o), o.task["status"], *_times(o.task)] for o in outcomes]
    if not sys.stdout.isatty():
        say("\t".join(heads))
    show_table(heads, rows, [outcome.task["status"] for outcome in outcomes])
    say()
    for problem in problems:
        say(problem)
    if not problems:
        say(f"{len(outcomes)} tasks, each claimed and completed exactly once, high before medium before low.")


def _claimant(outcome: Outcome) -> str:
    claims = set(outcome.seqs("claimed"))
    return ", ".join(entry["worker_id"] for entry in outcome.history if entry["seq"] in claims)


def _times(task: Mapping[str, Any]) -> list[str]:
    waited = seconds_between(task["created_at"], task.get("started_at"))
    ran = seconds_between(task.get("started_at"), task.get("completed_at"))
    return ["" if seconds is None else f"{seconds:.2f}" for seconds in (waited, ran)]


def _folder(directory: Path | None) -> tuple[Path, str]:
    """As given; else the git repository around us, or around this package, or just where we are; and which of them."""
    if directory is not None:
        return Path(os.path.abspath(directory)), "as you said"
    here, package = Path.cwd(), Path(__file__).parent
    if around := _repository(here):
        return around, "the git repository we are in"
    if around := _repository(package):
        return around, "the repository of this program, as we are in none"
    return here, "where we are, as there is no git repository"


def _repository(inside: Path) -> Path | None:
    with suppress(OSError):  # no git
        command = ["git", "rev-parse", "--show-toplevel"]
        found = run(command, cwd=inside, capture_output=True, text=True, check=False)
        return Path(found.stdout.strip()) if found.returncode == 0 else None
    return None


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].rstrip()
