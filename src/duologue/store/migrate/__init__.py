"""Everything that one store holds, brought to one of the other kind."""

from __future__ import annotations

from duologue.store.migrate.copying import Difference, Report, migrate

__all__ = ["Difference", "Report", "migrate"]
