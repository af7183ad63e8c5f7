"""Read a command line; what is not one of ours is a line that says how it is written."""

import argparse
import shlex
import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from sparselora import __version__
from sparselora.config.keys import kind_of, suggestions
from sparselora.errors import UserError, refuse_in_a_line
from sparselora.paths import CONF
from sparselora.plugins import CONFIG_FOLDERS
from sparselora.search.compat import command_line_parser

COMMANDS = ("run", "bench", "report")
_SWEEPS_ALONE = (
    "hydra/sweeper",
    "hydra/launcher",
    "hydra.sweeper",
    "hydra.launcher",
    "hydra.sweep",
)
"""Beginnings of what only a multirun looks at."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line with Hydra's own parser.

    Raises:
        UserError: a flag that there is not, or flags that exclude each other.
    """
    parser = command_line_parser(f"sparselora {__version__}")
    refuse_in_a_line(parser)
    parsed = parser.parse_intermixed_args(sys.argv[1:] if arguments is None else list(arguments))
    modes = {
        "--run": parsed.run,
        "--multirun": parsed.multirun,
        "--cfg": parsed.cfg is not None,
        "--info": parsed.info is not None,
        "--shell-completion": parsed.shell_completion,
    }
    given = [flag for flag, there in modes.items() if there]
    if len(given) > 1:
        raise UserError(f"{' '.join(given)}: one of them is allowed")
    if parsed.resolve and parsed.cfg is None and not parsed.help:
        raise UserError("--resolve: without effect, but with --cfg or --help")
    if parsed.experimental_rerun is not None and (parsed.multirun or parsed.config_name):
        raise UserError(
            "--experimental-rerun: one run is run again; leave out -m and --config-name"
        )
    return parsed


def parse_overrides(lines: Sequence[str], parser: OverridesParser) -> list[Override]:
    """Parse overrides.

    Raises:
        UserError: one that Hydra's grammar does not know, with how it is written.
    """
    parsed = []
    for line in lines:
        try:
            parsed += parser.parse_overrides([line])
        except HydraException as error:
            raise UserError(_how_to_write(line, str(error), parser)) from error
    return parsed


def check_mode(parsed: Sequence[Override], multirun: bool) -> None:
    """Raise a `UserError` where what was asked for needs `-m`, or has no effect beside it."""
    keys = [str(each.key_or_group) for each in parsed]
    if multirun:
        if "hydra.run.dir" in keys and "hydra.sweep.dir" not in keys:
            raise UserError("hydra.run.dir: without effect beside -m; give hydra.sweep.dir")
        for place, each in enumerate(parsed):
            if each.is_sweep_override() and keys[place] in keys[place + 1 :]:
                raise UserError(
                    f"{each.input_line}: {keys[place]} is given twice, and the last one stands; leave "
                    "out one of them"
                )
        return
    for each in parsed:
        key, line = str(each.key_or_group), str(each.input_line)
        if each.is_sweep_override():
            raise UserError(f"{line}: several values are a grid, which takes -m{_as_one(each)}")
        if key.startswith(_SWEEPS_ALONE):
            raise UserError(f"{line}: without effect but in a grid or search; add -m")


def check_sweep(parsed: Sequence[Override]) -> None:
    """Raise a `UserError` where one run is given a sweep, unless `hydra.mode=RUN` asks for just that."""
    modes = [str(each.value()) for each in parsed if each.key_or_group == "hydra.mode"]
    for each in parsed:
        if each.key_or_group == "sweep" and "RUN" not in modes:
            raise UserError(f"{each.input_line}: takes -m, as in: -m {each.input_line}")


def check_options(parsed: Sequence[Override]) -> None:
    """Raise a `UserError` where a group is given something else than the name of one option."""
    for each in parsed:
        key, line = str(each.key_or_group), str(each.input_line)
        if not key:
            raise UserError(f"{line}: KEY=VALUE is allowed")
        folders = (CONF, *CONFIG_FOLDERS)
        options = sorted(
            {path.stem for folder in folders for path in (folder / key).glob("*.yaml")}
        )
        if "/" in key or not options or each.is_delete() or each.is_sweep_override():
            continue
        if not isinstance(each.value(), str | QuotedString):
            none = "; or leave it out" if key == "experiment" else ""
            raise UserError(f"{line}: must be one of {', '.join(options)}{none}")


def _as_one(override: Override) -> str:
    # How the same characters are written where one value is meant.
    key, _, value = str(override.input_line).partition("=")
    kind = kind_of(str(override.key_or_group))
    if "list" in kind and "(" not in value:
        return f"; a list is {shlex.quote(f'{key}=[{value}]')}"
    return f"; a text is {shlex.quote(_quoted(key, value))}" if "str" in kind else ""


def _quoted(key: str, value: str) -> str:
    escaped = value.strip("'\"").replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'


def _how_to_write(line: str, reason: str, parser: OverridesParser) -> str:
    key, equals, value = line.partition("=")
    if not equals:
        return _not_a_setting(line)
    lines = [each.strip() for each in reason.splitlines()[1:] if "Lexer" not in each]
    why = lines[0] if lines and "^" not in lines[0] and "See http" not in lines[0] else ""
    quoted = _quoted(key, value)
    try:
        parser.parse_overrides([quoted])
    except HydraException:
        return f"{line}: KEY=VALUE is allowed" + (f" ({why})" if why else "")
    return (
        f"{line}: cannot be read{f' ({why})' if why else ''}; a value with such characters stands in "
        f"quotes of two kinds: {shlex.quote(quoted)}"
    )


def _not_a_setting(line: str) -> str:
    if line in COMMANDS:
        return f"{line}: is a command of its own: python -m sparselora.{line}"
    meant = [each for each in suggestions(line) if "=" in each]
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ", without blanks around ="
    return f"{line}: KEY=VALUE is allowed{hint}"
