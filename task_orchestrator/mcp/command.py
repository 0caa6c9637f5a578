"""The command: standard input and output, and the signals that end it."""

import signal
from asyncio import FIRST_COMPLETED, Event, create_task, get_running_loop, wait
from os import getppid
from socket import gethostname
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from task_orchestrator.connection import Connection
from task_orchestrator.display import complain, refuse_usage

if TYPE_CHECKING:
    from task_orchestrator.mcp.forwarding import Forwarder

Agent = Annotated[str | None, Parameter(env_var="TASK_ORCHESTRATOR_WORKER_ID")]

WORKER_ID_CHARACTERS_MAX = 100
_INPUT, _OUTPUT = 0, 1


async def mcp(*, worker_id: Agent = None, connection: Connection = Connection()) -> None:  # noqa: B008
    """Speak MCP over standard input and output: the server's tools, for clients that want a command.

    Started by the client, not by hand: each line is a JSON-RPC message. It ends with its input.

    Parameters
    ----------
    worker_id
        Under which name the agent claims tasks; if nothing is said, made of the host and the process that has started
        this one, so that an agent that starts it again is still the same one.
    """
    from task_orchestrator.mcp.forwarding import LAST_SECONDS, REQUESTS_MAX, Forwarder
    from task_orchestrator.mcp.pipes import Out

    agent = _checked(worker_id) if worker_id is not None else f"{gethostname()[:80]}-{getppid()}"
    async with connection.open(connections_max=2 * REQUESTS_MAX) as client:
        asked = Event()
        out = Out(_OUTPUT, asked.set)
        forwarder = Forwarder(client, agent, out.say, complain)
        for number in (signal.SIGTERM, signal.SIGINT):
            get_running_loop().add_signal_handler(number, asked.set)
        listening, stopping = create_task(_listen(forwarder)), create_task(asked.wait())
        await wait({listening, stopping}, return_when=FIRST_COMPLETED)
        for task in (listening, stopping):
            task.cancel()
        await forwarder.finish(0 if asked.is_set() else LAST_SECONDS)
        await out.close(LAST_SECONDS)


async def _listen(forwarder: "Forwarder") -> None:
    from task_orchestrator.mcp.pipes import lines

    async for line in lines(_INPUT):
        await forwarder.take(line)


def _checked(worker_id: str) -> str:
    if not (worker_id.isascii() and worker_id.isprintable() and worker_id == worker_id.strip() != ""):
        refuse_usage("--worker-id must be printable ASCII, without blanks at its ends")
    if len(worker_id) > WORKER_ID_CHARACTERS_MAX:
        refuse_usage(f"--worker-id must have at most {WORKER_ID_CHARACTERS_MAX} characters")
    return worker_id
