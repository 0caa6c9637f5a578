"""A task's life as an agent leads it, by whatever client. Imports nothing, so that any client can."""

from typing import Any, Protocol

TOOLS = {
    *("list_tasks", "get_task", "queue_stats", "create_task", "create_tasks", "claim_next_task", "heartbeat_task"),
    *("complete_task", "fail_task", "release_task", "cancel_task", "retry_task"),
}


class Speaks(Protocol):
    """How a client calls a tool: the structured answer, or the text of an error; and whether it is one."""

    async def __call__(self, tool: str, **arguments: Any) -> tuple[Any, bool]: ...


async def live(call: Speaks, directory: str) -> None:
    """Create, claim, heartbeat, complete; then fail, retry, complete."""

    async def ask(tool: str, **arguments: Any) -> Any:
        answer, is_error = await call(tool, **arguments)
        assert not is_error, answer
        return answer

    async def claim() -> dict[str, Any]:
        claimed = await ask("claim_next_task", work_directory=directory, worker_id="smith", wait_seconds=1)
        assert claimed["task"]["lease_token"]
        return claimed

    made = await ask("create_task", work_directory=directory, prompt="Count the files", tags=["first"])
    claimed = await claim()
    task = claimed["task"]
    assert (task["task_id"], task["prompt"], claimed["resumed"]) == (made["task_id"], "Count the files", False)
    again = await claim()
    assert (again["task"]["task_id"], again["resumed"]) == (task["task_id"], True)
    mine = {"task_id": task["task_id"], "lease_token": task["lease_token"]}
    renewed = await ask("heartbeat_task", **mine, progress={"percent": 50, "message": "half of them"})
    assert renewed["lease_expires_at"] >= task["lease_expires_at"]
    done = await ask("complete_task", **mine, result={"files": 12})
    assert done["status"] == "completed"
    shown = await ask("get_task", task_id=task["task_id"])
    assert (shown["status"], shown["result"]) == ("completed", {"files": 12})
    listed = await ask("list_tasks", work_directory=directory)
    assert [(it["task_id"], it["status"]) for it in listed["tasks"]] == [(task["task_id"], "completed")]

    await ask("create_task", work_directory=directory, prompt="Count the lines")
    task = (await claim())["task"]
    mine = {"task_id": task["task_id"], "lease_token": task["lease_token"]}
    failed = await ask("fail_task", **mine, error_message="the disk is full")
    assert failed["status"] == "failed"
    said, is_error = await call("complete_task", **mine, result=1)
    assert is_error
    assert said.startswith("LEASE_LOST: "), said
    assert (await ask("retry_task", task_id=task["task_id"]))["status"] == "waiting"
    task = (await claim())["task"]
    assert (task["attempt"], task["previous_error"]) == (2, "the disk is full")
    mine = {"task_id": task["task_id"], "lease_token": task["lease_token"]}
    assert (await ask("complete_task", **mine, result=34))["status"] == "completed"
    stats = await ask("queue_stats", work_directory=directory)
    assert stats["by_status"]["completed"] == 2
