from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import BOTH, StartServer, several
from tests.support.process import ServerProcess

shared_on_both = pytest.mark.parametrize("shared_chat", BOTH, indirect=True)
"""As `on_both`, for modules that share `chat_server`."""


@pytest.fixture(scope="session")
def shared_chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    start = StartServer(tmp_path_factory.mktemp("attacks") / "data", several(request))
    yield start("--presence-grace", "0")
    start.close()


@pytest.fixture
def chat_server(shared_chat: ServerProcess) -> Iterator[ServerProcess]:
    """A real server with its defaults, shared by many tests: whatever one does to it, it has to live on and must not be
    surprised."""
    mark = shared_chat.log_mark()
    yield shared_chat
    print("\n".join(shared_chat.log(mark)))
    assert shared_chat.alive, shared_chat.report()
    assert not shared_chat.tracebacks(mark), "the server logged an exception that it did not expect"
