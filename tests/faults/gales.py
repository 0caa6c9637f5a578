"""What can go wrong with several servers on one database, one function for each: it comes, it goes, and within a fixed
time everything works again by itself. Each tells `recover` when that time begins."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .instances import Instance, Instances
    from .proxy import Proxy

USER, DATABASE = "orchestrator", "tasks"  # of the servers
SHORT_SECONDS = (0.2, 0.8)
LONG_SECONDS = (3.5, 4.5)  # longer than most leases, and than the servers' patience with the database
VERY_LONG_SECONDS = (11, 14)  # longer than any lease, and than either side of a connection waits for the other
EXHAUSTED_SECONDS = (1.5, 2.5)
TAKERS = 8  # of connections, at a time: faster than the servers, who want theirs back
STALL_SECONDS = (1, 2)
DELAY_SECONDS = (0.002, 0.02)


async def instance_kill(storm: Instances, fault: str) -> None:
    instance = storm.some()
    await instance.server.kill()
    await storm.recover(fault, storm.others(instance))
    await storm.revive(instance)
    await storm.recover(fault)


async def instance_term(storm: Instances, fault: str) -> None:
    instance = storm.some()
    if (status := await instance.server.terminate()) != 0:
        storm.ledger.find("stuck", f"SIGTERM was followed by exit status {status}: {instance.server.last_words()}")
    await storm.recover(fault, storm.others(instance))
    await storm.revive(instance)
    await storm.recover(fault)


async def instance_pause(storm: Instances, fault: str) -> None:
    """The others go on; then it goes on itself, with leases in its memory that are over."""
    instance = storm.some()
    storm.pause(instance)
    try:
        await asyncio.gather(storm.a_while(*_long(storm, fault)), storm.recover(fault, storm.others(instance)))
    finally:
        storm.go_on(instance)
    await storm.recover(fault)


async def pg_restart(storm: Instances, fault: str) -> None:
    await asyncio.to_thread(storm.pair.primary.stop)
    await storm.meanwhile(*SHORT_SECONDS)
    await asyncio.to_thread(storm.pair.primary.start)
    await storm.recover(fault)


async def pg_crash(storm: Instances, fault: str) -> None:
    await asyncio.to_thread(storm.pair.primary.crash)
    await storm.meanwhile(*SHORT_SECONDS)
    await asyncio.to_thread(storm.pair.primary.start)
    await storm.recover(fault)


async def pg_terminate_backends(storm: Instances, fault: str) -> None:
    for _ in range(storm.rng.randint(1, 3)):
        await asyncio.to_thread(storm.pair.primary.terminate_backends, USER)
        await storm.meanwhile(0, 0.3)
    await storm.recover(fault)


async def pg_failover(storm: Instances, fault: str) -> None:
    """The standby takes over, and the network leads there; the new standby comes once all has recovered."""
    isolated = storm.rng.random() < 0.5
    for proxy in _proxies(storm.instances) if isolated else ():
        storm.network.do(proxy.cut())
    await asyncio.to_thread(storm.pair.fail_over, isolated=isolated)
    for proxy in _proxies(storm.instances):
        assert storm.pair.primary.port
        storm.network.do(proxy.reset())
        storm.network.do(proxy.lead_to(storm.pair.primary.port))
        storm.network.do(proxy.heal())
    await storm.recover(fault)
    await asyncio.to_thread(storm.pair.rebuild)


async def pg_pool_exhausted(storm: Instances, fault: str) -> None:
    """All connections that the database allows are somebody else's."""
    taken: list[asyncpg.Connection] = []
    enough = asyncio.Event()
    taking = [asyncio.create_task(_take_connections(storm, taken, enough)) for _ in range(TAKERS)]
    try:
        await asyncio.to_thread(storm.pair.primary.terminate_backends, USER)
        await storm.meanwhile(*EXHAUSTED_SECONDS)
    finally:
        enough.set()
        await asyncio.wait(taking)
        for connection in taken:
            connection.terminate()
    await storm.recover(fault)


async def pg_stall(storm: Instances, fault: str) -> None:
    """Some backends stand still, with all that they hold."""
    backends = await asyncio.to_thread(storm.pair.primary.backends, USER)
    with _stopped(storm.rng.sample(backends, min(len(backends), 2))):
        await storm.meanwhile(*STALL_SECONDS)
    await storm.recover(fault)


async def network_cut(storm: Instances, fault: str) -> None:
    """For longer than a lease nothing gets through between one server and the database; the others go on."""
    instance = storm.some()
    storm.network.do(instance.proxy.cut())
    try:
        await asyncio.gather(storm.a_while(*_long(storm, fault)), storm.recover(fault, storm.others(instance)))
    finally:
        storm.network.do(instance.proxy.heal())
    await storm.recover(fault)


async def network_blink(storm: Instances, fault: str) -> None:
    """For a moment nothing gets through between any server and the database."""
    for proxy in _proxies(storm.instances):
        storm.network.do(proxy.cut())
    try:
        await storm.meanwhile(*SHORT_SECONDS)
    finally:
        for proxy in _proxies(storm.instances):
            storm.network.do(proxy.heal())
    await storm.recover(fault)


async def network_reset(storm: Instances, fault: str) -> None:
    for _ in range(storm.rng.randint(1, 3)):
        for proxy in _proxies(storm.instances):
            storm.network.do(proxy.reset())
        await storm.meanwhile(0, 0.3)
    await storm.recover(fault)


async def network_refused(storm: Instances, fault: str) -> None:
    """All connections break, and for longer than the servers' patience nobody can make a new one."""
    for proxy in _proxies(storm.instances):
        storm.network.do(proxy.refuse())
        storm.network.do(proxy.reset())
    try:
        await storm.meanwhile(*_long(storm, fault))
    finally:
        for proxy in _proxies(storm.instances):
            storm.network.do(proxy.listen())
    await storm.recover(fault)


async def network_slow(storm: Instances, fault: str) -> None:
    """Whatever goes over the network of one server takes its time."""
    proxy = storm.some().proxy
    proxy.delay_seconds = storm.rng.choice(DELAY_SECONDS)
    try:
        await storm.meanwhile(1, 2)
    finally:
        proxy.delay_seconds = 0
    await storm.recover(fault)


def _long(storm: Instances, fault: str) -> tuple[float, float]:
    """Of what comes again, one in three times is very long."""
    return VERY_LONG_SECONDS if storm.counts[fault] and storm.rng.random() < 1 / 3 else LONG_SECONDS


def _proxies(instances: Iterable[Instance]) -> list[Proxy]:
    return [instance.proxy for instance in instances]


async def _take_connections(storm: Instances, taken: list[asyncpg.Connection], enough: asyncio.Event) -> None:
    """One after the other, and each that comes free."""
    while not enough.is_set():
        try:
            where = {"host": "127.0.0.1", "port": storm.pair.primary.port, "user": USER, "database": DATABASE}
            taken.append(await asyncpg.connect(**where))
        except (asyncpg.PostgresError, OSError):
            await asyncio.sleep(0.01)


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


GALES: dict[str, Callable[[Instances, str], Awaitable[None]]] = {
    "instance-kill": instance_kill,
    "instance-term": instance_term,
    "instance-pause": instance_pause,
    "pg-restart": pg_restart,
    "pg-crash": pg_crash,
    "pg-terminate-backends": pg_terminate_backends,
    "pg-failover": pg_failover,
    "pg-pool-exhausted": pg_pool_exhausted,
    "pg-stall": pg_stall,
    "network-cut": network_cut,
    "network-blink": network_blink,
    "network-reset": network_reset,
    "network-refused": network_refused,
    "network-slow": network_slow,
}
