import json
from pathlib import Path

import pytest
import torch

from sparselora.model.load import load_tokenizer
from sparselora.records.costs import Timing
from sparselora.records.typed import declared
from sparselora.runs.bench import DrawnInputs, bench_job
from sparselora.sparse.channels.tokens import IGNORED
from tests.runs.composed import composed

FEW = ["measure.min_rounds=3", "measure.max_rounds=3", "measure.batches=2"]


def test_a_bench_needs_no_command(tiny_overrides: list[str], tmp_path: Path) -> None:
    overrides = [item for item in tiny_overrides if not item.startswith("measure.")]
    run, sparsities = composed([*overrides, *FEW, "bench.seq_len=11", "bench.batch_size=3"])
    content = bench_job(run, sparsities, tmp_path)
    assert json.loads((tmp_path / "bench.json").read_text()) == content
    assert {item.name for item in declared(Timing)} <= set(content)
    assert (content["rounds"], content["batch_size"], content["mean_length"]) == (3, 3, 11)


@pytest.mark.parametrize("length", [1, 3, 12])
def test_a_quarter_of_a_drawn_text_is_its_completion(
    decoder_overrides: list[str], length: int
) -> None:
    run, _ = composed(decoder_overrides)
    (batch,) = DrawnInputs(run, load_tokenizer(run.model), length).batches(1)
    labelled = batch["labels"] != IGNORED
    assert labelled[:, -max(length // 4, 1) :].all()
    assert int(labelled[0].sum()) == max(length // 4, 1)
    assert torch.equal(batch["labels"][labelled], batch["input_ids"][labelled])


def test_drawn_batches_are_the_seeds(tiny_overrides: list[str]) -> None:
    first, second, other = (
        DrawnInputs(run, load_tokenizer(run.model), 9).batches(2)
        for run, _ in (composed([*tiny_overrides, f"seed={seed}"]) for seed in (1, 1, 2))
    )
    assert torch.equal(first[1]["input_ids"], second[1]["input_ids"])
    assert not torch.equal(first[1]["input_ids"], other[1]["input_ids"])
    assert first[0]["input_ids"].shape == (run_batch(tiny_overrides), 9)


def run_batch(overrides: list[str]) -> int:
    return composed(overrides)[0].train.batch_size
