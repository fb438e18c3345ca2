"""The command `duologue`."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, Final, get_type_hints

from duologue import __version__, main as server
from duologue import settings as known
from duologue.settings import BadSetting, Loaded, Settings

EXIT_UNUSABLE: Final = 2
"""A setting, the address or the data folder can't be used; nothing was touched."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code; argparse itself exits with 2 for a flag that it doesn't know."""
    options = vars(_parser().parse_args(arguments))
    command, config, as_json = options.pop("command"), options.pop("config"), options.pop("json", False)
    try:
        loaded = known.load(options, known.environment(), config)
        if command == "config":
            print(_as_json(loaded) if as_json else _as_text(loaded))
            return 0
        return server.run(loaded.settings)
    except (BadSetting, server.StoreUnusable, server.AddressUnusable) as error:
        print(f"duologue: {error}", file=sys.stderr)
        return EXIT_UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="duologue", description="Private messaging that loses nothing.")
    parser.add_argument("--version", action="version", version=f"duologue {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the server", argument_default=argparse.SUPPRESS)
    config = commands.add_parser("config", help="print every setting", argument_default=argparse.SUPPRESS)
    config.add_argument("--json", action="store_true", default=False, help="as JSON, for programs")
    for each in (serve, config):
        each.add_argument(
            "--config", metavar="FILE", default=None, help=f"TOML file with settings [{known.default_config_file()}]"
        )
        for field in known.fields():
            _add_flag(each, field)
    return parser


def _add_flag(parser: argparse.ArgumentParser, field: Any) -> None:
    kind = get_type_hints(Settings)[field.name]
    shown = "" if kind is bool or field.default in ("", ()) else f" [{field.default}]"
    options: dict[str, Any] = {"help": (field.metadata["meaning"] + shown).replace("%", "%%"), "dest": field.name}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif kind in (int, float, str):
        options["metavar"] = {int: "N", float: "X", str: "TEXT"}[kind]
    else:
        options |= {"action": "append", "metavar": "URL"}
    parser.add_argument(known.flag(field.name), **options)


def _as_json(loaded: Loaded) -> str:
    return json.dumps(
        {
            field.name: {
                "value": getattr(loaded.settings, field.name),
                "default": field.default,
                "from": loaded.sources[field.name],
                "allowed": known.allowed(field),
                "meaning": field.metadata["meaning"],
                "flag": known.flag(field.name),
                "environment": known.variable(field.name),
            }
            for field in known.fields()
        },
        indent=2,
    )


def _as_text(loaded: Loaded) -> str:
    blocks = []
    for field in known.fields():
        value = getattr(loaded.settings, field.name)
        source = loaded.sources[field.name]
        origin = "the default" if source == "default" else f"from {source}; the default is {_shown(field.default)}"
        meaning = textwrap.fill(field.metadata["meaning"], 100, initial_indent="    ", subsequent_indent="    ")
        names = f"    {known.flag(field.name)}, {known.variable(field.name)}: {known.allowed(field)}"
        blocks.append(f"{field.name} = {_shown(value)}  ({origin})\n{meaning}\n{names}")
    return "\n\n".join(blocks)


def _shown(value: Any) -> str:
    return json.dumps(value)
