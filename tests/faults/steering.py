"""What others do to a task meanwhile: cancel it, retry it, edit it, watch it, and speak under a lease that is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agents import Agent


async def cancel(agent: Agent) -> None:
    if task_id := _any_task(agent):
        body = {"force": agent.rng.random() < 0.5}
        agent.ledger.asked["cancel"].add(task_id)
        answer = await agent.call("POST", f"/api/v1/tasks/{task_id}/cancel", body, good=(200, 409))
        if answer.status == 200:
            agent.ledger.note_cancel(answer.body["data"], answer)


async def retry(agent: Agent) -> None:
    if task_id := _any_task(agent):
        agent.ledger.asked["retry"].add(task_id)
        answer = await agent.call("POST", f"/api/v1/tasks/{task_id}/retry", good=(200, 409, 422))
        agent.ledger.open_tasks += answer.status == 200


async def edit(agent: Agent) -> None:
    if task_id := _any_task(agent):
        agent.ledger.asked["edit"].add(task_id)
        body = {"priority": agent.rng.choice(("low", "medium", "high"))}
        await agent.call("PATCH", f"/api/v1/tasks/{task_id}", body, good=(200, 409))


async def watch(agent: Agent) -> None:
    if task_id := _any_task(agent):
        until = agent.rng.choice(("", "?until=terminal&wait_seconds=0.3"))
        answer = await agent.call("GET", f"/api/v1/tasks/{task_id}{until}")
        agent.ledger.note_sight(answer.body["data"])


LATE: dict[str, dict[str, Any]] = {
    "heartbeat": {},
    "complete": {"result": "too late"},
    "fail": {"error_message": "too late"},
    "release": {},
}


async def speak_late(agent: Agent) -> None:
    """Under a lease that is over; only the call that ended it may be said again."""
    if not agent.ledger.past:
        return
    lease = agent.rng.choice(agent.ledger.past)
    verb = agent.rng.choice(tuple(LATE))
    body = {**LATE[verb], "lease_token": lease.token}
    answer = await agent.call("POST", f"/api/v1/tasks/{lease.task_id}/{verb}", body, good=(200, 409))
    again = lease.end is not None and lease.end[0] == verb and verb in ("complete", "fail")
    if answer.status == 200 and not again:
        agent.ledger.find("double", f"{verb} was accepted under {lease}, which was over", lease.task_id)


STEERING = (cancel, retry, edit, watch, speak_late)


def _any_task(agent: Agent) -> str | None:
    return agent.rng.choice(agent.ledger.recent) if agent.ledger.recent else None
