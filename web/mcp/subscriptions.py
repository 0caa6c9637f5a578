"""News of resources: that one has changed, and may be read again.

Whatever happens to it, a resource is marked, once; and each mark is one notification. So a burst of changes is few of
them, nothing piles up behind a slow reader, and nobody misses the last change.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import mcp_types as types
from attrs import define, field
from mcp.server.connection import Connection
from mcp.shared.subscriptions import (
    SUBSCRIPTION_ID_META_KEY,
    ResourcesListChanged,
    ResourceUpdated,
    event_to_notification,
)

from dispatcher.caller import Caller
from dispatcher.hub import EVERYTHING, Closed, Hub, Listener, News, Topic
from web.access.calling import caller
from web.access.door import check_scope
from web.mcp.errors import Context, answering, check_size, no_such_resource, wrong
from web.mcp.uris import topic_of
from web.service import Service

URIS_MAX = 100  # of one subscription, or one session
REST_SECONDS = 1  # between two rounds of notifications
SUBSCRIBED: Final = "subscribed"  # under this name a session knows of it


class Marks(Listener):
    """The topics of which there is news, each once, however much there is: until its mark is taken, nothing more is
    heard of it. Of what the caller may not see there is no news."""

    def __init__(self, hub: Hub, by: Caller) -> None:
        super().__init__()
        self._hub, self._by, self._marked = hub, by, set[Topic]()
        self._over = asyncio.Event()

    def follow(self, topic: Topic) -> None:
        self._hub.follow(self, topic)

    def drop(self, topic: Topic) -> None:
        self._hub.unfollow(self, topic)
        self._marked.discard(topic)

    def hear(self, news: News) -> None:
        """But not of leases that are renewed, nor of what is printed: both happen all the time."""
        if news.type is not None and self._by.sees(news.work_directory):
            self._mark(news.topics & self.topics)

    def lose_touch(self) -> None:
        """There may be news of all of them."""
        self._mark(set(self.topics))

    def close(self) -> None:
        super().close()
        self._over.set()

    async def take(self) -> set[Topic]:
        """Those marked since the last time, as soon as there are any. Raises Closed."""
        while not self._marked:
            if self._closed:
                raise Closed
            self._more.clear()
            await self._more.wait()
        marked, self._marked = self._marked, set()
        for topic in marked:
            self.follow(topic)
        return marked

    async def rest(self) -> None:
        """For a while, unless it is over."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), REST_SECONDS)

    def _mark(self, topics: set[Topic]) -> None:
        for topic in topics:
            self._hub.unfollow(self, topic)
        self._marked |= topics
        self._more.set()


@define(eq=False)
class Addresses:
    """What a client has asked to be told of, in its own words, by what they stand for."""

    _by_topic: dict[Topic, list[str]] = field(factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self._by_topic.values()))

    def add(self, topic: Topic, uri: str) -> None:
        uris = self._by_topic.setdefault(topic, [])
        if uri not in uris:
            uris.append(uri)

    def remove(self, topic: Topic, uri: str) -> bool:
        """Nothing is left that stands for it."""
        uris = self._by_topic.get(topic, [])
        if uri in uris:
            uris.remove(uri)
        return not uris and self._by_topic.pop(topic, None) is not None

    def of(self, topics: Iterable[Topic]) -> list[str]:
        return [uri for topic in topics for uri in self._by_topic.get(topic, ())]


@answering
async def subscriptions_listen(
    service: Service, ctx: Context, params: types.SubscriptionsListenRequestParams
) -> types.SubscriptionsListenResult:
    """Until the client leaves, or the server stops. What is not there, or not for this key, is left out of the
    acknowledgement, as are the lists that never change; a work directory may yet come to be."""
    asked = params.notifications
    if len(uris := asked.resource_subscriptions or []) > URIS_MAX:
        raise wrong("notifications.resourceSubscriptions", f"must have at most {URIS_MAX} items")
    check_size(ctx)
    if uris:
        check_scope("read")
    with service.streaming("mcp"), service.hub.listening(Marks(service.hub, caller.get())) as marks:
        stream = _Stream(service, ctx, marks)
        honored = [uri for uri in dict.fromkeys(uris) if await stream.follow(uri)]
        if asked.resources_list_changed and caller.get().may("read"):
            await stream.count()
        await stream.acknowledge(
            types.SubscriptionFilter(
                resources_list_changed=stream.directories is not None or None,
                resource_subscriptions=honored or None,
            )
        )
        with suppress(Closed):
            await stream.tell()
    return types.SubscriptionsListenResult(_meta=stream.meta)


@define(eq=False)
class _Stream:
    """`directories`: how many there were, if the client wants to hear when there are more."""

    service: Service
    ctx: Context
    marks: Marks
    addresses: Addresses = field(factory=Addresses)
    directories: int | None = None

    @property
    def meta(self) -> dict[str, object]:
        return {SUBSCRIPTION_ID_META_KEY: self.ctx.request_id}

    async def follow(self, uri: str) -> bool:
        topic = topic_of(uri)
        if topic is None or not await _is_there(self.service, topic):
            return False
        self.addresses.add(topic, uri)
        self.marks.follow(topic)
        return True

    async def count(self) -> bool:
        """There are others than the last time."""
        self.marks.follow(EVERYTHING)
        before, self.directories = self.directories, (await self.service.record.directories_like("", 1)).total
        return before != self.directories

    async def acknowledge(self, honored: types.SubscriptionFilter) -> None:
        params = types.SubscriptionsAcknowledgedNotificationParams(notifications=honored, _meta=self.meta)
        await self._send(types.SubscriptionsAcknowledgedNotification(params=params))

    async def tell(self) -> None:
        """Raises Closed once all is told."""
        while True:
            marked = await self.marks.take()
            for uri in self.addresses.of(marked):
                await self._send(event_to_notification(ResourceUpdated(uri), self.meta))
            if self.directories is not None and EVERYTHING in marked and await self.count():
                await self._send(event_to_notification(ResourcesListChanged(), self.meta))
            await self.marks.rest()

    async def _send(self, notification: types.ServerNotification) -> None:
        await self.ctx.session.send_notification(notification, related_request_id=self.ctx.request_id)


@answering
async def subscribe(service: Service, ctx: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    """In a session of the revisions up to 2025-11-25, for as long as it lasts."""
    check_scope("read")
    topic = topic_of(params.uri)
    if topic is None or not await _is_there(service, topic):
        raise no_such_resource(ctx, params.uri)
    subscribed = _subscribed(service, ctx)
    if len(subscribed.addresses) >= URIS_MAX:
        raise wrong("uri", f"must be one of at most {URIS_MAX}: unsubscribe from others first")
    subscribed.addresses.add(topic, params.uri)
    subscribed.marks.follow(topic)
    return types.EmptyResult()


@answering
async def unsubscribe(service: Service, ctx: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    """From what the session was subscribed to, or was not."""
    subscribed, topic = _subscribed(service, ctx), topic_of(params.uri)
    if topic is not None and subscribed.addresses.remove(topic, params.uri):
        subscribed.marks.drop(topic)
    return types.EmptyResult()


@define(eq=False)
class _Subscribed:
    marks: Marks
    addresses: Addresses = field(factory=Addresses)

    async def tell(self, connection: Connection) -> None:
        with suppress(Closed):
            while True:
                for uri in self.addresses.of(await self.marks.take()):
                    await connection.send_resource_updated(uri)
                await self.marks.rest()


def _subscribed(service: Service, ctx: Context) -> _Subscribed:
    """That of the session, which tells from now on, until it ends."""
    connection = ctx.session._connection  # which the SDK keeps from handlers, with all that outlives a request
    found: _Subscribed | None = connection.state.get(SUBSCRIBED)
    if found is None:
        until_it_ends = connection.exit_stack
        until_it_ends.enter_context(service.streaming("mcp"))
        marks = until_it_ends.enter_context(service.hub.listening(Marks(service.hub, caller.get())))
        found = connection.state[SUBSCRIBED] = _Subscribed(marks)
        until_it_ends.callback(asyncio.create_task(found.tell(connection)).cancel)
    return found


async def _is_there(service: Service, topic: Topic) -> bool:
    """As far as the caller may see."""
    kind, name = topic
    if kind == "task":
        return await service.record.task(name) is not None
    return kind != "directory" or caller.get().sees(name)
