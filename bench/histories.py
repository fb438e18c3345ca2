"""What needs messages, or people, stored before: coming back to a short and to a long history, paging and writing on in it,
and the herd."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import herd
from bench.peers.launch import LOAD_CORE, ROOT, Peer, pinned, running
from bench.scenarios import Result, at_rest, load, outcome, rotated, stored

FILL_TIMEOUT = 3_600.0

READ_AT_ONCE = 1 << 20
"""Bytes."""

LENGTHS = 3
"""Rounds at least of what has to be as fast with many messages as with few: they differ by a tenth and more."""

RETURNS = 20
"""The same of syncs, which take less than a second a round. So both servers run all the time, and take turns."""

READINGS = 10
"""The same of old pages."""

Measure = Callable[[Peer, Path, int], Result]
"""Of a server, with the sessions of its people and the number of the round."""


@dataclass(frozen=True)
class History:
    name: str
    messages: int
    people: int = 200
    partners: int = 5
    """Conversations that each person begins; as many are begun with them."""
    times: int = 10
    """How often each person comes back."""


def reconnects(node: str, histories: Sequence[History], rounds: int) -> Iterator[Result]:
    """Syncs after one missed message, taking turns."""
    with tempfile.TemporaryDirectory(prefix="duologue-bench-") as temporary:
        folder = Path(temporary)
        for each in histories:
            fill(folder, each)
        yield from _in_turn(node, folder, histories, rounds, "reconnect", _reconnect)


def lengths(node: str, short: History, middle: History, long: History, rounds: int, seconds: float) -> Iterator[Result]:
    """What a store with many messages does as fast as one with few: syncs, old pages, new messages, in this order, for only
    the last one changes it. And what they take on disk. A page is as full in the `middle` one as in the long one."""
    histories, rounds = (short, middle, long), max(LENGTHS, rounds)
    with tempfile.TemporaryDirectory(prefix="duologue-bench-") as temporary:
        folder = Path(temporary)
        for each in histories:
            written = fill(folder, each)
            size = stored(folder / each.name)
            found = {
                "bytes_stored_per_message": size / each.messages,
                "bytes_written_per_message": written / each.messages,
            }
            yield {"peer": "duologue", "scenario": f"size, {each.name}", "round": 0, "valid": True, **found}
        yield from _side_by_side(node, folder, (short, long), max(RETURNS, rounds), "reconnect", _reconnect)
        flags = ("--seconds", str(seconds))
        pages = partial(_pages, flags)
        yield from _side_by_side(node, folder, (middle, long), max(READINGS, rounds), "pages", pages)
        yield from _in_turn(node, folder, (middle, long), rounds, "appends", partial(_appends, flags))


def _in_turn(
    node: str, folder: Path, histories: Sequence[History], rounds: int, what: str, measure: Measure
) -> Iterator[Result]:
    for turn in range(rounds):
        for each in rotated(histories, turn):
            with running("duologue", node, folder / each.name) as peer:
                rested = _ready(peer, folder / each.name)
                result = measure(peer, folder / f"{each.name}.json", turn)
            yield {"peer": "duologue", "scenario": f"{what}, {each.name}", "round": turn, **rested, **result}


def _side_by_side(
    node: str, folder: Path, histories: Sequence[History], rounds: int, what: str, measure: Measure
) -> Iterator[Result]:
    """What only reads, with a server of each that isn't stopped in between: the machine's speed moves within the half minute
    that a start takes, and a round is a second or a few."""
    with ExitStack() as stack:
        peers = [stack.enter_context(running("duologue", node, folder / each.name)) for each in histories]
        ready = [(each, peer, _ready(peer, folder / each.name)) for each, peer in zip(histories, peers, strict=True)]
        for turn in range(rounds):
            for each, peer, rested in rotated(ready, turn):
                result = measure(peer, folder / f"{each.name}.json", turn)
                yield {"peer": "duologue", "scenario": f"{what}, {each.name}", "round": turn, **rested, **result}


def _ready(peer: Peer, folder: Path) -> Result:
    """Wait for it: with millions of messages it fills its filter of identities for a while after a start."""
    seconds, cpu = at_rest(peer)
    _read_once(folder)
    return {"seconds_to_rest": seconds, "cpu_seconds_to_rest": cpu}


def _read_once(folder: Path) -> None:
    """So that the system has it in its page cache, both histories alike: what nobody used for a while some machines reclaim,
    however much memory is free, and then one history would be read from memory and the other from the disk."""
    for file in folder.iterdir():
        with file.open("rb", buffering=0) as content:
            while content.read(READ_AT_ONCE):
                pass


def _reconnect(peer: Peer, sessions: Path, _turn: int) -> Result:
    count = len(json.loads(sessions.read_text()))
    cpu = peer.cpu()
    result = load("reconnect", peer, "--sockets", "50", "--sessions", str(sessions))
    result["server_cpu_ms"] = (peer.cpu() - cpu) / count * 1000
    return result


def _pages(flags: Sequence[str], peer: Peer, sessions: Path, _turn: int) -> Result:
    command = [sys.executable, "-m", "bench.pages", "--url", peer.url, "--sessions", str(sessions), *flags]
    read = peer.read()
    result = outcome(pinned(LOAD_CORE, command))
    return {**result, "bytes_from_disk_per_second": (peer.read() - read) / float(flags[-1])}


def _appends(flags: Sequence[str], peer: Peer, sessions: Path, turn: int) -> Result:
    how = ("--sockets", str(History.people), "--window", "10", "--seed", str(turn))
    return load("closed", peer, *how, "--sessions", str(sessions), *flags)


def fill(folder: Path, history: History) -> int:
    """Make the data folder `name` and the list of sessions `name.json`. Returns the bytes that it wrote to disk."""
    command = [sys.executable, "-m", "bench.fill", str(folder / history.name), str(folder / f"{history.name}.json")]
    for name in ("messages", "people", "partners", "times"):
        command += [f"--{name}", str(getattr(history, name))]
    done = subprocess.run(command, cwd=ROOT, check=True, timeout=FILL_TIMEOUT, stdout=subprocess.PIPE, text=True)
    return int(done.stdout)


def returns(node: str, sockets: int, rounds: int) -> Iterator[Result]:
    for turn in range(rounds):
        for how, spread in (("spread as they were told", True), ("all at once", False)):
            result = herd.measure(node, sockets, spread)
            yield {"peer": "duologue", "scenario": f"herd, {sockets:,} sockets, {how}", "round": turn, **result}
