"""How long does a report of 1,000 records take? A process of its own, from start to end.

    python benchmarks/report.py               copies of docs/example, a tenth of them broken
    python benchmarks/report.py --records 200

Prints seconds until the tables are there (`--no-files`), and with every file: tables, plots, page.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS, arguments

EXAMPLE = RESULTS.parent / "example" / "runs"


def copy_runs(root: Path, count: int) -> None:
    """Copy the example's runs in turn, with a seed of their own, every tenth of them cut short."""
    templates = sorted(EXAMPLE.rglob("record.json"))
    contents = [json.loads(path.read_text()) for path in templates]
    for number in range(count):
        template, content = templates[number % len(templates)], contents[number % len(templates)]
        folder = root / str(number)
        shutil.copytree(template.parent, folder)
        content["config"]["seed"] = number
        text = json.dumps(content)
        (folder / "record.json").write_text(text[: len(text) // 2] if number % 10 == 0 else text)


def seconds(*arguments: str) -> float:
    """Return how long one `sparselora.report` takes, the whole process."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "sparselora.report", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Copy, run three times each, print the median."""
    parser = arguments(__doc__)
    parser.add_argument("--records", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / "runs"
        copy_runs(root, options.records)
        for name, more in (("tables", ["--no-files"]), ("tables, plots and page", [])):
            times = sorted(seconds(str(root), "--out", f"{work}/out", *more) for _ in range(3))
            spread = f"{times[0]:.2f} to {times[-1]:.2f}"
            print(f"{options.records} records, {name}: {times[1]:.2f} s ({spread})")


if __name__ == "__main__":
    main()
