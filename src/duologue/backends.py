"""The store and the bus that the settings name.

One machine has SQLite in a folder and a bus within the process; several nodes have PostgreSQL and NATS, whose clients are
installed with the extra `cluster` and imported only where they're asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from duologue.bus.local import LocalBus
from duologue.domain.errors import StoreUnusable
from duologue.domain.ports import Clock, Registry, Sink
from duologue.setting_texts import without_password
from duologue.settings import Settings
from duologue.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from duologue.bus.nats import NatsBus
    from duologue.store.postgres import PostgresStore

_INSTALL = "is not installed: pip install 'duologue[cluster]'"


async def open_store(
    settings: Settings,
    clock: Clock,
    sink: Sink,
    on_failure: Callable[[BaseException], None],
    on_new_epoch: Callable[[], None],
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> SqliteStore | PostgresStore:
    """Raises `StoreUnusable`, with nothing touched."""
    if not settings.database:
        return await SqliteStore.open(Path(settings.data), clock, sink, on_failure)
    try:
        from duologue.store.postgres import PostgresStore
    except ModuleNotFoundError as error:
        raise StoreUnusable(f"`database` is set, but {error.name} {_INSTALL}") from error
    return await PostgresStore.open(
        settings.database,
        clock,
        sink,
        on_failure,
        new_loop=new_loop,
        count_up_to=settings.announce_people + 1,
        on_new_epoch=on_new_epoch,
    )


def open_bus(
    settings: Settings, store: SqliteStore | PostgresStore, on_change: Callable[[bool], None]
) -> LocalBus | NatsBus:
    """The nodes of one database hear each other, and no other's. Raises `StoreUnusable`."""
    if not settings.bus:
        return LocalBus()
    try:
        from duologue.bus.nats import NatsBus
    except ModuleNotFoundError as error:
        raise StoreUnusable(f"`bus` is set, but {error.name} {_INSTALL}") from error
    assert not isinstance(store, SqliteStore)  # the settings demand a database for a bus
    return NatsBus(settings.bus.split(","), store.namespace, on_change)


def hear_session_ends(
    store: SqliteStore | PostgresStore, on_end: Callable[[str, bytes], None], on_missed: Callable[[], None]
) -> None:
    """`on_end` gets the user's id and the token's hash of each session that ends on whatever node; `on_missed` is called when
    some may not have been heard of. On one machine there is nobody else who could end one."""
    if not isinstance(store, SqliteStore):
        store.hear_session_ends(on_end, on_missed)


def open_registry(store: SqliteStore | PostgresStore, settings: Settings) -> Registry:
    """Who is connected to which node: kept where the nodes keep everything that they share."""
    assert not isinstance(store, SqliteStore)  # the settings demand a database for a bus
    return store.registry(settings.presence_lease)


def where(settings: Settings) -> str:
    """Where the data is, for people."""
    return without_password(settings.database) if settings.database else settings.data
