"""Networks whose packets a test may let vanish: a network namespace with a process in it, and a link for each of the ways it has
to the outside. Needs root, as CI has."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

_numbers = itertools.count()


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=30)


@dataclass(frozen=True)
class Link:
    """A network of two: this machine on one end, the namespace on the other. Down, nothing is refused or reset: packets just
    vanish, as with a cable that was pulled."""

    name: str
    here: str
    there: str

    def up(self) -> None:
        ip("link", "set", self.name, "up")

    def down(self) -> None:
        ip("link", "set", self.name, "down")


@dataclass
class Namespace:
    name: str
    links: list[Link] = field(default_factory=list)

    @property
    def command(self) -> list[str]:
        """What runs a program in it."""
        return ["ip", "netns", "exec", self.name]

    def link(self) -> Link:
        """One more way out, on a network of its own (RFC 1918, section 3)."""
        number = len(self.links)
        network = f"10.{_NETWORK + number}.{os.getpid() % 250}.{next(_numbers) % 63 * 4}"
        first, last = network.rsplit(".", 1)
        made = Link(f"{self.name}-{number}", f"{first}.{int(last) + 1}", f"{first}.{int(last) + 2}")
        inside = f"eth{number}"
        ip("link", "add", made.name, "type", "veth", "peer", "name", inside, "netns", self.name)
        ip("address", "add", f"{made.here}/30", "dev", made.name)
        ip("-n", self.name, "address", "add", f"{made.there}/30", "dev", inside)
        ip("-n", self.name, "link", "set", inside, "up")
        made.up()
        self.links.append(made)
        return made


_NETWORK: Final = 213
"""The second number of the first link's addresses."""


@contextmanager
def namespace() -> Iterator[Namespace]:
    made = Namespace(f"duo{os.getpid() % 100_000}n{next(_numbers)}")  # an interface's name has 15 characters at most
    ip("netns", "add", made.name)
    try:
        ip("-n", made.name, "link", "set", "lo", "up")
        yield made
    finally:
        ip("netns", "del", made.name)
