"""Every event and every ack of docs/protocol.md, byte for byte: one conversation, and what went over each wire.

What differs from run to run is written in capitals: ALICE and BOB are user ids, EPOCH the store's, AT a time, TOKEN a
session's id, SID a socket's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.support.inside import Gate, Inside, serving
from tests.support.links import WebsocketLink

pytestmark = pytest.mark.asyncio

FIRST: Final = "00000000-0000-4000-8000-000000000001"
SECOND: Final = "00000000-0000-4000-8000-00000000000A"


class Wire:
    """A socket and all that came on it."""

    def __init__(self) -> None:
        self.packets: list[str] = []
        self._gate = Gate()
        self.link: WebsocketLink

    async def open(self, url: str) -> None:
        self.link = await WebsocketLink.open(url, self)

    def packet(self, packet: bytes) -> None:
        self.packets.append(packet.decode())
        self._gate.note_arrival()

    def ended(self, reason: str) -> None:
        pass

    async def next(self, number: int) -> list[str]:
        """The next packets, so many."""
        taken = self._gate.arrived - len(self.packets)
        await self._gate.reached(taken + number)
        found, self.packets = self.packets[:number], self.packets[number:]
        return found


class Stage:
    """The sockets of a play, and the names of what differs from run to run."""

    def __init__(self, inside: Inside) -> None:
        self._inside = inside
        self._names: dict[str, str] = {inside.store.epoch: "EPOCH"}
        self.wires: dict[str, Wire] = {}

    async def play(self, who: str, says: str, expected: dict[str, list[str]]) -> None:
        """`who` sends a packet ("cut" ends them), and each of the others gets what is expected and nothing before it."""
        if says == "cut":
            self.wires.pop(who).link.abort()
        else:
            if who not in self.wires:
                self.wires[who] = Wire()
                await self.wires[who].open(self._inside.url)
            self.wires[who].link.send(self._filled(says).encode())
        for reader, packets in expected.items():
            got = await self.wires[reader].next(len(packets))
            for packet in got:
                self._learn(reader, packet)
            assert [self._named(packet) for packet in got] == packets, f"{reader}, after {who} sent {says}"

    async def nothing_else(self) -> None:
        for who, wire in self.wires.items():
            wire.link.send(b'299["typing",{"to":"' + b"0" * 16 + b'"}]')
            assert await wire.next(1) == ["399[{}]"], who

    def _learn(self, who: str, packet: str) -> None:
        if packet.startswith('2["session"'):
            session = msgspec.json.decode(packet[1:])[1]
            name = who.removesuffix("'s tablet").removesuffix("'s phone").upper()
            self._names[session["userID"]] = name
            self._names[session["sessionID"]] = f"TOKEN {name}"

    def _named(self, packet: str) -> str:
        for value, name in self._names.items():
            packet = packet.replace(value, name)
        packet = re.sub(r'"(at|lastSeen)":\d{13}\b', r'"\1":AT', packet)
        packet = re.sub(r'"retryAfter":\d\.\d{1,3}\b', '"retryAfter":SECONDS', packet)
        packet = re.sub(r'"id":"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"', _own_id, packet)
        return re.sub(r'^0\{"sid":"[\w-]{20}"\}$', '0{"sid":"SID"}', packet)

    def _filled(self, says: str) -> str:
        for value, name in sorted(self._names.items(), key=lambda item: -len(item[1])):
            says = says.replace(name, value)
        return says


def _own_id(match: re.Match[str]) -> str:
    """The ids that the clients of the play made up stay, the server's own are called ID."""
    return match[0] if match[0][6:-1] in (FIRST, SECOND) else '"id":"ID"'


SID: Final = '0{"sid":"SID"}'
ALICE: Final = '{"userID":"ALICE","username":"alice","connected":true,"messages":[]}'
BOB: Final = '{"userID":"BOB","username":"bob","connected":true,"messages":[]}'
SETTINGS: Final = (
    '{"typingRepeat":3000,"typingExpires":6000,"maxContent":20,"maxPage":200,"maxWatch":2,"returnWithin":0}'
)


def message(content: str, sender: str, to: str, id: str, seq: int) -> str:
    return f'{{"content":"{content}","from":"{sender}","to":"{to}","id":"{id}","seq":{seq},"rev":{seq},"at":AT}}'


def live(stored: str, cursor: int) -> str:
    return f'2["private message",{stored[:-1]},"cursor":"EPOCH.{cursor}"}}]'


def receipt(sender: str, to: str, received: int, read: int, cursor: int) -> str:
    fields = f'"from":"{sender}","to":"{to}","received":{received},"read":{read},"cursor":"EPOCH.{cursor}"'
    return f'2["receipt",{{{fields}}}]'


def conversation(seq: int, peer_read: int, unread: int, messages: str, gap: str) -> str:
    """Bob's with Alice, of which he has read two messages."""
    return (
        f'{{"with":{{"userID":"ALICE","username":"alice","connected":true}},"seq":{seq},"rev":{seq},'
        f'"read":2,"received":2,"peerRead":{peer_read},"peerReceived":{peer_read},"unread":{unread},'
        f'"messages":[{messages}],"gap":{gap}}}'
    )


def page(cursor: int, reset: str, conversations: str = "") -> str:
    """What Bob gets of a sync."""
    return (
        f'{{"cursor":"EPOCH.{cursor}","reset":{reset},"conversations":[{conversations}],"next":null,'
        f'"me":{{"userID":"BOB","username":"bob"}},"server":{SETTINGS}}}'
    )


GAP: Final = '{"after":2,"before":4}'
ONE: Final = message(r"hé \"\n", "ALICE", "BOB", "ID", 1)
TWO: Final = message("two", "BOB", "ALICE", FIRST, 2)
THREE: Final = message("three", "ALICE", "BOB", SECOND, 3)
FOUR: Final = message("four", "ALICE", "BOB", "ID", 4)
FIVE: Final = message("five", "ALICE", "BOB", "ID", 5)

CONFLICT: Final = '"error":"conflict","message":"A message of that id with another text was sent before."'
TOO_LONG: Final = '"error":"too long","message":"The message has more characters than this server accepts."'
EMPTY: Final = (
    '"error":"invalid content","message":"A message is text of at least one character, without NUL or lone surrogates."'
)
NOBODY: Final = '"error":"unknown user","message":"There is nobody of that id."'
BAD: Final = '"error":"bad request","message":"The request lacks a field or has one of the wrong type."'
UNKNOWN: Final = '"error":"unknown event","message":"This server knows no event of that name."'
CURSOR: Final = (
    '"error":"unknown cursor","message":"That position is not one this server gave out; sync again from the start."'
)
NAME: Final = "A username has 3 to 32 characters, none of them invisible; choose another one."

# who, what they send, what each socket gets; each packet that comes has to be in some row
PLAY: Final[list[tuple[str, str, dict[str, list[str]]]]] = [
    ("alice", '0{"username":"alice"}', {
        "alice": [SID, '2["session",{"sessionID":"TOKEN ALICE","userID":"ALICE"}]', f'2["users",[{ALICE}]]'],
    }),
    ("bob", '0{"username":"bob","sync":{"since":null}}', {
        "bob": [SID, '2["session",{"sessionID":"TOKEN BOB","userID":"BOB"}]',
                f'2["sync",{page(0, "true")}]'],
        "alice": [f'2["user connected",{BOB}]'],
    }),
    ("alice's tablet", '0{"sessionID":"TOKEN ALICE"}', {
        "alice's tablet": [SID, '2["session",{"sessionID":"TOKEN ALICE","userID":"ALICE"}]',
                           f'2["users",[{ALICE},{BOB}]]'],
    }),
    # Sending, with and without id and ack
    ("alice", '2["private message",{"content":"h\\u00e9 \\"\\n","to":"BOB"}]', {
        "bob": [f'2["user connected",{ALICE}]', live(ONE, 1)],
        "alice's tablet": [live(ONE, 1)],
    }),
    ("bob", f'27["private message",{{"content":"two","to":"ALICE","id":"{FIRST}"}}]', {
        "bob": [f'37[{{"id":"{FIRST}","seq":2,"at":AT}}]'],
        "alice": [live(TWO, 2)],
        "alice's tablet": [live(TWO, 2)],
    }),
    ("bob", f'28["private message",{{"content":"two","to":"ALICE","id":"{FIRST}"}}]', {
        "bob": [f'38[{{"id":"{FIRST}","seq":2,"at":AT}}]'],
    }),
    # Refusals, by the ack and by the event
    ("bob", f'29["private message",{{"content":"other","to":"ALICE","id":"{FIRST}"}}]', {"bob": [f"39[{{{CONFLICT}}}]"]}),
    ("bob", f'2["private message",{{"content":"other","to":"ALICE","id":"{FIRST}"}}]', {
        "bob": [f'2["refused",{{{CONFLICT},"event":"private message","id":"{FIRST}"}}]'],
    }),
    ("bob", f'2["private message",{{"content":"{"x" * 21}","to":"ALICE"}}]', {
        "bob": [f'2["refused",{{{TOO_LONG},"event":"private message"}}]'],
    }),
    ("bob", '210["private message",{"content":"","to":"ALICE"}]', {"bob": [f"310[{{{EMPTY}}}]"]}),
    ("bob", '211["private message",{"content":"x","to":"0123456789abcdef"}]', {"bob": [f"311[{{{NOBODY}}}]"]}),
    ("bob", '212["private message",{"to":"ALICE"}]', {"bob": [f"312[{{{BAD}}}]"]}),
    ("bob", '213["no such event",{}]', {"bob": [f"313[{{{UNKNOWN}}}]"]}),
    ("bob", '2["no such event",{}]', {"bob": [f'2["refused",{{{UNKNOWN},"event":"no such event"}}]']}),
    # Positions and typing
    ("alice", '214["received",{"with":"BOB","seq":2}]', {
        "alice": ['314[{"received":2,"read":1}]'],
        "alice's tablet": [receipt("ALICE", "BOB", 2, 1, 3)],
        "bob": [receipt("ALICE", "BOB", 2, 1, 3)],
    }),
    ("alice", '215["read",{"with":"BOB","seq":2}]', {
        "alice": ['315[{"received":2,"read":2}]'],
        "alice's tablet": [receipt("ALICE", "BOB", 2, 2, 4)],
        "bob": [receipt("ALICE", "BOB", 2, 2, 4)],
    }),
    ("alice", '216["read",{"with":"BOB","seq":1}]', {"alice": ['316[{"received":2,"read":2}]']}),
    ("alice", '217["typing",{"to":"BOB"}]', {"alice": ["317[{}]"], "bob": ['2["typing",{"from":"ALICE"}]']}),
    ("alice", '2["typing",{"to":"BOB"}]', {"bob": ['2["typing",{"from":"ALICE"}]']}),
    # What is read
    ("bob", '218["history",{"with":"ALICE","limit":1}]', {"bob": [f'318[{{"messages":[{TWO}],"more":true}}]']}),
    ("bob", '219["history",{"with":"ALICE","after":0}]', {"bob": [f'319[{{"messages":[{ONE},{TWO}],"more":false}}]']}),
    ("bob", '220["history",{"with":"ALICE","after":9}]', {"bob": [f"320[{{{CURSOR}}}]"]}),
    ("bob", '221["sync",{"since":"EPOCH.1","next":"9"}]', {
        "bob": [f"321[{page(4, 'false', conversation(2, 2, 0, TWO, 'null'))}]"],
    }),
    ("bob", '222["watch",{"users":["ALICE","0123456789abcdef"]}]', {
        "bob": ['322[{"people":[{"userID":"ALICE","username":"alice","connected":true,"lastSeen":null}]}]'],
    }),
    # Leaving, and what was missed
    ("bob", "cut", {"alice": ['2["user disconnected","BOB"]'], "alice's tablet": ['2["user disconnected","BOB"]']}),
    ("alice", f'223["private message",{{"content":"three","to":"BOB","id":"{SECOND}"}}]', {
        "alice": [f'323[{{"id":"{SECOND}","seq":3,"at":AT}}]'],
        "alice's tablet": [live(THREE, 5)],
    }),
    ("alice", '224["watch",{"users":["BOB"]}]', {
        "alice": ['324[{"people":[{"userID":"BOB","username":"bob","connected":false,"lastSeen":AT}]}]'],
    }),
    ("alice", '2["private message",{"content":"four","to":"BOB"}]', {"alice's tablet": [live(FOUR, 6)]}),
    ("alice", '2["private message",{"content":"five","to":"BOB"}]', {"alice's tablet": [live(FIVE, 7)]}),
    ("bob", '0{"sessionID":"TOKEN BOB","sync":{"since":"EPOCH.4"}}', {
        "bob": [SID, '2["session",{"sessionID":"TOKEN BOB","userID":"BOB"}]',
                f'2["sync",{page(7, "false", conversation(5, 5, 3, f"{FOUR},{FIVE}", GAP))}]'],
        "alice": [f'2["user connected",{BOB}]'],
        "alice's tablet": [f'2["user connected",{BOB}]'],
    }),
    # The guide's client gets all of it, at once
    ("alice's phone", '0{"sessionID":"TOKEN ALICE"}', {
        "alice's phone": [SID, '2["session",{"sessionID":"TOKEN ALICE","userID":"ALICE"}]',
                          f'2["users",[{ALICE},{BOB[:-2]}{ONE},{TWO},{THREE},{FOUR},{FIVE}]}}]]'],
    }),
    ("nobody", '0{"username":"x"}', {
        "nobody": [f'4{{"message":"invalid username","data":{{"code":"invalid username","message":"{NAME}"}}}}'],
    }),
    ("nobody", "cut", {}),
]  # fmt: skip


async def test_every_event_and_ack(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", page=2, max_content=20, max_watch=2) as inside:
        stage = Stage(inside)
        for who, says, expected in PLAY:
            await stage.play(who, says, expected)
        await stage.nothing_else()


async def test_the_directory(tmp_path: Path) -> None:
    """In the order of the ids, which is another one in each run."""
    async with serving(tmp_path / "data") as inside:
        names = ["alice", "bob", "carol"]
        wires = [Wire() for _ in names]
        sessions = []
        for name, wire in zip(names, wires, strict=True):
            await wire.open(inside.url)
            wire.link.send(f'0{{"username":"{name}","sync":{{"since":null}}}}'.encode())
            sessions.append(msgspec.json.decode((await wire.next(3))[1][1:])[1])
        ids = {session["userID"]: name for session, name in zip(sessions, names, strict=True)}
        people = [f'{{"userID":"{id}","username":"{ids[id]}","connected":true,"lastSeen":null}}' for id in sorted(ids)]
        reader, second = wires[0], sorted(ids)[1]
        reader.link.send(b'21["directory",{"limit":2}]')
        assert await reader.next(1) == [f'31[{{"people":[{people[0]},{people[1]}],"next":"{second}"}}]']
        reader.link.send(f'22["directory",{{"after":"{second}","limit":2}}]'.encode())
        assert await reader.next(1) == [f'32[{{"people":[{people[2]}],"next":null}}]']


async def test_a_refusal_after_which_a_retry_helps_says_when(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", message_rate=0.5, message_burst=1) as inside:
        stage = Stage(inside)
        await stage.play("alice", '0{"username":"alice"}', {"alice": PLAY[0][2]["alice"]})
        await stage.play("alice", '21["typing",{"to":"ALICE"}]', {"alice": ["31[{}]"]})
        sentence = "Too many requests; try again after the given number of seconds."
        refused = f'32[{{"error":"rate limited","message":"{sentence}","retryAfter":SECONDS}}]'
        await stage.play("alice", '22["typing",{"to":"ALICE"}]', {"alice": [refused]})
