"""How a run ends: everybody comes back once more, reads what they miss, and the checker compares."""

from __future__ import annotations

from tests.support.checker import check
from tests.support.client import ChatClient, stored_messages
from tests.support.record import Message, Record


async def judge(record: Record, *devices: ChatClient) -> list[Message]:
    """Assert that nothing was lost, repeated, reordered or invented between these devices; returns what is stored.

    A device reconnects first, so that its sync tells it of everything, whether or not a live event is still on its way.
    """
    for device in devices:
        device.cut()
        await device.connect_surely()
        await device.complete()
    stored = await stored_messages(devices)
    check(record, stored).assert_clean()
    return stored
