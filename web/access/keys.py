"""The keys in force, in memory: who calls with which, and when each was last used."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from secrets import token_urlsafe
from typing import Any, TypeVar

from attrs import evolve, frozen

from dispatcher.caller import Caller, Reach, Scope
from dispatcher.errors import RecordFailed
from dispatcher.keys import Key, Keyring
from dispatcher.ports import Clock

T = TypeVar("T")
Job = asyncio.Task[Any] | None

PREFIX = "tok_"  # so that people, and programs that look for lost secrets, know what it is
SETTING = "api_key"  # the name of the key that is a setting
NOTE_SECONDS = 10  # so often the record is told which keys were used
LOOK_UP_SECONDS = 1
RETRY_SECONDS = 1  # after the record could not be read

log = logging.getLogger(__name__)


def digest_of(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def new_secret() -> str:
    return PREFIX + token_urlsafe(32)


@frozen
class Admitted:
    """Somebody who may come in, until `expires_at` (ms since the epoch; None: for good). `digest`: of the key, if it
    was one."""

    caller: Caller
    expires_at: int | None = None
    digest: str | None = None


class Keys:
    def __init__(self, keyring: Keyring, clock: Clock, api_key: str | None, changed: asyncio.Event) -> None:
        """`changed` is set whenever the record may have others."""
        self._keyring, self._clock = keyring, clock
        self._fixed = _of_setting(api_key) if api_key else {}
        self._admitted: dict[str, Admitted] = dict(self._fixed)  # by digest
        self._named: dict[str, Key] = {}
        self._used: dict[str, int] = {}  # since the record was told
        self._present: dict[str, dict[asyncio.Timeout, Job]] = {}  # whom a key has let in, and who is still here
        self._changed = changed
        self._changes = 0  # of what is known
        self._changing = asyncio.Lock()  # or what was read before a change would be known after it
        self._errands: set[asyncio.Task[Any]] = set()
        self._revoking: set[Job] = set()  # they stay until they have been answered, should it be their own key
        self.has_had_any = self.has_had_admin = bool(self._fixed)  # there is a key, or was one; that may make others

    async def load(self) -> None:
        """Go by what is on record now; whoever came in with a key that is no more is sent away. Raises RecordFailed."""
        async with self._changing:
            self._know(await self._keyring.keys())

    def _know(self, keys: Sequence[Key]) -> None:
        self._changes += 1
        self.has_had_any = bool(self._fixed or keys)
        self.has_had_admin = bool(self._fixed) or any("admin" in key.scopes for key in keys)
        self._named = {key.name: key for key in keys if key.revoked_at is None}
        in_force = self._named.values()
        self._admitted = {
            key.digest: self._admitted.get(key.digest) or _admitted(key) for key in in_force
        } | self._fixed
        for digest in self._present.keys() - self._admitted.keys():
            self._send_away(digest)

    def _learn(self, key: Key) -> None:
        self._named[key.name], self._admitted[key.digest] = key, _admitted(key)
        self.has_had_any, self.has_had_admin = True, self.has_had_admin or "admin" in key.scopes

    def _send_away(self, digest: str) -> None:
        for patience, job in self._present.pop(digest, {}).items():
            if job not in self._revoking:
                patience.reschedule(0)

    async def look_up(self, secret: str) -> None:
        """If it looks like a key and is not known, another server may have made it just now. If the record does not say
        so at once, it has not."""
        digest = digest_of(secret)
        if not secret.startswith(PREFIX) or digest in self._admitted:
            return
        with suppress(RecordFailed, TimeoutError):
            async with asyncio.timeout(LOOK_UP_SECONDS):
                changes, key = -1, None
                while changes != self._changes:  # or one that was revoked meanwhile would be learnt again
                    changes, key = self._changes, await self._keyring.key(digest)
                if key:
                    self._learn(key)

    async def keep_step(self) -> None:
        """Go by what is on record, whoever has changed it. Until it is cancelled."""
        while await self._changed.wait():
            self._changed.clear()
            try:
                await self.load()
            except (RecordFailed, TimeoutError) as error:
                log.warning("the keys cannot be read: %s", str(error) or "the record does not answer")
                await asyncio.sleep(RETRY_SECONDS)
                self._changed.set()

    async def note_used(self) -> None:
        """Tell the record which keys were used. Until it is cancelled, and then once more."""
        try:
            while True:
                await asyncio.sleep(NOTE_SECONDS)
                await self._note()
        finally:
            await self._note()

    async def _note(self) -> None:
        used, self._used = self._used, {}
        try:
            if used:
                await self._keyring.note_used(used)
        except (RecordFailed, TimeoutError) as error:
            self._used = used | self._used
            log.warning("the use of keys could not be noted: %s", str(error) or "the record does not answer")

    def find(self, secret: str) -> Admitted | None:
        """Whose key this is, if it is in force."""
        return self.found(digest_of(secret))

    def found(self, digest: str) -> Admitted | None:
        admitted, now = self._admitted.get(digest), self._clock()
        if admitted is None or (admitted.expires_at is not None and admitted.expires_at <= now):
            return None
        if digest not in self._fixed:
            self._used[digest] = now
        return admitted

    def of_name(self, name: str) -> str | None:
        """The digest of the key of this name."""
        if key := self._named.get(name):
            return key.digest
        return next(iter(self._fixed), None) if name == SETTING else None

    @contextmanager
    def present(self, admitted: Admitted, patience: asyncio.Timeout) -> Iterator[None]:
        """Meanwhile `patience` ends as soon as the key is no longer in force."""
        if admitted.digest is None:
            yield
            return
        here = self._present.setdefault(admitted.digest, {})
        here[patience] = asyncio.current_task()
        try:
            yield
        finally:
            here.pop(patience, None)
            if not here and self._present.get(admitted.digest) is here:
                del self._present[admitted.digest]

    def is_last_admin(self, name: str) -> bool:
        """Without it nobody could make or revoke keys."""
        now = self._clock()
        there = [
            it.caller.name
            for it in self._admitted.values()
            if it.caller.may("admin") and (it.expires_at is None or it.expires_at > now)
        ]
        return there == [name]

    def all(self) -> Sequence[Key]:
        """Those that were made and not revoked, the oldest first."""
        return [
            evolve(key, last_used_at=max(self._used.get(key.digest, 0), key.last_used_at or 0) or None)
            for key in self._named.values()
        ]

    async def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        work_directories: Sequence[str],
        expires_at: int | None,
        by: str | None,
        secret: str | None = None,
    ) -> tuple[Key, str]:
        """The key as it is kept, and the key itself, which nobody will know again. Raises KeyExists, RecordFailed."""
        secret = secret or new_secret()
        key = Key(
            digest=digest_of(secret),
            name=name,
            scopes=tuple(scopes),
            work_directories=tuple(work_directories),
            created_at=self._clock(),
            created_by=by,
            expires_at=expires_at,
        )
        await self._change(self._keyring.add(key), lambda _: self._learn(key))
        return key, secret

    async def revoke(self, name: str) -> bool:
        """False if there is none of this name. Raises RecordFailed."""
        job = asyncio.current_task()
        self._revoking.add(job)
        try:
            return await self._change(self._keyring.revoke(name, self._clock()), lambda _: self._forget(name))
        finally:
            self._revoking.discard(job)

    def _forget(self, name: str) -> None:
        self._changes += 1
        if key := self._named.pop(name, None):
            del self._admitted[key.digest]
            self._send_away(key.digest)

    async def _change(self, work: Coroutine[Any, Any, T], known: Callable[[T], None]) -> T:
        """Once it has begun it is done, and known here, whoever leaves meanwhile. If it is not clear what came of it,
        the record is asked until it says so."""

        async def change() -> T:
            async with self._changing:
                try:
                    outcome = await work
                except RecordFailed:
                    self._changed.set()
                    raise
                known(outcome)
                return outcome

        errand = asyncio.create_task(change())
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)
        return await asyncio.shield(errand)


def _admitted(key: Key) -> Admitted:
    reach = None if "*" in key.work_directories else Reach(key.work_directories)
    return Admitted(Caller(key.name, frozenset(key.scopes), reach), key.expires_at, key.digest)


def _of_setting(api_key: str) -> dict[str, Admitted]:
    digest = digest_of(api_key)
    return {digest: Admitted(Caller(SETTING, frozenset({"admin"})), None, digest)}
