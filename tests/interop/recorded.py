"""A stock client whose doings the checker can judge. It speaks the guide's form, but with ids and acks."""

from __future__ import annotations

import uuid
from typing import Any, Final

from tests.support.puppet import Puppet
from tests.support.record import Ack, How, MessageKey, Record, Sent

QUICK: Final = {"reconnectionDelay": 50, "reconnectionDelayMax": 200}


class Recorded:
    def __init__(self, puppet: Puppet, record: Record) -> None:
        self.puppet = puppet
        self.record = record
        self.user_id = ""
        self.session_id = ""

    async def connect(self, url: str, **options: Any) -> None:
        await self.puppet.connect(url, auth={"username": "the puppet"}, **QUICK, **options)
        (session,) = await self.puppet.wait_for("session")
        self.user_id, self.session_id = session["userID"], session["sessionID"]
        # What it says when it has to come back.
        await self.puppet.order("auth", auth={"sessionID": self.session_id})

    async def send(self, to: str, content: str) -> None:
        """Until it is acknowledged."""
        id = str(uuid.uuid4())
        self.record.sent.append(Sent(self.user_id, to, id, content))
        answer = await self.puppet.ask("private message", {"content": content, "to": to, "id": id})
        assert "error" not in answer, answer
        self.record.note_ack("puppet", Ack(MessageKey(self.user_id, to, id), answer["seq"], answer["at"]))

    async def emit(self, to: str, content: str) -> None:
        """Leave it to the client, its `retries` included."""
        id = str(uuid.uuid4())
        self.record.sent.append(Sent(self.user_id, to, id, content))
        await self.puppet.emit("private message", {"content": content, "to": to, "id": id})

    def note_what_it_saw(self) -> None:
        """For the checker: every connection is a socket, which begins with the roster."""
        log = None
        for name, arguments in self.puppet.events:
            if name == "session":
                log = self.record.open_socket(self.user_id, "puppet")
                log.reset = True
            elif log is not None and name == "users":
                for user in arguments[0]:
                    log.note(user["messages"], How.ROSTER)
            elif log is not None and name == "private message":
                log.note(arguments, How.LIVE, arguments[0]["cursor"])
            else:
                continue
            assert log is not None
            log.keep()
        self.record.complete["puppet"] = self.user_id
