"""Talk to a Task Orchestrator server: submit tasks, claim them, report what came of them.

async with Client("http://127.0.0.1:8080") as client:
    task = await client.submit("Fix the failing test", work_directory="/srv/app")
    done = await client.get(task["task_id"], wait_seconds=60, until="terminal")
"""

from typing import TYPE_CHECKING, Any

from task_orchestrator.errors import OrchestratorError, Refused, Unreachable

if TYPE_CHECKING:
    from task_orchestrator.client import Client
    from task_orchestrator.worker import Worker

__version__ = "0.1.0"
__all__ = ["Client", "OrchestratorError", "Refused", "Unreachable", "Worker", "__version__"]


def __getattr__(name: str) -> Any:
    # aiohttp takes a sixth of a second to import, which `--help` need not pay.
    if name == "Client":
        from task_orchestrator.client import Client

        return Client
    if name == "Worker":
        from task_orchestrator.worker import Worker

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
