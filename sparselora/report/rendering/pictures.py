"""Render charts in Vega-Lite as SVG and PNG files, in a process of their own.

vl-convert's JavaScript engine takes a second to start and lets no other thread run meanwhile; in another
process it starts while the records are read, and renders while the tables are written.

The process reads its charts from standard input, so that it ends when whoever started it is killed. A
worker of `concurrent.futures` outlives that, and first imports the main module, pandas with it.
"""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import vl_convert

from sparselora.records.files import write_atomically

LANGUAGE = "v6_4"
"""The version of Vega-Lite that Altair writes the charts in, as vl-convert names it.

Here as text: to ask Altair would cost its import before the engine can start.
"""


class Renderer:
    """Render charts in another process; a context manager, at whose end the process is gone."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sparselora.report.rendering.pictures"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def begin(self, folder: Path, charts: Mapping[str, dict[str, Any]]) -> None:
        """Start to render `<name>.svg` and `<name>.png` of each chart; to be called once."""
        jobs = "".join(
            json.dumps({"folder": str(folder.absolute()), "name": name, "chart": chart}) + "\n"
            for name, chart in charts.items()
        )
        # A pipe holds less than all of it, and the renderer reads one chart at a time.
        threading.Thread(target=_give, args=(self._process.stdin, jobs), daemon=True).start()

    def rendered(self) -> Iterator[str]:
        """Yield the name of each chart when its files are there.

        Raises:
            OSError: a chart could not be rendered or written.
        """
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for line in self._process.stdout:
            yield line.rstrip("\n")
        message = self._process.stderr.read().strip()
        if self._process.wait():
            raise OSError(f"plots: {message.splitlines()[-1] if message else 'the renderer died'}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


def _give(stream: IO[str], text: str) -> None:
    try:
        with stream:
            stream.write(text)
    except (OSError, ValueError):
        pass  # the renderer has ended; `rendered` says why


def render(folder: Path, name: str, chart: Mapping[str, Any]) -> None:
    """Write one chart's two files, each whole or not at all."""
    # White behind it: the file is legible on a dark page too.
    white = {**chart, "config": {**chart.get("config", {}), "background": "white"}}
    svg = vl_convert.vegalite_to_svg(white, vl_version=LANGUAGE)
    write_atomically(folder / f"{name}.svg", lambda path: path.write_text(svg, encoding="utf-8"))
    # From the SVG: laying the chart out once more would take as long again.
    png = vl_convert.svg_to_png(svg, scale=2.0)
    write_atomically(folder / f"{name}.png", lambda path: path.write_bytes(png))


def main() -> None:
    """Render what standard input asks for, a line of JSON a chart; answer with its name."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asked for it ends this process
    # The first picture starts the engine, the first word on one reads the fonts.
    first = vl_convert.vegalite_to_svg({"mark": "point", "title": "a"}, vl_version=LANGUAGE)
    vl_convert.svg_to_png(first)
    for line in sys.stdin.buffer:
        job = json.loads(line)
        try:
            render(Path(job["folder"]), job["name"], job["chart"])
        except (OSError, ValueError) as error:
            sys.exit(f"{job['name']}: {error}")
        print(job["name"], flush=True)


if __name__ == "__main__":
    main()
