"""What a batch is about: read, and locked, in the transaction that will write it back.

Locks are always taken in one order, so that batches of several servers wait for each other, but never in a circle:
names of keys and claims; tasks; work directories; and, when it is written, the numbers of the history. What claims take
is locked without waiting: what another server holds is passed over.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from sys import maxsize

import orjson
from asyncpg import Record

from dispatcher.directory import Directory
from dispatcher.fields import Priority
from dispatcher.ports import Found, LaneKey, Lease, Needs, Run, SharedFound, SharedNeeds, Snapshot
from dispatcher.task import Status, Task
from storage.postgres import names
from storage.postgres.connections import Db
from storage.rows import DIRECTORIES, TASKS

DUE_SLICE = 256  # tasks that fall due are fetched so many at a time
DEPENDANTS_SLICE = 256  # and so many of those that wait for them

ARRIVALS = "select nextval('arrivals') from generate_series(1, $1)"
IN_ORDER = "order by tasks.work_directory, tasks.arrival for update of tasks"
LOCK_TASKS = f"select from tasks where task_id = any($1) {IN_ORDER}"
TASKS_BY_ID = f"{TASKS.select} where task_id = any($1) {IN_ORDER}"
PARENTS = TASKS_BY_ID.replace("tasks.result", "case tasks.status when 'completed' then null else tasks.result end")
TASKS_BY_KEY = f"""
    select it.key, {TASKS.names} from idempotency_keys as it
    join tasks on tasks.work_directory = it.work_directory and tasks.arrival = it.arrival
    where it.key = any($1) {IN_ORDER}"""
TASKS_BY_CLAIM = f"{TASKS.select} where claim_id = any($1) {IN_ORDER}"
TASKS_BY_HOLDER = f"""
    select {TASKS.names} from unnest($1::text[], $2::text[]) as it (worker_id, work_directory)
    join tasks on tasks.work_directory = it.work_directory and tasks.worker_id = it.worker_id
    where tasks.status = 'working' {IN_ORDER}"""
LEASED = f"{TASKS.select} where status = 'working' and due_at < $1 {IN_ORDER}"
# Those that have completed only have to say so; their results may be large, and stay as they are.
DUE = f"{TASKS.select} where due_at <= $1 order by due_at limit $2 for update skip locked".replace(
    "tasks.result", "case tasks.status when 'completed' then null else tasks.result end"
)
DUE_NEXT = "select min(due_at) from tasks where due_at > $1"
WHO_DEPENDS = f"""
    select {TASKS.names} from dependencies as it
    join tasks on tasks.work_directory = it.work_directory and tasks.arrival = it.arrival
    where it.parent_id = $1 and it.arrival >= $2 order by it.arrival limit $3 for update of tasks"""
READY = f"""
    select wanted.place, {TASKS.names}
    from unnest($1::text[], $2::integer[]) with ordinality as wanted (work_directory, number, place)
    cross join lateral (
        {TASKS.select}
        where work_directory = wanted.work_directory and ready and (expires_at is null or expires_at > $3)
        order by priority desc, arrival limit wanted.number for update skip locked
    ) as tasks"""
READY_OF_PRIORITY = f"""
    {TASKS.select} where work_directory = $1 and priority = $2 and ready and (expires_at is null or expires_at > $3)
    order by arrival limit $4 for update skip locked"""
READY_WITH_TAGS = f"""
    select {TASKS.names} from ready_tags as one
    join tasks on tasks.work_directory = one.work_directory and tasks.arrival = one.arrival
    where one.work_directory = $1 and one.tag = ($2::text[])[1] and ($5::smallint is null or one.priority = $5)
    and tasks.ready and (tasks.expires_at is null or tasks.expires_at > $3) and not exists (
        select from unnest($2::text[]) as wanted where not exists (
            select from ready_tags as other where other.work_directory = $1 and other.tag = wanted
            and other.priority = one.priority and other.arrival = one.arrival))
    order by one.priority desc, one.arrival limit $4 for update of tasks skip locked"""
CLAIM_UNDER = """
    select seq, attempt, worker_id, details::json ->> 'claimed_by' from history
    where task_id = $1 and type = 'task.claimed' and lease_token = $2"""
END_OF_LEASE = """
    select type from history where task_id = $1 and attempt = $2 and seq > $3 and type in (
        'task.completed', 'task.failed', 'task.cancelled', 'task.retried', 'task.released', 'task.lease_expired')
    order by seq limit 1"""
LATE_RESULT = "select from history where task_id = $1 and attempt = $2 and type = 'task.late_result'"
RULES = f"select working, {DIRECTORIES.names} from work_directories where work_directory = any($1)"
RULED = f"{DIRECTORIES.select} where max_working is not null or paused or draining"
WORKING = "select count(*) from tasks where status = 'working'"
VERSION = "select coalesce(max(version), 0) from config_versions"
CONFIGURED = "select version, runtime from config_versions order by version desc limit 1"
LAST = "select seq from last_numbers"
LAST_AT = "select coalesce(max(at), 0) from history where seq = $1"
NEXT_DUE = "select min(due_at) from tasks where due_at is not null"


async def load(db: Db) -> Snapshot:
    seq = await db.fetchval(LAST)
    configured = await db.fetchrow(CONFIGURED)
    return Snapshot(
        last_seq=seq,
        last_at=await db.fetchval(LAST_AT, seq),
        directories=tuple(map(DIRECTORIES.value, await db.fetch(RULED))),
        next_due=await db.fetchval(NEXT_DUE),
        config_version=configured["version"] if configured else 0,
        runtime=orjson.loads(configured["runtime"]) if configured else {},
    )


class Fetch:
    """One batch's. `limited` remembers from one to the next which work directories have rules that not even two claims
    at a time may look at."""

    def __init__(self, db: Db, limited: set[str]) -> None:
        self._db, self._limited = db, limited

    async def __call__(self, needs: Needs) -> Found:
        db, shared = self._db, needs.shared or SharedNeeds()
        arrivals = [row[0] for row in await db.fetch(ARRIVALS, shared.arrivals)] if shared.arrivals else []
        await self._lock_names(needs, shared)
        if needs.tasks and needs.parents:
            await db.execute(LOCK_TASKS, _possible(needs.tasks | needs.parents))
        tasks = await self._by_id(TASKS_BY_ID, needs.tasks)
        parents = await self._by_id(PARENTS, needs.parents)
        keys = await self._by_key(needs.keys)
        others = await self._others(shared)
        due, next_due = await self._due(needs.now) if needs.due else (None, None)
        dependants: dict[str, Run] = {}
        if due:
            dependants, place = await self._dependants(due)
            due, next_due = due[:place], due[place].due_at if place < len(due) else next_due
        freeing = [task for name in shared.freeing if (task := tasks.get(name) or parents.get(name))]
        directories = await self._directories(needs, shared, (*freeing, *(due or ())))
        if shared.slots:
            await db.execute(names.LOCK, [names.SLOTS], [])
        return Found(
            tasks=tasks,
            parents=parents,
            leases=await self._leases(needs.leases, tasks),
            lanes=await self._lanes(needs),
            keys=keys,
            due=due,
            dependants=dependants,
            next_due=next_due,
            shared=SharedFound(
                arrivals=arrivals,
                tasks=others,
                directories=directories,
                working=await db.fetchval(WORKING) if shared.slots else 0,
                config_version=await db.fetchval(VERSION) if shared.settings else None,
            ),
        )

    async def _lock_names(self, needs: Needs, shared: SharedNeeds) -> None:
        wanted = [names.of_key(key) for key in needs.keys if "\n" not in key]  # those of a batch follow its own key
        wanted += map(names.of_claim, shared.claims)
        wanted += [names.SETTINGS] if shared.settings else []
        if wanted:
            await self._db.execute(names.LOCK, wanted, [])

    async def _by_id(self, query: str, task_ids: Collection[str]) -> dict[str, Task | None]:
        possible = _possible(task_ids)
        found = map(TASKS.value, await self._db.fetch(query, possible)) if possible else ()
        return dict.fromkeys(task_ids) | {task.task_id: task for task in found}

    async def _by_key(self, keys: Collection[str]) -> dict[str, Task | None]:
        if not keys:
            return {}
        rows = await self._db.fetch(TASKS_BY_KEY, list(keys))
        return dict.fromkeys(keys) | {row[0]: TASKS.value(tuple(row)[1:]) for row in rows}

    async def _others(self, shared: SharedNeeds) -> tuple[Task, ...]:
        rows: list[Record] = []
        if shared.claims:
            rows += await self._db.fetch(TASKS_BY_CLAIM, list(shared.claims))
        if shared.held:
            rows += await self._db.fetch(TASKS_BY_HOLDER, *map(list, zip(*shared.held, strict=True)))
        if shared.leased_until is not None:
            rows += await self._db.fetch(LEASED, shared.leased_until)
        return _tasks(rows)

    async def _leases(
        self, leases: Collection[tuple[str, str]], tasks: dict[str, Task | None]
    ) -> dict[tuple[str, str], Lease | None]:
        """Of the tokens that are not the current ones."""
        found = {}
        for task_id, token in leases:
            task = tasks.get(task_id)
            if task is None or not task.leased_by(token):
                found[task_id, token] = await self._lease(task_id, token)
        return found

    async def _lease(self, task_id: str, token: str) -> Lease | None:
        claim = await self._db.fetchrow(CLAIM_UNDER, task_id, token)
        if claim is None:
            return None
        seq, attempt, worker_id, claimed_by = claim
        end = await self._db.fetchval(END_OF_LEASE, task_id, attempt, seq)
        late = await self._db.fetchrow(LATE_RESULT, task_id, attempt)
        return Lease(attempt, worker_id, claimed_by, end, late is not None)

    async def _due(self, moment: int) -> tuple[tuple[Task, ...], int | None]:
        """Others may be about to see to some of them."""
        tasks = _tasks(await self._db.fetch(DUE, moment, DUE_SLICE))
        if len(tasks) == DUE_SLICE:
            return tasks, tasks[-1].due_at
        return tasks, await self._db.fetchval(DUE_NEXT, moment)

    async def _dependants(self, due: tuple[Task, ...]) -> tuple[dict[str, Run], int]:
        """Who waits for the tasks that are due because they have ended, and the place where they become too many."""
        dependants: dict[str, Run] = {}
        room = DEPENDANTS_SLICE
        for place, task in enumerate(due):
            if task.tell_from is not None:
                if not room:
                    return dependants, place
                rows = await self._db.fetch(WHO_DEPENDS, task.task_id, task.tell_from, room + 1)
                found = _tasks(rows)
                dependants[task.task_id] = Run(found[:room], found[room].arrival if len(found) > room else None)
                room -= len(dependants[task.task_id].tasks)
        return dependants, len(due)

    async def _directories(
        self, needs: Needs, shared: SharedNeeds, freeing: Iterable[Task]
    ) -> list[tuple[Directory, int]]:
        """Nobody changes their rules from here on; and where a rule counts who works there, nobody else counts."""
        claimed = {key.work_directory for key in needs.lanes}
        concerned = claimed | shared.ruled | {it.work_directory for it in freeing if it.status is Status.WORKING}
        alone = shared.ruled | (concerned & self._limited)
        while concerned:
            named = [[names.of_directory(path) for path in paths] for paths in (alone, concerned - alone)]
            await self._db.execute(names.LOCK, *named)
            found = await self._rules(concerned)
            if not (concerned & self._limited) - alone:
                return found
            alone |= concerned & self._limited
        return []

    async def _rules(self, paths: set[str]) -> list[tuple[Directory, int]]:
        rows = await self._db.fetch(RULES, list(paths))
        found = {row[1]: (DIRECTORIES.value(tuple(row)[1:]), int(row[0])) for row in rows}
        for path in paths:
            rules, _ = found.setdefault(path, (Directory(work_directory=path), 0))
            if rules.max_working is not None or rules.draining:
                self._limited.add(path)
            else:
                self._limited.discard(path)
        return list(found.values())

    async def _lanes(self, needs: Needs) -> dict[LaneKey, Run]:
        """Of each shelf as many as are wanted, from the most urgent lane on; if it has no more, none has an edge."""
        shelves: dict[tuple[str, frozenset[str]], tuple[int, bool]] = {}
        for key, slice in needs.lanes.items():
            shelves[key.work_directory, key.tags] = slice.limit, slice.enough == maxsize
        plain = [shelf for shelf, (_, each) in shelves.items() if not each and not shelf[1]]
        rows: dict[tuple[str, frozenset[str]], list[Task]] = defaultdict(list)
        if plain:
            wanted = [path for path, _ in plain], [shelves[shelf][0] for shelf in plain], needs.now
            for place, *row in await self._db.fetch(READY, *wanted):
                rows[plain[place - 1]].append(TASKS.value(row))
        runs: dict[LaneKey, Run] = {}
        for shelf, (limit, each) in shelves.items():
            if each:
                for priority in Priority:
                    found = await self._ready(shelf, priority, limit, needs.now)
                    runs[LaneKey(shelf[0], priority, shelf[1])] = _run(priority, _in_order(found, shelf[1]), limit)
                continue
            found = rows[shelf] if not shelf[1] else await self._ready(shelf, None, limit, needs.now)
            for priority in Priority:
                runs[LaneKey(shelf[0], priority, shelf[1])] = _run(priority, _in_order(found, shelf[1]), limit)
        return runs

    async def _ready(
        self, shelf: tuple[str, frozenset[str]], priority: Priority | None, limit: int, now: int
    ) -> list[Task]:
        work_directory, tags = shelf
        rank = None if priority is None else priority.rank
        if tags:
            rows = await self._db.fetch(READY_WITH_TAGS, work_directory, sorted(tags), now, limit, rank)
        else:
            rows = await self._db.fetch(READY_OF_PRIORITY, work_directory, rank, now, limit)
        return list(_tasks(rows))


def _possible(task_ids: Collection[str]) -> list[str]:
    """No text in PostgreSQL has a NUL."""
    return [task_id for task_id in task_ids if "\0" not in task_id]


def _in_order(found: list[Task], tags: frozenset[str]) -> list[Task]:
    """PostgreSQL gives what is locked in its newest form, but where it stood before."""
    return sorted((task for task in found if tags.issubset(task.tags)), key=lambda it: (-it.priority.rank, it.arrival))


def _run(priority: Priority, found: list[Task], limit: int) -> Run:
    """The lane of that priority, of all that was found. What lies behind an edge is not known; it may be nothing."""
    lane = tuple(task for task in found if task.priority is priority)
    if len(found) < limit or priority.rank > found[-1].priority.rank:
        return Run(lane, None)
    return Run(lane, lane[-1].arrival + 1 if lane else 0)


def _tasks(rows: Iterable[Record]) -> tuple[Task, ...]:
    return tuple(map(TASKS.value, rows))
