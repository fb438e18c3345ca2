from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import process
from tests.support.process import ServerProcess


@pytest.fixture(scope="session")
def shared_chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data: Path = tmp_path_factory.mktemp("attacks")
    with process.duologue(data / "data", "--presence-grace", "0") as server:
        yield server


@pytest.fixture
def chat_server(shared_chat: ServerProcess) -> Iterator[ServerProcess]:
    """A real server with its defaults, one for the whole run: whatever a test does to it, it has to live on and must
    not be surprised."""
    mark = shared_chat.log_mark()
    yield shared_chat
    print("\n".join(shared_chat.log(mark)))
    assert shared_chat.alive, shared_chat.report()
    assert not shared_chat.tracebacks(mark), "the server logged an exception that it did not expect"
