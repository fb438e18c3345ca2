"""`serve` starts a real server; see the harness."""

from __future__ import annotations

import pytest

from tests.server.transport.harness import Serve, serving


@pytest.fixture
def serve() -> Serve:
    return serving
