"""Listeners hear what they asked for, in order; a slow one is told that it has lost touch."""

import asyncio

import pytest

from dispatcher.hub import (
    BACKLOG_MAX,
    EVERYTHING,
    Closed,
    Hub,
    LostTouch,
    about_directory,
    about_task,
    about_worker,
    news,
)
from dispatcher.messages import Claim, Create, Regulate
from dispatcher.ports import Told
from tests.dispatcher.test_board import Desk


def changes(count: int, directory: str = "/w"):  # type: ignore[no-untyped-def]
    desk = Desk()
    return [desk.effects(Create(work_directory=directory, prompt="do it")).changes[0] for _ in range(count)], desk


async def test_each_listener_hears_its_topics_once_and_in_order() -> None:
    hub, (made, desk) = Hub(), changes(3)
    claimed = desk.effects(Claim(work_directories=("/w",), worker_id="ann")).changes[0]
    with (
        hub.listen(about_directory("/w"), about_task(made[0].after.task_id)) as everything,
        hub.listen(about_worker("ann")) as ann,
        hub.listen(about_directory("/elsewhere")) as nothing,
    ):
        hub.publish([*made, claimed])
        assert [await everything.next() for _ in range(4)] == [news(it) for it in (*made, claimed)]
        assert await ann.next() == news(claimed)
        hub.close()
        with pytest.raises(Closed):
            await nothing.next()


async def test_rules_are_news_of_their_directory_wherever_they_were_laid_down() -> None:
    hub, (ruling,) = Hub(), Desk().effects(Regulate(work_directory="/w", max_working=1)).changes
    with hub.listen(about_directory("/w")) as heard, hub.listen(EVERYTHING) as all_of_it:
        hub.publish([ruling, Told(ruling.entry)])
        for listener in (heard, heard, all_of_it, all_of_it):
            told = await listener.next()
            assert (told.task_id, told.work_directory, told.type) == (None, "/w", "directory.updated")


async def test_a_slow_listener_loses_touch_once_and_goes_on() -> None:
    hub, (made, _) = Hub(), changes(2)
    with hub.listen(about_directory("/w")) as heard:
        hub.publish([made[0]] * (BACKLOG_MAX + 5))
        with pytest.raises(LostTouch):
            await heard.next()
        hub.publish([made[1]])
        assert await heard.next() == news(made[1])


async def test_a_listener_that_left_is_forgotten() -> None:
    hub = Hub()
    with hub.listen(about_directory("/w")) as heard:
        hub.follow(heard, about_task("x"))
    assert not hub._listeners
    assert not hub._by_topic


async def test_who_listens_to_a_closed_hub_is_told_at_once() -> None:
    hub = Hub()
    hub.close()
    with hub.listen(about_directory("/w")) as heard, pytest.raises(Closed):
        await asyncio.wait_for(heard.next(), 1)
