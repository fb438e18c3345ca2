"""How soon a user's other devices are signed out."""

from __future__ import annotations

import statistics
import time
from typing import Final, Self

import pytest

from tests.support.client import ChatClient, Refused

AT_ONCE: Final = 1.0
"""Seconds in which a sign-out acts on every node."""


class Devices:
    """Some people with a device here and one there. The first signs out, and so should the second, soon."""

    COUNT: Final = 3
    """People, for the machine may stand still for a second when one of them signs out."""

    def __init__(self, here: str, there: str) -> None:
        self._here = here
        self._there = there
        self._pairs: list[tuple[ChatClient, ChatClient]] = []

    async def connect(self) -> Self:
        for number in range(self.COUNT):
            phone = await ChatClient(self._here, f"ann {number}").connect()
            laptop = await ChatClient(self._there, f"ann {number}", session_id=phone.session_id).connect()
            phone.may_be_dismissed = laptop.may_be_dismissed = True
            self._pairs.append((phone, laptop))
        return self

    async def sign_out(self) -> float:
        """The median of the seconds until the second device is signed out too."""
        took = []
        for phone, laptop in self._pairs:
            await phone.request("sign out", {})
            began = time.monotonic()
            await laptop.wait_ended()
            took.append(time.monotonic() - began)
            assert laptop.dismissed
            with pytest.raises(Refused, match="invalid username"):
                await laptop.connect()
        return statistics.median(took)
