"""How connections to the database are made, and which errors mean that one is lost."""

from typing import Literal, TypeAlias

import asyncpg
from asyncpg import Connection, Record
from attrs import frozen

Db: TypeAlias = "Connection[Record]"

CONNECT_SECONDS = 5
DEAD_PEER_SECONDS = 10  # after so long without a sign of the other side either of them gives up the connection
IDLE_IN_TRANSACTION_SECONDS = 4  # a server that is stopped within a batch must not hold up the others for longer
LOCK_SECONDS = 8  # to wait for others; it is tried again then

LOST = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver, where the connection has ended between two of its steps
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidCachedStatementError,  # a later release has changed the schema
    asyncpg.ReadOnlySQLTransactionError,  # it has become a standby, or its successor has not taken over yet
)
"""Another connection may do better."""

AGAIN = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)
"""The same transaction may do better when it is tried again."""


@frozen(kw_only=True)
class Address:
    url: str
    synchronous: Literal["full", "normal"] = "full"
    timeout_seconds: float = 30
    max_connections: int = 100
    min_connections: int = 10

    @property
    def place(self) -> str:
        """Where it is, without what must not be shown."""
        hosts, _, name = self.url.partition("://")[2].partition("?")[0].rpartition("@")[2].partition("/")
        return f"{hosts or 'localhost'}/{name}"

    @property
    def session(self) -> dict[str, str]:
        """The settings of every session, whatever the database or the user have."""
        return {
            "application_name": "task-orchestrator",
            "timezone": "UTC",
            "jit": "off",
            "default_transaction_isolation": "read committed",
            "statement_timeout": "0",
            "lock_timeout": f"{LOCK_SECONDS}s",
            "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS}s",
            "tcp_keepalives_idle": str(DEAD_PEER_SECONDS // 2),
            "tcp_keepalives_interval": "1",
            "tcp_keepalives_count": str(DEAD_PEER_SECONDS // 2),
            "tcp_user_timeout": f"{DEAD_PEER_SECONDS}s",
        }

    async def connect(self, **settings: str) -> Db:
        """Raises LOST, or what PostgreSQL says against it."""
        timeout = min(CONNECT_SECONDS, self.timeout_seconds)
        return await asyncpg.connect(self.url, timeout=timeout, server_settings=self.session | settings)

    async def connect_writer(self) -> Db:
        """All of its statements find their rows by an index: a plan that was made while the tables were small must not
        read all of them when they are not."""
        writer = await self.connect(
            enable_seqscan="off", enable_hashjoin="off", enable_mergejoin="off", plan_cache_mode="force_generic_plan"
        )
        if self.synchronous == "normal":
            await writer.execute("set synchronous_commit = off")
        elif await writer.fetchval("show synchronous_commit") == "off":
            await writer.execute("set synchronous_commit = on")
        return writer
