"""Charts as files, rendered by another process."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import altair as alt
import pytest

from sparselora.report.rendering.pictures import LANGUAGE, Renderer

CHART: dict[str, Any] = {
    "data": {"values": [{"x": 1}]},
    "mark": "point",
    "config": {"view": {"stroke": None}},
}


def test_language_is_the_one_that_the_charts_are_written_in() -> None:
    assert alt.SCHEMA_VERSION.replace(".", "_").startswith(LANGUAGE)


def test_charts_are_rendered_in_order_on_white(tmp_path: Path) -> None:
    # Together more than a pipe holds: neither process may wait for the other for ever.
    large = CHART | {"data": {"values": [{"x": number} for number in range(10_000)]}}
    with Renderer() as renderer:
        renderer.begin(tmp_path, {"one": large, "two ½": CHART})
        assert list(renderer.rendered()) == ["one", "two ½"]
    for name in ("one", "two ½"):
        assert 'fill="white"' in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_render(tmp_path: Path) -> None:
    with Renderer() as renderer:
        renderer.begin(tmp_path, {})
        assert list(renderer.rendered()) == []


def test_a_chart_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with Renderer() as renderer:
        renderer.begin(tmp_path / "missing", {"one": CHART})
        with pytest.raises(OSError, match=r"plots: one: .*No such file"):
            list(renderer.rendered())


def test_the_process_ends_with_the_context_even_unused() -> None:
    with Renderer() as renderer:
        process = renderer._process
    assert process.poll() is not None


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_the_process_ends_with_a_parent_that_is_killed() -> None:
    code = (
        "import os, signal; from sparselora.report.rendering.pictures import Renderer; "
        "print(Renderer()._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    process = int(parent.stdout)
    deadline = time.monotonic() + 60
    while _runs(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(process)
