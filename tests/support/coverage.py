"""Which seqs of a conversation somebody holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Coverage:
    """A set of seqs from 1 up that is cheap while it has few holes: all up to `upto`, and some beyond."""

    def __init__(self) -> None:
        self.upto = 0
        self._beyond: set[int] = set()

    def add(self, seqs: Iterable[int]) -> None:
        self._beyond.update(seq for seq in seqs if seq > self.upto)
        while self.upto + 1 in self._beyond:
            self.upto += 1
            self._beyond.remove(self.upto)

    def holes(self, last: int) -> Iterator[tuple[int, int]]:
        """The stretches of 1..last that are missing, each as (first, last)."""
        start = self.upto + 1
        for seq in [*sorted(seq for seq in self._beyond if seq <= last), last + 1]:
            if seq > start:
                yield start, seq - 1
            start = seq + 1
