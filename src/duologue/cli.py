"""The command `duologue`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, get_type_hints

from duologue import __version__, doctor, migration
from duologue import main as server
from duologue import settings as known
from duologue.setting_texts import without_password
from duologue.settings import BadSetting, Loaded, Settings

EXIT_UNUSABLE: Final = 2
"""A flag, a setting, the address or the data folder can't be used; nothing was touched."""

EXIT_PIPE: Final = 141
"""What a shell makes of SIGPIPE: whoever read our output has left."""

MAX_WIDTH: Final = 150
MIN_LAST_COLUMN: Final = 40
"""Columns of `duologue config`, whose last one takes what the others leave of the terminal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code; for a flag that isn't known argparse exits, with 2 as well."""
    options = vars(_parser().parse_args(arguments))
    if options["command"] == "migrate":
        return _refusing(lambda: migration.run(options["source"], options["target"]))
    command, config, as_json = options.pop("command"), options.pop("config"), options.pop("json", False)

    def act() -> int:
        loaded = known.load(options, known.environment(), config)
        if command == "config":
            print(_as_json(loaded) if as_json else _as_table(loaded), flush=True)
            return 0
        return doctor.run(loaded.settings) if command == "doctor" else server.run(loaded.settings)

    return _refusing(act)


def _refusing(act: Callable[[], int]) -> int:
    """What `act` refuses is one line for the user."""
    try:
        return act()
    except (BadSetting, server.StoreUnusable, server.AddressUnusable) as error:
        print(f"duologue: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    except BrokenPipeError:
        # Python flushes standard output once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE


class _Parser(argparse.ArgumentParser):
    """Says one line where argparse prints its usage first; takes no abbreviated flags, which a later flag could break."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_UNUSABLE, f"duologue: {message}; see `{self.prog} --help`\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="duologue", description="Private messaging that loses nothing.")
    parser.add_argument("--version", action="version", version=f"duologue {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="run the server",
        description="Run the server until SIGTERM or Ctrl-C.",
        argument_default=argparse.SUPPRESS,
    )
    config = commands.add_parser(
        "config",
        help="print every setting with its value, default and meaning",
        description="Print the settings that `duologue serve` would take from the same flags, environment and file.",
        argument_default=argparse.SUPPRESS,
    )
    config.add_argument("--json", action="store_true", default=False, help="as JSON, for programs")
    examine = commands.add_parser(
        "doctor",
        help="say whether the database, the bus or the data folder can keep what is promised",
        description="Look at what the same flags, environment and file would have `duologue serve` use. Changes nothing. "
        "The exit code is 1 if there is a problem.",
        argument_default=argparse.SUPPRESS,
    )
    migrate = commands.add_parser(
        "migrate",
        help="bring everything from a data folder to a PostgreSQL database, or back",
        description="Copy everything that SOURCE holds to TARGET, which has to be empty, and compare. Stop the server "
        "first. If it is interrupted, the same command goes on where it was.",
    )
    migrate.add_argument("source", metavar="SOURCE", help="a data folder, or postgresql://user:password@host/name")
    migrate.add_argument("target", metavar="TARGET", help="the other kind of the two")
    for each in (serve, config, examine):
        each.add_argument(
            "--config",
            metavar="FILE",
            default=None,
            help=f"TOML file with settings; also {known.variable('config')} [{known.default_config_file()}]",
        )
        for field in known.fields():
            _add_flag(each, field)
    return parser


def _add_flag(parser: argparse.ArgumentParser, field: Any) -> None:
    kind = get_type_hints(Settings)[field.name]
    meaning = f"{field.metadata['meaning']} [{_shown(field.default, field)}]"
    options: dict[str, Any] = {"help": meaning.replace("%", "%%"), "dest": field.name}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif kind in (int, float, str):
        options["metavar"] = "|".join(field.metadata["choices"]) or {int: "N", float: "X", str: "TEXT"}[kind]
    else:
        options |= {"action": "append", "metavar": "URL"}
    parser.add_argument(known.flag(field.name), **options)


def _as_json(loaded: Loaded) -> str:
    return json.dumps(
        {
            field.name: {
                "value": _public(getattr(loaded.settings, field.name), field),
                "default": known.default(field),
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


def _as_table(loaded: Loaded) -> str:
    """One row a setting, its meaning and range wrapped in the last column."""
    head = ("setting", "value", "default", "from", "meaning")
    rows = []
    for field in known.fields():
        meaning, span = field.metadata["meaning"], known.span(field)
        rows.append(
            (
                field.name,
                _shown(getattr(loaded.settings, field.name), field),
                _shown(field.default, field),
                loaded.sources[field.name],
                f"{meaning.removesuffix('.')} ({span})." if span else meaning,
            )
        )
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
    left = sum(widths) + 2 * len(widths)
    last = max(min(shutil.get_terminal_size((MAX_WIDTH, 0)).columns, MAX_WIDTH) - left, MIN_LAST_COLUMN)
    lines = [_row(head, widths), _row(["-" * width for width in (*widths, last)], widths)]
    for row in rows:
        first, *more = textwrap.wrap(row[-1], last)
        lines.append(_row((*row[:-1], first), widths))
        lines.extend(" " * left + line for line in more)
    return "\n".join([*lines, "", *_how_to_set()])


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{cell:<{width}}  " for cell, width in zip(cells, widths, strict=False)) + cells[-1]


def _how_to_set() -> list[str]:
    field = known.fields()[1]
    files = f"{known.default_config_file()}, or in the file of --config or {known.variable('config')}"
    return [
        "Set one by any of these; the first that has it wins:",
        f"  a flag                    duologue serve {known.flag(field.name)} {field.default}",
        f"  the environment           {known.variable(field.name)}={field.default}",
        f"  a line of the TOML file   {field.name} = {field.default}   in {files}",
    ]


def _shown(value: Any, field: Any) -> str:
    """A value as a person would write it, with its unit."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if isinstance(value, (int, float)):
        return f"{value:.15g} {field.metadata['unit']}".strip()
    if field.name == "data":
        return value or "the platform's"
    return str(_public(value, field)) or "none"


def _public(value: Any, field: Any) -> Any:
    """The value without the passwords in its URLs."""
    return without_password(value) if field.name in ("database", "bus") else value
