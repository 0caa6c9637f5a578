"""Two PostgreSQL servers for the tests: what one of them has committed, the other one has too, and can take over."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import define

from tests.postgres import Cluster, directory, free_port

PATIENCE_SECONDS = 30
SETTINGS = {
    "max_connections": "60",
    "max_wal_size": "256MB",
    "wal_keep_size": "256MB",
    "wal_retrieve_retry_interval": "100ms",
    "wal_sender_timeout": "5s",
    "wal_receiver_timeout": "5s",
}
FOLLOWS = "select 1 from pg_stat_replication where state = 'streaming' and sync_state = 'sync'"


@define(eq=False)
class Pair:
    """A commit on the primary is answered when the standby has it, too."""

    primary: Cluster
    standby: Cluster

    def fail_over(self, *, isolated: bool = False) -> None:
        """The standby takes the place of the primary, with all that was answered. Then `rebuild` is due.

        The primary has died before; or, if it is `isolated` so that nobody can reach it, dies after.
        """
        self.wait_for_standby()
        if not isolated:
            self.primary.crash()
        promote = ["promote", "-D", str(self.standby.data), "-w", "-t", str(PATIENCE_SECONDS)]
        self.standby.run("pg_ctl", *promote)
        _wait_for_standbys(self.standby, "")  # there is none yet
        if isolated:
            self.primary.crash()
        self.primary, self.standby = self.standby, self.primary

    def rebuild(self) -> None:
        """Make the standby anew, a copy of the primary as it is now."""
        self.standby.stop()
        shutil.rmtree(self.standby.data, ignore_errors=True)
        source = ["-h", str(self.primary.place), "-p", str(self.primary.number), "-U", "postgres"]
        options = ["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"]
        self.standby.run("pg_basebackup", "-D", str(self.standby.data), *source, *options)
        self.standby.start()
        _wait_for_standbys(self.primary, "*")
        self.wait_for_standby()

    def wait_for_standby(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.primary.sql(FOLLOWS):
            assert time.monotonic() < deadline, "the standby does not follow"
            time.sleep(0.02)


def _wait_for_standbys(cluster: Cluster, names: str) -> None:
    """What a commit there waits for; nobody, if it is empty."""
    cluster.sql(f"alter system set synchronous_standby_names = '{names}'")
    cluster.sql("select pg_reload_conf()")


@contextmanager
def pair(settings: dict[str, str] | None = None) -> Iterator[Pair]:
    """Both run, and listen on 127.0.0.1 too."""
    with directory() as one, directory() as other:
        primary, standby = (Cluster(place, free_port(), SETTINGS | (settings or {})) for place in (one, other))
        two = Pair(primary.init().start(), standby)
        try:
            two.rebuild()
            yield two
        finally:
            two.standby.stop()
            two.primary.stop()
