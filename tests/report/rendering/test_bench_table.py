import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from sparselora.report.rendering.bench_table import load_benches, print_bench


def bench(label: str, speedup: float, device: str = "cpu", **changes: Any) -> dict[str, Any]:
    return {
        "label": label,
        "model": "m",
        "config": {"model": {"quantization": "nf4"}},
        "provenance": {"device": device},
        **{"batch_size": 32, "mean_length": 64.4, "rounds": 20, "random_weights": False},
        **{"stock_dense_ms": 100.0, "own_dense_ms": 90.0, "sparse_ms": 60.0},
        **{"speedup": speedup, "speedup_low": speedup - 0.1, "speedup_high": speedup + 0.1},
        **{"own_speedup": 1.5, "bound": 1.8, "efficiency": 0.83},
        **{"aa_speedup": 1.0, "aa_low": 0.98, "aa_high": 1.02, "stable": True},
        "achieved": {"own_dense": 0.8, "sparse": 0.7, "gather": None},
        **{"peak_memory_mb": 1234.5, "dense_peak_memory_mb": None},
        **{"saved_for_backward_mb": 100.0, "dense_saved_for_backward_mb": 200.0},
        **changes,
    }


def printed(*contents: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_bench([(each, Path(each["label"]) / "bench.json") for each in contents], console)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def cells(text: str, head: str) -> list[str]:
    row = next(line for line in text.splitlines() if line.startswith(f"│ {head} "))
    return [cell.strip() for cell in row.split("│")[2:-1]]


def test_the_fastest_comes_first() -> None:
    text = printed(bench("slow", 1.2), bench("fast", 1.9))
    assert text.index("fast") < text.index("slow")
    assert cells(text, "× stock") == ["1.900", "1.200"]
    assert cells(text, "95 %") == ["1.800 to 2.000", "1.100 to 1.300"]
    assert cells(text, "model") == ["m (nf4)", "m (nf4)"]


def test_what_was_not_measured_is_a_dash() -> None:
    text = printed(bench("dense", 1.1, own_speedup=None, efficiency=None))
    assert cells(text, "× our dense") == cells(text, "of the bound") == ["–"]
    assert cells(text, "gathers, at copy bandwidth") == ["–"]


def test_devices_have_a_table_each() -> None:
    text = printed(bench("a", 1.5), bench("b", 1.6, device="gpu"))
    assert text.count("Interleaved in one process") == 2


def test_an_unstable_control_and_random_weights_are_named() -> None:
    calm = printed(bench("a", 1.5))
    assert "unstable" not in calm
    assert "Random weights" not in calm
    text = printed(bench("a", 1.5, stable=False, random_weights=True))
    assert "a: unstable, stock against itself 0.980 to 1.020" in text
    assert "Random weights" in text


def test_every_bench_below_a_folder_is_read(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bench.json").write_text(json.dumps({"label": name}))
    assert [content["label"] for content, _ in load_benches(tmp_path)] == ["a", "b"]
