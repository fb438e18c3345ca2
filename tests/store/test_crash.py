"""kill -9 under load (F1), again and again on one folder."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from duologue.domain.model import Message
from duologue.domain.ports import PendingMessage

from .conftest import ANN, BOB, Bench

LIVES = 6


@pytest.mark.asyncio
async def test_kill_nine_loses_nothing_acknowledged(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    choose = random.Random(seed)
    folder = tmp_path / "data"
    acknowledged: dict[str, int] = {}
    epochs = set()
    for _ in range(LIVES):
        command = [sys.executable, str(Path(__file__).with_name("crash_child.py")), str(folder)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:  # noqa: ASYNC220 - nothing else runs on this loop
            assert child.stdout is not None
            until = len(acknowledged) + choose.randrange(1, 2000)
            for line in child.stdout:
                message, seq = line.split()
                if message == "epoch":
                    epochs.add(seq)
                    continue
                acknowledged[message] = int(seq)
                if len(acknowledged) >= until:
                    break
            child.kill()
            # What the pipe still holds was acknowledged too; its last line may be cut.
            for line in child.stdout.read().splitlines(keepends=True):
                if line.endswith("\n"):
                    message, seq = line.split()
                    acknowledged[message] = int(seq)
    assert len(epochs) == 1
    bench = Bench(folder)
    await bench.open()
    stored: list[Message] = []
    more = True
    while more:
        page = await bench.store.history(ANN.id, BOB.id, None, len(stored), 1000)
        stored.extend(page.messages)
        more = page.more
    retries = [PendingMessage(ANN.id, BOB.id, id, "x" * 200, None) for id in acknowledged]
    await bench.commit(*retries)
    await bench.close()
    assert {retry.id: retry.seq for retry in retries if retry.duplicate} == acknowledged
    assert [m.seq for m in stored] == list(range(1, len(stored) + 1))
    assert len({m.id for m in stored}) == len(stored)
    assert acknowledged.items() <= {m.id: m.seq for m in stored}.items()
