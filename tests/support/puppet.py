"""The stock socket.io-client (npm) as a process that takes orders: see tests/interop/js/puppet.js."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import pytest

from tests.support.node import node

SCRIPTS: Final = Path(__file__).resolve().parents[1] / "interop" / "js"
PATIENCE: Final = 10.0
LINE_LIMIT: Final = 16 * 1024 * 1024

Event = tuple[str, list[Any]]


class PuppetFailed(AssertionError):
    """The client did not do what the test waits for; the message tells what it did."""


def binary(content: bytes) -> dict[str, str]:
    """How a binary argument travels to the puppet and back."""
    return {"$bytes": base64.b64encode(content).decode()}


class Puppet:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())
        self.events: list[Event] = []

    @classmethod
    async def start(cls) -> Self:
        executable = node()
        if executable is None or not (SCRIPTS / "node_modules" / "socket.io-client").exists():
            pytest.fail("Node.js or the packages of tests/interop/js are missing: `make test` installs both")
        process = await asyncio.create_subprocess_exec(
            executable,
            str(SCRIPTS / "puppet.js"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=LINE_LIMIT,
        )
        return cls(process)

    async def order(self, do: str, **arguments: Any) -> Any:
        """Give an order and wait until it's done; its value. Raises `PuppetFailed` with the client's error."""
        assert self._process.stdin is not None
        id = next(self._ids)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[id] = future
        self._process.stdin.write(json.dumps({"id": id, "do": do, **arguments}).encode() + b"\n")
        try:
            return await asyncio.wait_for(future, PATIENCE)
        except TimeoutError:
            raise PuppetFailed(f"no answer to {do!r}; events: {self.events[-20:]}") from None

    async def connect(self, url: str, **options: Any) -> None:
        """Connect with the client's own options (camelCase) and wait for it."""
        await self.order("connect", url=url, options=options)
        await self.wait_for("@connect")

    async def emit(self, event: str, *args: Any) -> None:
        await self.order("emit", event=event, args=args)

    async def ask(self, event: str, *args: Any, timeout: int | None = None) -> Any:
        """Emit and wait for the ack; its (first) argument. `timeout` in milliseconds is the client's own."""
        return await self.order("emit", event=event, args=args, ack=True, timeout=timeout)

    def mark(self) -> int:
        """A place in the events, for `since`."""
        return len(self.events)

    async def wait_for(
        self, name: str, wanted: Callable[[list[Any]], bool] = lambda _: True, *, since: int = 0
    ) -> list[Any]:
        """The arguments of the first event of that name after `since` that is wanted, past or to come."""

        def found() -> list[Any] | None:
            return next((args for event, args in self.events[since:] if event == name and wanted(args)), None)

        async with self._news:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._news.wait_for(lambda: found() is not None or self._reader.done())
            except TimeoutError:
                pass
        arguments = found()
        if arguments is None:
            raise PuppetFailed(f"no {name!r} came; events: {self.events[since:][-20:]}")
        return arguments

    def args_of(self, name: str, since: int = 0) -> list[list[Any]]:
        """The arguments of every event of that name so far."""
        return [args for event, args in self.events[since:] if event == name]

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader
        # The transports of the pipes are closed by the loop in its next turn.
        self._process._transport.close()  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            await asyncio.sleep(0)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                message = json.loads(line)
            except ValueError:
                message = {"event": "@output", "args": [line.decode(errors="backslashreplace").rstrip()]}
            if "answer" in message:
                self._settle(message)
            else:
                self.events.append((message["event"], message["args"]))
            async with self._news:
                self._news.notify_all()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(PuppetFailed(f"the client ended; events: {self.events[-20:]}"))
                future.exception()
        async with self._news:
            self._news.notify_all()

    def _settle(self, message: dict[str, Any]) -> None:
        future = self._answers.pop(message["answer"])
        if future.done():
            return
        if "error" in message:
            future.set_exception(PuppetFailed(message["error"]))
        else:
            future.set_result(message["value"])
