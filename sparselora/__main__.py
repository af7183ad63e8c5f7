"""Run `python -m sparselora`: the main job, or with `bench` or `report` first, that command."""

import sys
from importlib import import_module

COMMANDS = {
    "run": "sparselora.run",
    "bench": "sparselora.bench",
    "report": "sparselora.report.__main__",
}


def main() -> int:
    """Run the command that the first word names, else `run` with all of them."""
    name = "run"
    if sys.argv[1:] and sys.argv[1] in COMMANDS:
        name = sys.argv.pop(1)
    code: int = import_module(COMMANDS[name]).main()
    return code


if __name__ == "__main__":
    sys.exit(main())
