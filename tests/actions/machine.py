"""Everything that people and their devices can do, in any order: the rules of the state machine."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.actions import ends, requests
from tests.actions.scene import MOST_DEVICES, MOST_PEOPLE, NOBODY, Cut, Join, Mark, Scene, Send

T = TypeVar("T")

STRANGE_IDS = ("", "x", "é" * 16, "A" * 16, "*", NOBODY + "0")

picks = st.integers(0, 11)
sends = st.builds(
    Send, picks, picks, st.none() | st.integers(0, 5), st.sampled_from(["one", "two", "x" * 20, "ü😀"]), st.booleans()
)
marks = st.builds(Mark, picks, picks, st.sampled_from(["received", "read"]), st.integers(-1, 9), st.booleans())
cuts = st.builds(Cut, picks, st.sampled_from(["lose", "hang_up", "leave"]))
joins = st.builds(Join, picks, st.booleans(), st.integers(-4, 12))
writes = sends | marks
turns = st.integers(0, 4)
positions = st.none() | st.integers(-1, 12)


class ChatMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="duologue-machine-"))
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.scene = Scene(self.root / "data")

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    # Rules

    @initialize(guests=st.integers(1, 3), grace=st.booleans())
    def begin(self, guests: int, grace: bool) -> None:
        """With `grace` nobody goes offline before the server does."""
        self.run(self.scene.begin(guests, grace))

    @precondition(lambda self: len(self.scene.model.names) < MOST_PEOPLE and len(self.scene.devices) < MOST_DEVICES)
    @rule(syncs=st.booleans())
    def new_guest(self, syncs: bool) -> None:
        self.run(self.scene.new_guest(syncs))

    @rule(
        actions=st.lists(sends | marks | cuts | joins, min_size=1, max_size=6),
        turns=st.lists(turns, min_size=6, max_size=6),
    )
    def at_once(self, actions: list[Send | Mark | Cut | Join], turns: list[int]) -> None:
        """Several things before any of them is answered, with a few turns of the loop between them."""
        self.run(self.scene.at_once(actions, turns))

    @rule(device=picks, tokens=picks, since=st.integers(-4, 12), turns=st.integers(0, 12))
    def join_and_cut(self, device: int, tokens: int, since: int, turns: int) -> None:
        """Somebody whose connection breaks while they sign in."""
        self.run(self.scene.join_and_cut(Join(tokens, device % 2 == 0, since), turns))

    @rule(device=picks, to=st.sampled_from((NOBODY, *STRANGE_IDS)), what=st.sampled_from(["send", "read", "typing"]))
    def to_nobody(self, device: int, to: str, what: str) -> None:
        self.run(requests.to_nobody(self.scene, self.scene.device(device), to, what))

    @rule(device=picks, to=picks, content=st.sampled_from(["", "x" * 21, "a\0b"]), ack=st.booleans())
    def bad_content(self, device: int, to: int, content: str, ack: bool) -> None:
        self.run(self.scene.at_once([Send(device, to, 0, content, ack)], [0]))

    @rule(device=picks, ack=st.booleans(), event=st.sampled_from([
        ("shout", "unknown event", {}),
        ("private message", "bad request", {"content": 1, "to": NOBODY}),
        ("private message", "bad request", {"to": NOBODY}),
        ("private message", "bad request", "text"),
        ("private message", "bad request", {"content": "one", "to": "", "id": 5}),
        ("read", "bad request", {"with": NOBODY, "seq": "1"}),
        ("received", "bad request", {"with": NOBODY, "seq": 1.5}),
        ("read", "bad request", {"with": NOBODY, "seq": 2**53 + 1}),
        ("history", "bad request", {"with": 5}),
        ("watch", "bad request", {"users": [NOBODY] * 9}),
        ("sync", "unknown cursor", {"since": None, "next": "x"}),
        ("sync", "bad request", {"since": None}),
        ("directory", "unknown cursor", {"after": "x"}),
    ]))  # fmt: skip
    def bad_request(self, device: int, event: tuple[str, str, object], ack: bool) -> None:
        self.run(requests.bad_request(self.scene, self.scene.device(device), *event, ack))

    @rule(device=picks, peer=picks, before=positions, after=positions, limit=st.none() | st.integers(0, 5))
    def history(self, device: int, peer: int, before: int | None, after: int | None, limit: int | None) -> None:
        self.run(requests.history(self.scene, self.scene.device(device), self.scene.person(peer), before, after, limit))

    @rule(device=picks, since=st.integers(-4, 12), next=st.none() | st.integers(0, 14))
    def sync_page(self, device: int, since: int, next: int | None) -> None:
        self.run(requests.sync_page(self.scene, self.scene.device(device), since, next))

    @rule(device=picks, after=st.none() | picks, limit=st.none() | st.integers(0, 5))
    def directory(self, device: int, after: int | None, limit: int | None) -> None:
        self.run(requests.directory(self.scene, self.scene.device(device), after, limit))

    @rule(device=picks, people=st.lists(picks, max_size=4), strange=st.booleans())
    def watch(self, device: int, people: list[int], strange: bool) -> None:
        self.run(
            requests.watch(self.scene, self.scene.device(device), [self.scene.person(one) for one in people], strange)
        )

    @rule(device=picks, to=picks)
    def typing(self, device: int, to: int) -> None:
        self.run(requests.typing(self.scene, self.scene.device(device), self.scene.person(to)))

    @rule(writes=st.lists(writes, max_size=6), turns=st.lists(turns, min_size=6, max_size=6))
    def crash(self, writes: list[Send | Mark], turns: list[int]) -> None:
        """The process is gone while it writes; on the files as they lie all that was promised is there, and a retry of
        the rest makes it as if nothing had happened."""
        self.run(ends.crash(self.scene, [_with_id(each, index) for index, each in enumerate(writes)], turns))

    @rule(writes=st.lists(writes, max_size=6))
    def restart(self, writes: list[Send | Mark]) -> None:
        """A clean end with writes under way: all of them are answered."""
        self.run(ends.restart(self.scene, writes))

    @rule()
    def make_backup(self) -> None:
        self.run(ends.make_backup(self.scene))

    @precondition(lambda self: self.scene.backup is not None)
    @rule()
    def restore_backup(self) -> None:
        self.run(ends.restore_backup(self.scene))

    @rule(milliseconds=st.integers(-4_000_000, 4_000_000))
    def clock_jumps(self, milliseconds: int) -> None:
        self.scene.clock.wall += milliseconds

    def teardown(self) -> None:
        try:
            self.run(self.scene.leave())
        finally:
            self.runner.close()
            shutil.rmtree(self.root)


def _with_id(action: Send | Mark, index: int) -> Send | Mark:
    """Only what has an id can be repeated."""
    return action._replace(id=6 + index) if isinstance(action, Send) and action.id is None else action
