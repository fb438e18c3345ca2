"""Row 10: nothing that comes from outside can become code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import ROOT

SOURCE = ROOT / "src" / "duologue"

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "yaml", "jsonpickle", "code", "imp"}
CALLS = {"eval", "exec", "compile", "__import__", "loads_pickle", "system", "popen", "Popen", "check_output"}
METHODS_OF_OTHERS = {("re", "compile")}


def findings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CALLS:
                yield called.id
            elif isinstance(called, ast.Attribute) and called.attr in CALLS:
                owner = called.value.id if isinstance(called.value, ast.Name) else ""
                if (owner, called.attr) not in METHODS_OF_OTHERS:
                    yield f"{owner}.{called.attr}"


def test_cve_2025_61765_nothing_deserialises_code() -> None:
    files = sorted(SOURCE.rglob("*.py"))
    assert len(files) > 50
    found = {str(file.relative_to(SOURCE)): list(findings(ast.parse(file.read_text()))) for file in files}
    assert not {name: what for name, what in found.items() if what}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "import yaml", "eval('1')", "exec(x)", "import os; os.system(x)",
        "__import__(x)", "import marshal as m", "subprocess.Popen(x)",
    ],
)  # fmt: skip
def test_it_would_be_found(line: str, tmp_path: Path) -> None:
    assert list(findings(ast.parse(line)))
