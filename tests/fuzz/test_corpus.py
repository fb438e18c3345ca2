"""Every input of the corpus, once, without atheris: a finding that was repaired stays repaired."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
INPUTS = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


@pytest.mark.parametrize("path", INPUTS, ids=[f"{path.parent.name}-{path.name}" for path in INPUTS])
def test_an_input_of_the_corpus(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_has_a_corpus_and_takes_anything_short(name: str) -> None:
    assert any(path.parent.name == name for path in INPUTS)
    target = TARGETS[name]
    target(b"")
    for byte in range(256):
        target(bytes([byte]))
        target(bytes([byte, byte]))
