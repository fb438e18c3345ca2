"""The whole chat in this process, put together as `duologue.main` does, but without a port: for tests that need to hold
one of its parts in their hands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from duologue.bus.local import LocalBus
from duologue.domain.limits import ChatLimits
from duologue.domain.ports import Clock, Pending, Sink
from duologue.server.gateway import ARGUMENTS, Gateway
from duologue.server.outcomes import Outcomes
from duologue.server.transport import SocketServer, TransportConfig
from duologue.store.sqlite import SqliteStore


class Chat:
    """Everything is real: the store on disk, the bus, the gateway with its hub, and the transports."""

    def __init__(self, store: SqliteStore, gateway: Gateway, outcomes: Outcomes, transport: SocketServer) -> None:
        self.store = store
        self.gateway = gateway
        self.outcomes = outcomes
        self.transport = transport

    @classmethod
    async def open(
        cls,
        folder: Path,
        clock: Clock,
        limits: ChatLimits,
        bus: LocalBus | None = None,
        *,
        config: TransportConfig | None = None,
        store_type: type[SqliteStore] = SqliteStore,
        sink: Sink | None = None,
    ) -> Self:
        """Raises `StoreUnusable`. A store that fails later fails the test by its exception. A `sink` hands on what it gets
        to `outcomes`, sooner or later."""
        bus = bus or LocalBus()
        outcomes: Outcomes

        def straight(batch: Sequence[Pending]) -> None:
            outcomes(batch)

        def failed(error: BaseException) -> None:
            raise error

        store = await store_type.open(folder, clock, sink or straight, failed)
        gateway = Gateway(store, bus, clock, limits)
        outcomes = Outcomes(gateway.hub, gateway.presence, bus, store)
        bus.connect(gateway.hub.receive)
        await gateway.start()
        transport = SocketServer(
            gateway, config, types=ARGUMENTS, on_typed_event=gateway.on_typed_event, refuser=gateway.refuser
        )
        return cls(store, gateway, outcomes, transport)

    async def leave(self) -> None:
        """A clean end, in the order of `duologue.main`: what was accepted is committed and answered first."""
        await self.gateway.leave()
        await self.store.close()
        await self.gateway.stop()
        await self.transport.stop()

    async def drop(self) -> None:
        """As if the process was gone: nobody is told and nothing is finished, as far as one process can do that to a
        part of itself. What the store still writes is for the caller to put back (`tests.support.image`)."""
        await self.gateway.stop()
        await self.store.close()
