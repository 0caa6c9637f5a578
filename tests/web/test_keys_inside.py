"""The keys in memory, whatever happens to the record and to who asked."""

import asyncio
from contextlib import suppress

import pytest
from attrs import evolve

from dispatcher.errors import RecordFailed
from web.access import keys as tested
from web.access.keys import Keys


class Ring:
    """A record of keys, in memory."""

    def __init__(self):
        self.kept = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.fails = 0  # so many times, after it was done

    async def _done(self):
        if self.fails:
            self.fails -= 1
            raise RecordFailed("no answer")

    async def keys(self):
        return list(self.kept.values())

    async def key(self, digest):
        found = self.kept.get(digest)
        await self.gate.wait()
        return found if found and found.revoked_at is None else None

    async def add(self, key):
        self.kept[key.digest] = key
        await self.gate.wait()
        await self._done()

    async def revoke(self, name, at):
        (key,) = [key for key in self.kept.values() if key.name == name]
        self.kept[key.digest] = evolve(key, revoked_at=at)
        await self.gate.wait()
        await self._done()
        return True

    async def note_used(self, used): ...


@pytest.fixture
def ring():
    return Ring()


@pytest.fixture
async def keys(ring):
    keys = Keys(ring, lambda: 1, None, asyncio.Event())
    following = asyncio.create_task(keys.keep_step())
    yield keys
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


async def made(keys, name="k"):
    return (await keys.create(name, ["read"], ["*"], None, None))[1]


async def settled():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_revocation_whose_answer_was_lost_holds(keys, ring):
    secret = await made(keys)
    ring.fails = 1
    with pytest.raises(RecordFailed):
        await keys.revoke("k")
    await settled()
    assert keys.find(secret) is None


async def test_a_revocation_is_done_even_if_nobody_waits_for_it(keys, ring):
    secret = await made(keys)
    ring.gate.clear()
    asking = asyncio.create_task(keys.revoke("k"))
    await settled()
    asking.cancel()
    await settled()
    ring.gate.set()
    await settled()
    assert keys.find(secret) is None


async def test_who_asks_for_an_unknown_key_does_not_wait_for_a_record_that_hangs(keys, ring, monkeypatch):
    """Nor do those behind him, nor whoever has a key."""
    secret = await made(keys)
    monkeypatch.setattr(tested, "LOOK_UP_SECONDS", 0.01)
    ring.gate.clear()
    await asyncio.gather(*(keys.look_up(f"tok_{number}") for number in range(50)))
    await keys.look_up(secret)
    assert keys.find(secret)


async def test_a_key_that_is_revoked_while_it_is_looked_up_is_not_learnt(keys, ring):
    other = Keys(ring, lambda: 1, None, asyncio.Event())
    secret = await made(other)
    ring.gate.clear()
    looking = asyncio.create_task(keys.look_up(secret))
    await settled()
    digest = tested.digest_of(secret)
    ring.kept[digest] = evolve(ring.kept[digest], revoked_at=1)
    await keys.load()
    ring.gate.set()
    await looking
    assert keys.find(secret) is None


async def test_what_does_not_look_like_a_key_is_not_looked_up(keys, ring):
    ring.gate.clear()
    async with asyncio.timeout(1):
        await keys.look_up("password")
