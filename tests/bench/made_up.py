"""Costs that no machine has, for figures that can be worked out by hand."""

from __future__ import annotations

from typing import Any, Final

from bench.measured import BUSY, CALM_SIGN_IN, HURRIED_SIGN_IN, PACED, TOLD_SIGN_IN, Cost, Costs, Cpu
from bench.nodes_report import IDLE

COSTS: Final = Costs(
    loops=Cost(20e-6, 1e-3),
    writers=Cost(10e-6, 0.5e-3),
    postgresql=Cost(8e-6, 0.8e-3),
    nats=Cost(4e-6, 0.2e-3),
    load=8e-6,
    wal_bytes=Cost(500, 8_000),
    wal_writes=Cost(0, 1),
    wal_syncs=Cost(0, 1),
    sync=0.5e-3,
    look_up=1e-3,
    bus_bytes=970,
    bus_messages=3,
    sign_in=Cpu(3e-3, 1.5e-3, 0.2e-3),
    hurried_sign_in=Cpu(2e-3, 1e-3, 0.1e-3),
    news=Cpu(0.2e-3, 0.1e-3, 0.02e-3),
    sign_in_wal_syncs=0.5,
    connection_bytes=10_000,
    user_bytes=2_000,
    stored_bytes=460,
)


def results(nodes: int = 2) -> list[dict[str, Any]]:
    """What would have been measured if things cost what they do in COSTS."""
    found = []
    for scenario, size in ((BUSY, 400.0), (PACED, 4.0)):
        log = {name: getattr(COSTS, name).of_message(size) for name in ("wal_bytes", "wal_writes", "wal_syncs")}
        cpu = {
            "loops": COSTS.loops, "other_threads": COSTS.writers, "postgresql": COSTS.postgresql, "nats": COSTS.nats
        }  # fmt: skip
        figures = {
            "batch_mean": size, "load_cpu": 0.16, "deliveries_per_second": 20_000.0, "wal_sync_ms": COSTS.sync * 1000,
            "bus_bytes_per_message": COSTS.bus_bytes, "bus_messages_per_message": COSTS.bus_messages,
            "bytes_stored_per_message": COSTS.stored_bytes,
            **{f"{name}_per_message": value for name, value in log.items()},
            **{f"{name}_cpu_us_per_message": cost.of_message(size) * 1e6 for name, cost in cpu.items()},
        }  # fmt: skip
        found.append({"scenario": scenario, **figures})
    found.append({"scenario": IDLE, "database_p50_ms": COSTS.look_up * 1000})
    told = 6.0
    watched = Cpu(*(calm + told * news for calm, news in zip(COSTS.sign_in, COSTS.news, strict=True)))
    for scenario, cost in (
        (CALM_SIGN_IN, COSTS.sign_in), (TOLD_SIGN_IN, watched), (HURRIED_SIGN_IN, COSTS.hurried_sign_in)
    ):  # fmt: skip
        figures = {
            "told_per_sign_in": told, "bytes_per_connection": COSTS.connection_bytes,
            "bytes_per_user": COSTS.connection_bytes + COSTS.user_bytes,
            "wal_syncs_per_sign_in": COSTS.sign_in_wal_syncs,
            **{f"{part}_cpu_ms_per_sign_in": value * 1000 for part, value in zip(Cpu._fields, cost, strict=True)},
        }  # fmt: skip
        found.append({"scenario": scenario, **figures})
    return [{"peer": "duologue", "nodes": nodes, "valid": True, **each} for each in found]
