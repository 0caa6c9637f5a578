"""News of resources reaches whoever asked for it and may see them: soon, briefly, and until either side ends it."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from attrs import evolve
from mcp.client.subscriptions import ListenNotSupportedError, ResourcesListChanged, ResourceUpdated, SubscriptionLost

from dispatcher.caller import Caller, Reach
from dispatcher.hub import EVERYTHING, Closed, Hub, about_directory, about_task
from dispatcher.messages import Create, Regulate
from dispatcher.ports import Told
from tests.dispatcher.test_board import Desk
from tests.mcp.clients import ADMIN, OLD, agent, key, read, refused
from tests.web.conftest import PATIENCE_SECONDS, connected, running, until
from web.mcp import subscriptions
from web.mcp.subscriptions import URIS_MAX, Marks
from web.mcp.uris import uri_of

ON_EVERY_RECORD = True

QUEUE = "queue://stats"
INVALID, FORBIDDEN = -32602, -32003


async def next_of(listening):
    return await asyncio.wait_for(anext(listening), PATIENCE_SECONDS)


async def readers(api, kind="mcp"):
    """How many streams there are, as the server counts them."""
    text = (await api.get("/metrics")).content.decode()
    (line,) = [it for it in text.splitlines() if it.startswith(f'stream_readers{{kind="{kind}"}}')]
    return float(line.split()[-1])


# What is told


async def test_each_resource_is_told_of_when_it_changes(shared, api, directory):
    task, other = await api.create(directory), await api.create(f"{directory}/other")
    uris = [f"task://{task['task_id']}", uri_of(directory), QUEUE]
    async with agent(shared) as client, client.listen(resource_subscriptions=uris) as news:
        assert news.honored.resource_subscriptions == uris
        await api.next(directory)
        assert {(await next_of(news)).uri for _ in uris} == set(uris)
        assert (await read(client, uris[0]))["status"] == "working"
        await api.post(f"/api/v1/tasks/{other['task_id']}/cancel", {})
        assert await next_of(news) == ResourceUpdated(QUEUE)  # and nothing of the others


async def test_rules_of_a_directory_are_news_of_it(shared, api, directory):
    await api.create(directory)
    async with agent(shared) as client, client.listen(resource_subscriptions=[uri_of(directory)]) as news:
        await api.post(f"/api/v1/work-directories/pause?path={directory}", {})
        assert await next_of(news) == ResourceUpdated(uri_of(directory))
        assert (await read(client, uri_of(directory)))["paused"] is True


async def test_a_directory_may_be_waited_for_before_there_is_anything(shared, api, directory):
    async with agent(shared) as client, client.listen(resource_subscriptions=[uri_of(directory)]) as news:
        await api.create(directory)
        assert await next_of(news) == ResourceUpdated(uri_of(directory))


async def test_an_address_is_told_as_it_was_given(shared, api, directory):
    uris = [f"directory://{directory}/ä b", f"directory://{directory}/%C3%A4%20b/", uri_of(f"{directory}/ä b")]
    async with agent(shared) as client, client.listen(resource_subscriptions=uris) as news:
        await api.create(f"{directory}/ä b")
        assert {(await next_of(news)).uri for _ in uris} == set(uris)


async def test_a_burst_is_few_notifications_and_none_misses_its_end(shared, api, directory):
    task = await api.claimed(directory)
    uri = f"task://{task['task_id']}"
    heard = []

    async def listen(client):
        async with client.listen(resource_subscriptions=[uri]) as news:
            listening.set()
            async for event in news:
                heard.append(event)
                if (await read(client, uri))["tags"] == ["last"]:
                    return

    async with agent(shared) as client:
        listening = asyncio.Event()
        job = asyncio.create_task(listen(client))
        await listening.wait()
        for tag in [*map(str, range(60)), "last"]:
            await api.call("PATCH", f"/api/v1/tasks/{task['task_id']}", json={"tags": [tag]})
        await asyncio.wait_for(job, PATIENCE_SECONDS)
    assert 1 <= len(heard) < 15


async def test_new_directories_are_news_of_the_list(shared, api, directory):
    async with agent(shared) as client, client.listen(resources_list_changed=True) as news:
        assert news.honored.resources_list_changed is True
        await api.create(directory)
        assert await next_of(news) == ResourcesListChanged()


async def test_lists_that_never_change_are_not_promised(shared):
    async with agent(shared, mode="auto") as client:
        can = client.server_capabilities
        assert (can.tools.list_changed, can.prompts.list_changed) == (False, False)
        assert (can.resources.list_changed, can.resources.subscribe) == (True, True)
        async with client.listen(tools_list_changed=True, prompts_list_changed=True) as news:
            assert (news.honored.tools_list_changed, news.honored.prompts_list_changed) == (None, None)


async def test_what_is_not_there_is_not_acknowledged(shared, api, directory):
    uris = ["task://nobody", uri_of(directory), "queue://other", "directory://relative", ""]
    async with agent(shared) as client:
        async with client.listen(resource_subscriptions=uris) as news:
            assert news.honored.resource_subscriptions == [uri_of(directory)]
        async with client.listen(resource_subscriptions=uris[:1]) as news:
            assert news.honored.resource_subscriptions is None


async def test_a_deleted_task_is_told_of_once_more(shared, api, directory):
    task = await api.create(directory)
    await api.post(f"/api/v1/tasks/{task['task_id']}/cancel", {})
    async with agent(shared) as client, client.listen(resource_subscriptions=[f"task://{task['task_id']}"]) as news:
        await api.call("DELETE", f"/api/v1/tasks/{task['task_id']}")
        await next_of(news)
        async with refused(INVALID):
            await read(client, f"task://{task['task_id']}")


# To whom


async def test_what_a_key_may_not_see_it_is_not_told_of(locked, admin, directory, name):
    mine, other = f"{directory}/mine", f"{directory}/other"
    hidden = await admin.create(other)
    limited = await key(admin, name, "read", work_directories=[mine])
    uris = [f"task://{hidden['task_id']}", uri_of(other), uri_of(mine), QUEUE]
    async with (
        agent(locked, limited) as client,
        client.listen(resource_subscriptions=uris, resources_list_changed=True) as news,
    ):
        assert news.honored.resource_subscriptions == uris[2:]
        await admin.next(other)
        await admin.create(f"{directory}/third")
        await admin.create(mine)
        told = [await next_of(news) for _ in range(3)]
        assert set(told) == {ResourceUpdated(uri_of(mine)), ResourceUpdated(QUEUE), ResourcesListChanged()}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(news), 2 * subscriptions.REST_SECONDS)  # nothing of what was before


async def test_it_takes_the_scope_to_read(locked, admin, directory, name):
    async with agent(locked, await key(admin, name, "work")) as client:
        async with refused(FORBIDDEN), client.listen(resource_subscriptions=[QUEUE]):
            pass
        async with client.listen(tools_list_changed=True, resources_list_changed=True) as news:
            assert news.honored.resources_list_changed is None


async def test_a_revoked_key_hears_no_more(locked, admin, directory, name):
    secret = await key(admin, name, "read")
    async with agent(locked, secret) as client, client.listen(resource_subscriptions=[QUEUE]) as news:
        await admin.call("DELETE", f"/api/v1/keys/{name}")
        with pytest.raises(SubscriptionLost):
            await next_of(news)


# How much


async def test_a_subscription_has_a_bound(shared, api, directory):
    uris = [uri_of(f"{directory}/{number}") for number in range(URIS_MAX + 1)]
    async with agent(shared) as client:
        async with refused(INVALID) as caught, client.listen(resource_subscriptions=uris):
            pass
        assert caught.value.error.data["field"] == "notifications.resourceSubscriptions"
        async with client.listen(resource_subscriptions=uris[:-1]) as news:
            assert news.honored.resource_subscriptions == uris[:-1]


@pytest.mark.once
async def test_a_key_has_no_more_streams_than_its_part(tmp_path, directory):
    with running(tmp_path, API_SECRET_KEY=ADMIN, APP_SERVER_MAX_STREAMS_PER_KEY="2") as server:
        async with agent(server, ADMIN) as client:
            async with client.listen(resource_subscriptions=[QUEUE]), client.listen(resource_subscriptions=[QUEUE]):
                async with refused(FORBIDDEN) as caught, client.listen(resource_subscriptions=[QUEUE]):
                    pass
                assert caught.value.error.data["code"] == "RATE_LIMITED"
            async with connected(server, Authorization=f"Bearer {ADMIN}") as api:
                await until_none(api)
            async with client.listen(resource_subscriptions=[QUEUE]):
                pass


async def until_none(api):
    async def gone():
        return await readers(api) == 0

    await until(gone)


async def test_a_listener_that_leaves_is_forgotten(shared, api, directory):
    async with agent(shared) as client:
        async with client.listen(resource_subscriptions=[QUEUE]):
            assert await readers(api) == 1
        await until_none(api)
    await api.busy_with(0)


@pytest.mark.once
async def test_a_server_that_stops_ends_every_stream_in_good_order(tmp_path, directory):
    with running(tmp_path) as server:
        async with (
            connected(server) as api,
            agent(server) as client,
            client.listen(resource_subscriptions=[uri_of(directory)]) as news,
        ):
            await api.create(directory)
            assert await next_of(news) == ResourceUpdated(uri_of(directory))
            began = asyncio.get_running_loop().time()
            stopping = asyncio.create_task(asyncio.to_thread(server.terminate))
            with pytest.raises(StopAsyncIteration):  # the end in good order; otherwise it is SubscriptionLost
                await next_of(news)
            assert await stopping == 0
            assert asyncio.get_running_loop().time() - began < 2
        server.start()


@pytest.mark.once
async def test_several_servers_tell_of_what_happens_at_the_others(pair, here, directory):
    task = await here.create(directory)
    uris = [f"task://{task['task_id']}", uri_of(directory), QUEUE]
    async with agent(pair[1]) as client, client.listen(resource_subscriptions=uris) as news:
        await here.next(directory)
        assert {(await next_of(news)).uri for _ in uris} == set(uris)
        await here.post(f"/api/v1/work-directories/pause?path={directory}", {})
        assert {(await next_of(news)).uri for _ in range(2)} == set(uris[1:])


# The revisions before


async def test_without_a_session_an_old_client_is_offered_no_subscription(shared, directory):
    async with agent(shared, mode=OLD) as client:
        assert not client.server_capabilities.resources.subscribe
        with pytest.warns(match="removed"):
            async with refused(-32601):
                await client.subscribe_resource(QUEUE)
        with pytest.raises(ListenNotSupportedError):
            async with client.listen(resource_subscriptions=[QUEUE]):
                pass


@asynccontextmanager
async def in_session(server, key):
    heard = asyncio.Queue()

    async def hear(message):
        if getattr(message, "method", "") == "notifications/resources/updated":
            heard.put_nowait(message.params.uri)

    async with agent(server, key, OLD, message_handler=hear) as client:
        assert client.server_capabilities.resources.subscribe
        yield client, heard


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:resources/")
async def test_in_a_session_an_old_client_subscribes(tmp_path, directory):
    with running(tmp_path, API_SECRET_KEY=ADMIN, APP_MCP_SESSIONS="true") as server:
        async with connected(server, Authorization=f"Bearer {ADMIN}") as api:
            hidden, mine = await api.create(f"{directory}/other"), await api.create(directory)
            limited = await key(api, "limited", "read", work_directories=[directory])
            async with in_session(server, limited) as (client, heard):
                for uri in (f"task://{hidden['task_id']}", uri_of(f"{directory}/other"), "task://nobody"):
                    async with refused(-32002):
                        await client.subscribe_resource(uri)
                for uri in (f"task://{mine['task_id']}", uri_of(directory), QUEUE):
                    await client.subscribe_resource(uri)
                await client.unsubscribe_resource(uri_of(directory))
                await client.unsubscribe_resource("task://nobody")
                assert await readers(api) == 1
                await api.next(f"{directory}/other")
                await api.next(directory)
                told = {await asyncio.wait_for(heard.get(), PATIENCE_SECONDS) for _ in range(2)}
                assert told == {f"task://{mine['task_id']}", QUEUE}
                assert heard.empty()
            await until_none(api)


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:resources/")
async def test_a_session_has_a_bound_and_a_server_that_stops_waits_for_none(tmp_path, directory):
    with running(tmp_path, APP_MCP_SESSIONS="true") as server:
        async with in_session(server, None) as (client, heard), connected(server) as api:
            for number in range(URIS_MAX):
                await client.subscribe_resource(uri_of(f"{directory}/{number}"))
            async with refused(INVALID):
                await client.subscribe_resource(QUEUE)
            await client.unsubscribe_resource(uri_of(f"{directory}/0"))
            await client.subscribe_resource(QUEUE)
            await api.create(directory)
            assert await asyncio.wait_for(heard.get(), PATIENCE_SECONDS) == QUEUE


# Marks


def made(directory="/w"):
    return Desk().effects(Create(work_directory=directory, prompt="do it")).changes[0]


async def test_however_much_happens_each_topic_is_marked_once():
    hub, change = Hub(), made()
    task = about_task(change.after.task_id)
    with hub.listening(
        Marks(hub, Caller("ann", frozenset())), task, about_directory("/w"), about_directory("/x")
    ) as marks:
        hub.publish([change] * 100_000)
        assert await marks.take() == {task, about_directory("/w")}
        hub.publish([change])
        hub.close()
        assert await marks.take() == {task, about_directory("/w")}
        with pytest.raises(Closed):
            await marks.take()


async def test_nothing_is_heard_of_what_is_marked_until_the_mark_is_taken():
    """So a thousand who want to know of everything cost nothing while ten thousand things happen."""
    hub, (change, other) = Hub(), (made(), made("/other"))
    with hub.listening(Marks(hub, Caller("ann", frozenset())), EVERYTHING, about_directory("/other")) as marks:
        hub.publish([change])
        assert marks.topics == {about_directory("/other")}
        hub.publish([other])
        assert not hub._by_topic
        assert await marks.take() == {EVERYTHING, about_directory("/other")}
        hub.publish([change, other])
        marks.drop(EVERYTHING)
        assert await marks.take() == {about_directory("/other")}
        assert marks.topics == {about_directory("/other")}
    assert not hub._by_topic


async def test_heartbeats_and_logs_mark_nothing_and_lost_touch_marks_all():
    hub, change = Hub(), made()
    with hub.listening(Marks(hub, Caller("ann", frozenset())), about_directory("/w"), about_task("x")) as marks:
        hub.publish([evolve(change, entry=None)])
        assert not marks._marked
        hub.stir(None)
        assert await marks.take() == {about_directory("/w"), about_task("x")}


async def test_everything_is_what_the_key_may_see_and_rules_are_part_of_it():
    hub, caller = Hub(), Caller("ann", frozenset(), Reach(("/mine",)))
    with hub.listening(Marks(hub, caller), EVERYTHING, about_directory("/mine")) as marks:
        hub.publish([made("/other")])
        assert not marks._marked
        (ruling,) = Desk().effects(Regulate(work_directory="/mine", max_working=1)).changes
        for told in (ruling, Told(ruling.entry)):
            hub.publish([told])
            assert await marks.take() == {EVERYTHING, about_directory("/mine")}
