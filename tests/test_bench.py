import json
from collections.abc import Callable

import pytest

from sparselora import bench as bench_module
from sparselora.report import formats
from tests.conftest import Outcome

FIELDS = (
    "stock_dense_ms",
    "own_dense_ms",
    "sparse_ms",
    "speedup",
    "speedup_low",
    "speedup_high",
    "aa_speedup",
    "bound",
    "efficiency",
    "peak_memory_mb",
    "dense_peak_memory_mb",
)


@pytest.fixture
def bench(invoke: Callable[..., Outcome], tiny_overrides: list[str]) -> Callable[..., Outcome]:
    """The bench on a tiny model with few rounds."""
    training = ("measure.", "train.max_steps")
    kept = [line for line in tiny_overrides if not line.startswith(training)]
    few = ["measure.min_rounds=3", "measure.max_rounds=3", "measure.batches=2"]
    return lambda *arguments: invoke(*kept, *few, *arguments, main=bench_module.main)


def test_one_setting(bench: Callable[..., Outcome]) -> None:
    outcome = bench("experiment=optimized", "bench.batch_size=4", "bench.seq_len=11")
    assert outcome.code == 0, outcome.err
    (path,) = outcome.folder.rglob("bench.json")
    content = json.loads(path.read_text())
    assert all(content[name] > 0 for name in FIELDS)
    assert (content["batch_size"], content["mean_length"]) == (4, 11)
    assert content["efficiency"] == pytest.approx(content["own_speedup"] / content["bound"])
    assert content["roofline"]["matmul_gflops"] > 1
    assert content["roofline"]["copy_gb_per_second"] > 0.1
    for word in (formats.SPEEDUP, "bound", "peak memory", formats.INTERVAL):
        assert word in outcome.out
    assert not outcome.records()


def test_the_datas_own_batches(bench: Callable[..., Outcome]) -> None:
    outcome = bench("experiment=dense")
    assert outcome.code == 0, outcome.err
    (path,) = outcome.folder.rglob("bench.json")
    content = json.loads(path.read_text())
    assert content["sparse_ms"] is None
    assert content["bound"] == 1.0
    assert content["batch_size"] == 8


def test_several_settings_in_one_table(bench: Callable[..., Outcome]) -> None:
    outcome = bench("-m", "experiment=original,optimized", "bench.seq_len=11")
    assert outcome.code == 0, outcome.err
    assert len(list(outcome.folder.rglob("bench.json"))) == 2
    assert outcome.out.count(formats.SPEEDUP) == 1
    assert "original" in outcome.out
    assert "optimized" in outcome.out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("bench.seq_len=200", "this model has 128 positions"),
        ("bench.seq_len=0", "bench.seq_len=0"),
        ("bench.batch_size=0", "bench.batch_size=0"),
        ("sparse_warmup_ratio=0.3", "sparse_warmup_ratio: without effect"),
    ],
)
def test_bad_input(bench: Callable[..., Outcome], override: str, words: str) -> None:
    outcome = bench("experiment=optimized", override)
    assert outcome.code == 2
    assert words in outcome.message[-1]
    assert "Traceback" not in outcome.err


def test_bench_keys_mean_nothing_to_a_run(
    invoke: Callable[..., Outcome], tiny_overrides: list[str]
) -> None:
    outcome = invoke(*tiny_overrides, "bench.seq_len=11")
    assert outcome.code == 2
    assert "bench.seq_len: without effect in this command" in outcome.message[-1]
