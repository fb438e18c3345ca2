"""Writes docs/settings.md from the class of the settings: `.venv/bin/python scripts/settings_page.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, get_type_hints

from duologue import settings as known
from duologue.settings import Settings

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

HEAD: Final = """\
# Settings

<!-- Written by scripts/settings_page.py from src/duologue/settings.py; a test compares the two. -->

A value comes from the first of these that has it: a flag of `duologue serve`, the environment, the TOML file, the
default. The file is the one that `--config` or `DUOLOGUE_CONFIG` names, else `duologue.toml` in the platform's folder for users'
settings (on Linux `~/.config/duologue/`), if it exists. `duologue config` takes the same flags and prints every setting
with its value and where that came from.

A setting that can't be used, a port that is taken, a data folder that can't be written, is newer than the program or is
in use by another server: each is one line on standard error and exit code 2, and nothing was touched.

Lists: repeat the flag, separate by commas in the environment, write a list in the file. Switches: `--name` and
`--no-name`, `true` or `false` elsewhere.

"""


def page() -> str:
    """The whole text of docs/settings.md."""
    lines = ["| setting, TOML key | default | takes | meaning |", "|---|---|---|---|"]
    for field in known.fields():
        cells = (f"`{field.name}`", _default(field), known.allowed(field), field.metadata["meaning"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    example = known.fields()[-1].name
    names = (
        f"\nThe flag has hyphens, the variable is in capitals: `{example}` is `{known.flag(example)}` and "
        f"`{known.variable(example)}`.\n"
    )
    return HEAD + "\n".join(lines) + "\n" + names + "\nA file:\n\n```toml\n" + _sample() + "```\n"


def _default(field: Any) -> str:
    if field.name == "data":
        return "the platform's folder for users' data (on Linux `~/.local/share/duologue`)"
    return f"`{_toml(field.default)}`"


def _sample() -> str:
    wanted = {"port": 4000, "data": "/srv/duologue", "allow_origin": ("https://chat.example",), "presence_grace": 5.0}
    assert wanted.keys() <= get_type_hints(Settings).keys()
    return "".join(f"{name} = {_toml(value)}\n" for name, value in wanted.items())


def _toml(value: Any) -> str:
    """JSON's numbers, strings, booleans and lists are TOML's too."""
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
