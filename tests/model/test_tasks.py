"""Fine-tuning a decoder to complete prompts, from the command line to the report."""

from collections.abc import Callable

import pandas as pd
import pytest

from sparselora.config.groups import TASKS as NAMES
from sparselora.model.tasks import TASKS
from sparselora.report.__main__ import main as report_main
from tests.conftest import Outcome


def test_every_task_has_a_row() -> None:
    assert tuple(TASKS) == NAMES


def test_a_decoder_learns_to_complete(
    invoke: Callable[..., Outcome], decoder_overrides: list[str]
) -> None:
    more = [
        "tokens=context",
        "train.max_steps=60",
        "measure.eval_every=60",
        "train.learning_rate=0.02",
    ]
    outcome = invoke(*decoder_overrides, *more)
    assert outcome.code == 0, outcome.err
    assert "exact match" in outcome.out
    (record,) = outcome.records()
    before, after = record["evaluations"]
    assert before["step"] == 0
    assert before["sparse_steps"] == 0.0
    assert after["loss"] < before["loss"] - 0.3
    assert record["data"]["rows"]["validation"] == 20
    assert [layer["kept"] for layer in record["sparsity"]["layers"]] == [37, 37, 15, 15]
    flops = record["flops"]
    # The head is applied to two positions a row or so, not to all of them.
    steps = pd.read_csv(next(outcome.folder.rglob("metrics.csv")))
    assert (steps["head_positions"] < steps["padded_tokens"] / 2).all()
    assert (steps["dense_tokens"] > 0).all()
    assert 1.0 < flops["bound"] < 2.0
    frame = pd.read_parquet(next(outcome.folder.rglob("predictions.parquet")))
    last = frame[frame["step"] == 60]
    assert last["correct"].mean() == pytest.approx(after["accuracy"])
    assert len(last) == 20
    reported = invoke("outputs", main=report_main)
    assert reported.code == 0, reported.err
    settings = pd.read_csv(outcome.folder / "outputs" / "reports" / "settings.csv")
    assert settings["accuracy"].iloc[0] == pytest.approx(after["accuracy"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["tokens=context", "task=classification"],
            "tokens=context: task=classification has no output",
        ),
        (["sink_tokens=2"], "sink_tokens=2: without effect, since tokens is all"),
        (
            ["data.label_column=kind"],
            "data.label_column=kind: without effect, since task=causal_lm",
        ),
        (["tokens=outputs"], "tokens=outputs: must be one of all, context"),
        (["sink_tokens=-1", "tokens=context"], "sink_tokens=-1"),
        (
            ["data.completion_template=null"],
            "data.completion_template=null: task=causal_lm needs one",
        ),
        (["data.completion_template='{nope}'"], "data.completion_template=nope: no such column"),
        (
            ["model=minilm", "model.name_or_path=asset:minilm"],
            "task=causal_lm: model=minilm is an encoder",
        ),
        (["measure.eval_rows=0"], "measure.eval_rows=0"),
        (["ffn_sparsity=0.6"], "ffn_sparsity=0.6: the layers fixed"),
    ],
)
def test_a_mistake_is_one_line(
    invoke: Callable[..., Outcome], decoder_overrides: list[str], more: list[str], message: str
) -> None:
    given = {item.split("=")[0] for item in more}
    kept = [item for item in decoder_overrides if item.split("=")[0] not in given]
    if "model" in given:
        kept = [item for item in kept if not item.startswith("model.")]
    if "task=classification" in more:
        kept = [item for item in kept if not item.startswith(("data.prompt", "data.completion"))]
    outcome = invoke(*kept, *more)
    assert outcome.code == 2
    (line,) = outcome.message
    assert message in line


def test_sparse_attention_is_no_plain_lora(
    invoke: Callable[..., Outcome], decoder_overrides: list[str]
) -> None:
    kept = [item for item in decoder_overrides if not item.startswith(("ffn_", "schedule"))]
    outcome = invoke(
        *kept, "schedule=uniform", "ffn_sparsity=0", "qk_sparsity=0.4", "vo_sparsity=0.4"
    )
    assert outcome.code == 0, outcome.err
    assert "attention left out" in outcome.out
    (record,) = outcome.records()
    assert record["label"] != "dense"
    assert record["steps"]["sparse"] == 9
    assert record["flops"]["bound"] > 1.02
    layer = record["sparsity"]["layers"][0]
    # Two heads of keys of six channels: two of three pairs, and four of six, stay.
    assert (layer["qk_sparsity"], layer["vo_sparsity"]) == pytest.approx((1 / 3, 1 / 3))
