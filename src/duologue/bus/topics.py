"""The receivers of one node's topics: what both kinds of bus do with a topic's publication that has reached the node."""

from __future__ import annotations

from collections.abc import Iterator

from duologue.domain.ports import TopicReceiver


class Topics:
    """`subscribe` and `unsubscribe` take a topic, or a pattern that ends in `.*` and means every topic with one more word."""

    def __init__(self) -> None:
        self._receivers: dict[str, TopicReceiver] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._receivers)

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._receivers

    def subscribe(self, pattern: str, receiver: TopicReceiver) -> None:
        self._receivers[pattern] = receiver

    def unsubscribe(self, pattern: str) -> None:
        del self._receivers[pattern]

    def deliver(self, topic: str, data: bytes) -> None:
        """To the receiver of the topic and to that of its pattern, where there are such."""
        for pattern in (topic, f"{topic.rpartition('.')[0]}.*"):
            receiver = self._receivers.get(pattern)
            if receiver is not None:
                receiver(topic, data)
