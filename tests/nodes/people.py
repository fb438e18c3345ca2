"""What one client is told of who is online."""

from __future__ import annotations

from tests.support.client import ChatClient
from tests.support.sockets import PATIENCE


def told_last(client: ChatClient) -> dict[str, bool]:
    """Whether each user is online, as the client was told last. It may have been told otherwise before: who has just signed up
    is in the directory and not yet in the registry, and a comparison that falls between the two says that they're offline."""
    online = {}
    for name, arguments in client.events:
        if name == "user connected":
            online[arguments[0]["userID"]] = arguments[0]["connected"]
        elif name == "user disconnected":
            online[arguments[0]] = False
    return online


async def connected(client: ChatClient, user_id: str) -> None:
    await client.wait_for(lambda _: told_last(client).get(user_id) is True)


async def disconnected(client: ChatClient, user_id: str, timeout: float = PATIENCE) -> None:
    await client.wait_for(lambda _: told_last(client).get(user_id) is False, timeout)


async def watching(url: str, guide: bool, *whom: ChatClient) -> ChatClient:
    """A client that has been told that these people are online."""
    watcher = await ChatClient(url, "bob", guide=guide).connect()
    await watch(watcher, *whom)
    return watcher


async def watch(watcher: ChatClient, *whom: ChatClient) -> None:
    """At once, or by an event, if the registry did not have it yet."""
    if watcher.guide:
        (users,) = await watcher.wait_for_event("users")
        online = {user["userID"] for user in users if user["connected"]}
    else:
        answer = await watcher.request("watch", {"users": [each.user_id for each in whom]})
        online = {person["userID"] for person in answer["people"] if person["connected"]}
    for each in whom:
        if each.user_id not in online:
            await connected(watcher, each.user_id)
