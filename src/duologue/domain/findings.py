"""What an examination of an installation finds."""

from __future__ import annotations

import enum
from typing import NamedTuple


class Level(enum.StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It works, and something is at risk."""
    PROBLEM = "problem"
    """It doesn't work, or not as promised."""


class Finding(NamedTuple):
    """`words` say what was seen and, unless all is well, what to do."""

    level: Level
    subject: str
    words: str
