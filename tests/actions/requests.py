"""The rules that ask for something and compare the answer; nothing else is under way meanwhile."""

from __future__ import annotations

from tests.actions.device import Device, assert_answer, same, without_presence
from tests.actions.scene import LIMITS, NOBODY, Scene


async def to_nobody(scene: Scene, device: Device, to: str, what: str) -> None:
    if what == "send":
        body: dict[str, object] = {"content": "one", "to": to}
    else:
        body = {"to": to} if what == "typing" else {"with": to, "seq": 1}
    event = "private message" if what == "send" else what
    answer = await device.ask(event, body)
    if (what, to) == ("typing", NOBODY):
        assert answer == {}
    else:
        assert_answer(answer, "unknown user")
    await scene.settle()


async def bad_request(scene: Scene, device: Device, event: str, code: str, body: object, ack: bool) -> None:
    device.expect_refusal(device.emit(event, body, ack=ack), event, code)
    if not ack:
        # Requests are answered in their own time: wait for this one.
        await device.until(lambda: len(device.seen(("refused",))) == len(device.refusals))
    else:
        await device.until(lambda: device.acks.keys() >= device.promised.keys())
    await scene.settle()


async def history(
    scene: Scene, device: Device, peer: str, before: int | None, after: int | None, limit: int | None
) -> None:
    if limit is not None and not 1 <= limit <= LIMITS.max_page:
        before = after = None  # one mistake at a time
    asked = {"with": peer, "before": before, "after": after, "limit": limit}
    answer = await device.ask("history", {name: value for name, value in asked.items() if value is not None})
    assert_answer(answer, scene.model.history(device.user, peer, before, after, limit))
    await scene.settle()


async def sync_page(scene: Scene, device: Device, since: int, next: int | None) -> None:
    """A further page of a sync from any cursor, and then all pages after it."""
    cursor = scene.cursor(device.user, since)
    version = scene.model.version(device.user)
    before = version + 1 if next is None else next
    while True:
        answer = await device.ask("sync", {"since": cursor, "next": str(before)})
        online = scene.online()
        for conversation in answer["conversations"]:
            assert conversation["with"]["connected"] == (conversation["with"]["userID"] in online)
        same(without_presence(answer), scene.model.sync(device.user, cursor, before, version))
        if answer["next"] is None:
            break
        assert int(answer["next"]) < before
        before = int(answer["next"])
    await scene.settle()


async def directory(scene: Scene, device: Device, after: int | None, limit: int | None) -> None:
    start = None if after is None else scene.person(after)
    asked = {"after": start, "limit": limit}
    answer = await device.ask("directory", {name: value for name, value in asked.items() if value is not None})
    assert_answer(answer, scene.model.directory(start, limit, scene.online()))
    await scene.settle()


async def watch(scene: Scene, device: Device, people: list[str], strange: bool) -> None:
    if device is scene.observer:
        return
    answer = await device.ask("watch", {"users": [*people, *((NOBODY, "x") if strange else ())]})
    online = scene.online()
    wanted = [scene.model.person(user, user in online) for user in sorted(set(people))]
    same(sorted(answer["people"], key=lambda person: str(person["userID"])), wanted)
    device.listen(scene.model)
    device.watched = set(people)
    device.online |= {person["userID"]: person["connected"] for person in answer["people"]}
    await scene.settle()


async def typing(scene: Scene, device: Device, to: str) -> None:
    for other in scene.devices:
        if other.user == to and other is not device:
            other.hints.append({"from": device.user})
    assert await device.ask("typing", {"to": to}) == {}
    await scene.settle()
