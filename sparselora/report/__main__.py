"""`python -m sparselora.report FOLDER`: a table of the runs that left a record below a folder."""

import argparse
import sys

from rich.console import Console

from sparselora.errors import UserError
from sparselora.report.load import load_records
from sparselora.report.table import print_sweep, sweep_table


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 2 and one line for a user's mistake."""
    parser = argparse.ArgumentParser("sparselora-report", description=__doc__)
    parser.add_argument("folder", help="what runs wrote to, such as outputs")
    parser.add_argument("--csv", metavar="FILE", help="also write the table to FILE")
    options = parser.parse_args(arguments)
    try:
        frame = sweep_table(load_records(options.folder))
        if frame.empty:
            raise UserError(f"{options.folder}: no record.json in it or below; run something first")
        if options.csv:
            frame.to_csv(options.csv, index=False)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_sweep(frame, Console(), f"{len(frame)} runs below {options.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
