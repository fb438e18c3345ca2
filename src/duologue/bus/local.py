"""The bus of a single process: a publication is delivered at once, in order, exactly once."""

from __future__ import annotations

from duologue.bus.topics import Topics
from duologue.domain.ports import Receiver, TopicReceiver


class LocalBus:
    """Implements `duologue.domain.ports.Bus`."""

    healthy = True

    def __init__(self) -> None:
        self._sockets: dict[str, int] = {}
        self._receiver: Receiver | None = None
        self._topics = Topics()
        self.subscribe_topic = self._topics.subscribe
        self.unsubscribe_topic = self._topics.unsubscribe
        self.publish_topic = self._topics.deliver

    def notify(self, user: str, data: bytes) -> None:
        """There is no other node."""

    def subscribe_notices(self, receiver: TopicReceiver) -> None:
        pass

    def connect(self, receiver: Receiver) -> None:
        """Where publications go. Called once, before the first."""
        self._receiver = receiver

    def subscribe(self, user: str) -> None:
        self._sockets[user] = self._sockets.get(user, 0) + 1

    def unsubscribe(self, user: str) -> None:
        left = self._sockets[user] - 1
        if left:
            self._sockets[user] = left
        else:
            del self._sockets[user]

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def settled(self) -> None:
        pass

    def wanted(self, user: str, besides: int = 0) -> bool:
        return self._sockets.get(user, 0) > besides

    def publish(self, user: str, version: int, packet: bytes, exclude: str = "", announcement: bool = False) -> None:
        if user in self._sockets and self._receiver is not None:
            self._receiver(user, version, packet, exclude, announcement)
