"""Agents of every revision race for the same tasks, and their connections are cut again and again."""

import asyncio
from collections import Counter, defaultdict
from contextlib import suppress
from random import Random
from typing import Any

from attrs import define, field
from mcp import Client
from mcp.shared.exceptions import MCPError

from tests.conftest import ServerProcess
from tests.mcp.wire import OLD, REVISIONS, Cut, Scissors, call, connection, initialize, request, said_in
from tests.web.conftest import TASKS, Api, connected

TASKS_MANY, RAW_MANY, SDK_MANY = 500, 45, 5
DIRECTORY = "/race"
RACE_SECONDS = 60
SDK_MODES = ("2026-07-28", "legacy", "auto")


@define
class Race:
    """What the agents believe: who completed what, as the server has told them."""

    open: int = TASKS_MANY
    completed: dict[str, str] = field(factory=dict)
    cuts: int = 0

    def win(self, task_id: str, agent: str) -> None:
        assert task_id not in self.completed, (task_id, agent, self.completed[task_id])
        self.completed[task_id] = agent
        self.open -= 1


async def raw_agent(race: Race, ports: list[int], number: int) -> None:
    """Every call is said again until it is answered, perhaps to another server."""
    name, revision, rng = f"raw-{number}", REVISIONS[number % len(REVISIONS)], Random(number)
    scissors = Scissors(number)

    async def insist(tool: str, **arguments: Any) -> Any:
        while True:
            with suppress(Cut, ConnectionError):
                return await call(rng.choice(ports), revision, tool, arguments, scissors)

    while race.open:
        claimed = await insist("claim_next_task", work_directory=DIRECTORY, worker_id=name, wait_seconds=1)
        if (task := claimed["task"]) is None:
            continue
        about = {"task_id": task["task_id"], "lease_token": task["lease_token"]}
        if rng.random() < 0.2:
            await insist("heartbeat_task", **about, progress={"percent": 50})
        await insist("complete_task", **about, result={"by": name})
        race.win(task["task_id"], name)
    race.cuts += scissors.cuts


async def sdk_agent(race: Race, ports: list[int], number: int) -> None:
    """The official client, which now and then gives up on a call before it is answered."""
    name, rng = f"sdk-{number}", Random(1000 + number)
    url = f"http://127.0.0.1:{ports[number % len(ports)]}/mcp"
    async with Client(url, mode=SDK_MODES[number % len(SDK_MODES)]) as client:

        async def insist(tool: str, **arguments: Any) -> Any:
            while True:
                patience = rng.random() * 0.05 if rng.random() < 0.2 else None
                with suppress(MCPError, TimeoutError):
                    async with asyncio.timeout(patience):
                        said = await client.call_tool(tool, arguments)
                        assert not said.is_error, said
                        return said.structured_content
                race.cuts += 1

        while race.open:
            claimed = await insist("claim_next_task", work_directory=DIRECTORY, worker_id=name, wait_seconds=1)
            if (task := claimed["task"]) is None:
                continue
            about = {"task_id": task["task_id"], "lease_token": task["lease_token"]}
            await insist("complete_task", **about, result={"by": name})
            race.win(task["task_id"], name)


async def run(ports: list[int]) -> Race:
    race = Race()
    async with asyncio.timeout(RACE_SECONDS), asyncio.TaskGroup() as group:
        for number in range(RAW_MANY):
            group.create_task(raw_agent(race, ports, number))
        for number in range(SDK_MANY):
            group.create_task(sdk_agent(race, ports, number))
    return race


async def histories(api: Api) -> dict[str, list[dict[str, Any]]]:
    """Of each task all that happened, from the feed."""
    lives: dict[str, list[dict[str, Any]]] = defaultdict(list)
    after: int | None = 0
    while after is not None:
        page = f"/api/v1/events?after={after}&limit=1000"
        answer = await api.call("GET", page, headers={"Accept": "application/json"})
        for event in answer.data["events"]:
            if event["task_id"]:
                lives[event["task_id"]].append(event)
        after = answer.data["next_after"] if answer.data["events"] else None
    return lives


async def check(api: Api, race: Race) -> None:
    """Each task was claimed once and completed once, by the same agent, which believes so; nothing came late."""
    lives = await histories(api)
    assert len(lives) == len(race.completed) == TASKS_MANY
    for task_id, life in lives.items():
        steps = [event["type"] for event in life if event["type"] != "task.progress"]
        assert steps == ["task.created", "task.claimed", "task.completed"], (task_id, life)
        assert {event["worker_id"] for event in life[1:]} == {race.completed[task_id]}, (task_id, life)
    tasks: list[Any] = []
    for offset in range(0, TASKS_MANY, 100):
        tasks += (await api.get(TASKS, work_directory=DIRECTORY, limit=100, offset=offset)).data["tasks"]
    assert {task["task_id"]: task["result"] for task in tasks} == {
        task_id: {"by": agent} for task_id, agent in race.completed.items()
    }
    winners = Counter(agent.partition("-")[0] for agent in race.completed.values())
    assert winners.keys() == {"raw", "sdk"}
    assert race.cuts > 100


async def submitted(api: Api) -> None:
    tasks = [{"work_directory": DIRECTORY, "prompt": f"Task {number}"} for number in range(TASKS_MANY)]
    assert (await api.post(f"{TASKS}/batch", {"tasks": tasks})).status == 201


async def test_of_500_tasks_50_agents_complete_each_once(tmp_path: Any) -> None:
    server = ServerProcess(tmp_path).start()
    try:
        async with connected(server) as api:
            await submitted(api)
            race = await run([server.port])
            await check(api, race)
    finally:
        assert server.terminate() == 0
    assert "an error nobody foresaw" not in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


async def test_a_session_outlives_who_does_not_read_its_first_answer_to_the_end(tmp_path: Any) -> None:
    """As soon as they know its name they may hang up, and come again with it."""

    async def come_again(port: int) -> int:
        async with connection(port) as (reader, writer):
            writer.write(initialize(OLD))
            head = await reader.readuntil(b"data: {")
        session = head.lower().partition(b"mcp-session-id: ")[2].split()[0].decode()
        async with connection(port) as (reader, writer):
            writer.write(request(OLD, "ping", {}, headers=f"Mcp-Session-Id: {session}\r\n"))
            return said_in(await reader.read())[0]

    server = ServerProcess(tmp_path, environ={"APP_MCP_SESSIONS": "true"}).start()
    try:
        assert Counter(await asyncio.gather(*(come_again(server.port) for _ in range(100)))) == {200: 100}
    finally:
        assert server.terminate() == 0


async def test_the_same_at_two_servers(tmp_path: Any, postgres_url: str) -> None:
    """Which share a PostgreSQL; a call that was cut is said again to either."""
    servers = []
    try:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            servers.append(ServerProcess(tmp_path / name, record=postgres_url).start())
        async with connected(servers[0]) as api:
            await submitted(api)
            race = await run([server.port for server in servers])
            await check(api, race)
    finally:
        assert [server.terminate() for server in servers] == [0] * len(servers)
    for server in servers:
        assert "an error nobody foresaw" not in server.log.read_text()
        assert "Traceback" not in server.log.read_text()
