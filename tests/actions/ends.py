"""The rules in which the server ends, well or badly, and another one begins on what it left."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence

from duologue.server.transport.session import SERVICE_RESTART
from tests.actions.device import Device
from tests.actions.model import Message
from tests.actions.scene import Mark, Scene, Send, uuid_of
from tests.support import image


async def crash(scene: Scene, writes: Sequence[Send | Mark], turns: Sequence[int]) -> None:
    done = []
    for action, count in zip(writes, turns, strict=False):
        device = scene.device(action.device)
        scene.feed(action)
        done.append((action, device, scene.model.steps))
        for _ in range(count):
            await asyncio.sleep(0)
    left = image.take(scene.folder)
    effective = {change.step for changes in scene.model.changes.values() for change in changes}
    answered = max((step for _, device, step in done if device.answered(step) and step in effective), default=0)
    for device in scene.devices:
        device.compare_prefix(scene.model)
    scene.devices.clear()
    await scene.chat.drop()
    image.put_back(scene.folder, left)
    await scene.open_chat()
    assert scene.chat.store.epoch == scene.model.epoch, "a crash is no restored backup"
    kept = await _committed_prefix(scene)
    assert kept >= answered, "what was acknowledged is gone"
    await _come_back(scene, {device.user for _, device, _ in done})
    for action, device, step in done:
        _repeat(scene, action, device.user, step, kept)
    await scene.settle()


async def _committed_prefix(scene: Scene) -> int:
    """The last step that is on disk: all before it are, and none after it, whoever is asked."""
    versions = {}
    for user in scene.model.names:
        versions[user] = (await scene.chat.store.sync(user, None, None, 1, 1, 1)).version
    kept = max(
        (scene.model.changes[user][version - 1].step for user, version in versions.items() if version), default=0
    )
    for user, version in versions.items():
        assert version == sum(change.step <= kept for change in scene.model.changes[user])
    scene.versions = versions
    return kept


def _repeat(scene: Scene, action: Send | Mark, user: str, step: int, kept: int) -> None:
    """What a client does that had no answer. The model has the outcome already."""
    device = next(device for device in scene.devices if device.user == user and device is not scene.observer)
    outcome = scene.outcomes[step]
    for changes in scene.model.changes.values():
        for change in changes:
            if change.step == step:
                change.origin = device
    if isinstance(action, Send):
        to = scene.person(action.to)
        device.wrote_to.add(to)
        ack_id = device.emit("private message", {"content": action.content, "to": to, "id": uuid_of(action.id)})
    elif step > kept:  # one that went beyond the end then may not do so now
        ack_id = device.emit(action.event, {"with": scene.person(action.peer), "seq": action.seq})
    else:
        return
    assert ack_id is not None
    device.promised[ack_id] = lambda: outcome.ack() if isinstance(outcome, Message) else outcome


async def restart(scene: Scene, writes: Sequence[Send | Mark]) -> None:
    for action in writes:
        scene.feed(action)
    await _end(scene)
    await scene.open_chat()
    assert scene.chat.store.epoch == scene.model.epoch
    await _begin_again(scene)


async def _end(scene: Scene) -> None:
    """A clean stop: everybody has all of it and was sent away in a manner that makes them come back."""
    for user in scene.online():
        scene.model.leave(user, scene.clock.wall)
    await scene.chat.leave()


async def _begin_again(scene: Scene) -> None:
    await scene.learn_ids()
    for device in scene.devices:
        assert device.closed == SERVICE_RESTART
        assert not device.dismissed
        device.compare(scene.model)
    scene.devices.clear()
    scene.versions = {user: scene.model.version(user) for user in scene.model.names}
    await _come_back(scene, set())
    await scene.settle()


async def _come_back(scene: Scene, users: set[str]) -> None:
    """Sign in again, from the cursors of the last quiet moment."""
    tokens = {user: token for token, user in scene.model.tokens.items()}
    for user in [scene.observer.user, *sorted(users)]:
        since = scene.model.cursor(min(scene.versions[user], scene.model.version(user)))
        device = Device(scene.chat.transport, True, since, user)
        device.earliest = scene.versions[user]
        device.connect({"sessionID": tokens[user], "sync": {"since": since}})
        scene.devices.append(device)
        await device.until(lambda device=device: device.paged)
        device.greeted()
        device.compare_page(scene.model)
        if len(scene.devices) == 1:
            scene.observer = device
            await scene.watch_everybody()


async def make_backup(scene: Scene) -> None:
    await _end(scene)
    left = image.take(scene.folder)
    await scene.open_chat()
    assert scene.chat.store.epoch == scene.model.epoch
    await _begin_again(scene)
    for changes in scene.model.changes.values():
        for change in changes:
            change.origin = None
    scene.backup = left, copy.deepcopy(scene.model)


async def restore_backup(scene: Scene) -> None:
    assert scene.backup is not None
    left, model = scene.backup
    await _end(scene)
    for path in scene.folder.iterdir():
        path.unlink()
    image.put_back(scene.folder, left)
    scene.devices.clear()
    scene.model = copy.deepcopy(model)
    await scene.open_chat()
    assert scene.chat.store.epoch not in scene.epochs, "old cursors would be taken for good ones"
    scene.model.epoch = scene.chat.store.epoch
    scene.epochs.append(scene.model.epoch)
    await _begin_again(scene)
