"""What a user gets wrong: exit code 2, at most three lines, nothing trained, no record."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from tests.conftest import Outcome

Invoke = Callable[..., Outcome]


def assert_refused(outcome: Outcome, *words: str) -> None:
    assert outcome.code == 2, outcome.err + outcome.out
    assert 1 <= len(outcome.message) <= 3, outcome.message
    assert "Traceback" not in outcome.err + outcome.out
    text = "\n".join(outcome.message)
    for word in words:
        assert word in text, text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["svd_rank=0"], ["svd_rank=0", "from 1 to"]),
        (["svd_rank=4000"], ["svd_rank=4000", "from 1 to 24"]),
        (["svd_rank=abc"], ["svd_rank=abc: a whole number is allowed"]),
        (["measure.eval_first=maybe"], ["measure.eval_first=maybe: true or false is allowed"]),
        (["ffn_sparsity=1.0"], ["ffn_sparsity=1", "from 0 up to, not including, 1"]),
        (["ffn_sparsity=-0.1"], ["ffn_sparsity=-0.1", "from 0"]),
        (["ffn_sparsity=nan"], ["ffn_sparsity=nan", "allowed"]),
        (["ffn_sparsity=0.995"], ["ffn_sparsity=0.995", "0.99"]),
        (["layer_sparsity={layer.9: 0.4}"], ["layer.9", "layer.0 to layer.5"]),
        (["layer_sparsity={layer.1: 1.4}"], ["layer_sparsity.layer.1=1.4", "allowed"]),
        (["layer_sparsity={layer.1: 0.4, layer: 0.5}"], ["layer.1", "both name"]),
        (["model.quantization=int8"], ["model.quantization=int8: must be one of none, nf4"]),
        (["svd_rnk=4"], ["svd_rnk: unknown key", "did you mean svd_rank?", "ffn_sparsity"]),
        (["train.lr=0.1"], ["train.lr: unknown key", "learning_rate"]),
        (["+foo=1"], ["foo: unknown key"]),
        (["+train.foo=1"], ["train.foo: unknown key"]),
        (["modle=minilm"], ["modle: unknown key", "did you mean model?"]),
        (["model=foo"], ["model=foo", "minilm"]),
        (["experiment=foo"], ["experiment=foo", "optimized"]),
        (["+sweep=foo"], ["sweep=foo", "headline"]),
        (["svd_rank=("], ["svd_rank=("]),
        (["sparse_warmup_ratio=1.5"], ["sparse_warmup_ratio=1.5", "from 0 up to"]),
        (["sparse_warmup_ratio=0.99"], ["sparse_warmup_ratio=0.99", "no sparse step"]),
        (["train.batch_size=0"], ["train.batch_size=0", "at least 1"]),
        (["train.learning_rate=-1"], ["train.learning_rate=-1", "over 0"]),
        (["train.learning_rate=inf"], ["train.learning_rate=inf", "finite"]),
        (["train.precision=fp8"], ["train.precision=fp8", "fp32, bf16"]),
        (["train.device=tpu"], ["train.device=tpu", "cpu"]),
        (["train.epochs=1", "train.max_steps=3"], ["train.epochs=1", "train.max_steps=3"]),
        (["lora.projections=[q]"], ["lora.projections=q", "query"]),
        (["estimator=random", "svd_rank=4"], ["svd_rank=4", "without effect", "random"]),
        (["estimator=foo"], ["estimator=foo", "svd"]),
        (["experiment=optimized", "ffn_sparsity=0.5"], ["ffn_sparsity=0.5", "without effect"]),
        (["experiment=dense", "svd_rank=4"], ["svd_rank=4", "without effect", "dense"]),
        (["experiment=dense", "sparse_warmup_ratio=0.1"], ["sparse_warmup_ratio=0.1", "dense"]),
        (["experiment=dense", "estimator=random"], ["estimator=random", "without effect"]),
        (["data=table", "data.path=???"], ["data.path", "needed"]),
        (["data.path=gone.csv"], ["data.path=gone.csv", "no such file"]),
        (["data.path=asset:gone"], ["asset:gone", "critics"]),
        (["data.path=asset:minilm"], ["asset:minilm", "asset:critics is allowed"]),
        (["data.path=" + "x" * 300 + ".csv"], ["data.path=x", "name too long"]),
        (["data.label_column=nope"], ["data.label_column=nope", "sentence, kind, film"]),
        (["data.labels=[up,up,down]"], ["data.labels=[up, up, down]", "each once"]),
        (["data.validation_split=dev"], ["data.validation_split=dev", "without effect"]),
        (["data.validation_fraction=0"], ["validation split is empty"]),
        (["data.test_fraction=0", "measure.test=true"], ["measure.test=true", "no test split"]),
        (["data.max_length=1"], ["data.max_length=1", "at least 4"]),
        (["data.max_length=500"], ["data.max_length=500", "128 positions"]),
        (["model.init_config={dim: 4}"], ["model.init_config", "without effect"]),
        (
            ["measure.timing=after", "measure.max_rounds=1"],
            ["measure.max_rounds=1", "at least 2"],
        ),
        (
            ["measure.timing=after", "measure.max_rounds=3"],
            ["measure.max_rounds=3", "min_rounds, which is 8"],
        ),
        (["measure.seconds=3"], ["measure.seconds=3", "measure.timing is none"]),
        (["measure.eval_every=50"], ["measure.eval_every=50", "the run has 10 steps"]),
        (["estimator=random", "estimator.tokens=64"], ["estimator.tokens=64", "no token"]),
        (["schedule=uniform", "ffn_sparsity=0.005"], ["ffn_sparsity=0.005", "rounds to no"]),
        (["experiment=dense", "schedule=ramp"], ["schedule=ramp", "without effect"]),
        (
            ["ffn_sparsity=0.5", "schedule=uniform", "layer_sparsity={layer: 0.0}"],
            ["ffn_sparsity=0.5", "without effect"],
        ),
        (["seed=4294967296"], ["seed=4294967296", "2^32"]),
        (["train.device=cuda:"], ["train.device=cuda:", "cuda:N"]),
        (["~ffn_sparsity"], ["ffn_sparsity", "every run needs it"]),
        (["~seed"], ["seed"]),
        (["svd_rank=null"], ["svd_rank=null", "from 1 to"]),
        (["model="], ["model=", "minilm"]),
        (["hydra.run.dir="], ["hydra.run.dir=", "folder is needed"]),
        (["hydra.run.dir=" + "x" * 300], ["hydra.run.dir=x", "name too long"]),
        (["-m", "hydra/sweeper=optuna", "svd_rank=2,3"], ["hydra.sweeper.direction", "maximize"]),
        (["model.name_or_path=/dev/null/x"], ["model.name_or_path=/dev/null/x", "asset:minilm"]),
        (["hydra.run.dir=/etc/passwd/x"], ["/etc/passwd/x", "cannot be made"]),
        (["hydra.run.dir=/etc/passwd"], ["/etc/passwd", "is a file"]),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else None,
)
def test_refused_before_anything_is_loaded(
    invoke: Invoke, tiny_overrides: list[str], overrides: list[str], words: list[str]
) -> None:
    given = {line.split("=")[0] for line in overrides}
    kept = [line for line in tiny_overrides if line.split("=")[0] not in given]
    outcome = invoke(*kept, *overrides)
    assert_refused(outcome, *words)
    assert not outcome.records()


def test_ffn_sparsity_that_every_layer_names_over(
    invoke: Invoke, tiny_overrides: list[str]
) -> None:
    layers = ", ".join(f"layer.{index}: 0.5" for index in range(6))
    outcome = invoke(*tiny_overrides, f"layer_sparsity={{{layers}}}", "ffn_sparsity=0.3")
    assert_refused(outcome, "ffn_sparsity=0.3", "without effect")


@pytest.mark.parametrize(
    ("content", "extra", "words"),
    [
        (
            "text,label\ngood,1\nbad,0\n",
            ["data.text_column=line"],
            ["data.text_column=line", "text"],
        ),
        ("", [], ["data.path", "cannot be read"]),
        ("text,label\n", [], ["no rows"]),
        ("text,label\ngood,1\nfine,1\ngreat,1\n", [], ["one class", "two or more"]),
        ("text,label\n,1\n,0\n", [], ["no row with a text and a label"]),
        ("text,label\ngood,1\nbad,0\n", ["data.labels=[1,7]"], ["data.labels: 7"]),
        ("text,label\ngood,1\nbad,0\n", [], ["the validation split is empty"]),
    ],
)
def test_bad_tables(
    invoke: Invoke,
    tiny_overrides: list[str],
    tmp_path: Path,
    content: str,
    extra: list[str],
    words: list[str],
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(content)
    model = [line for line in tiny_overrides if not line.startswith("data")]
    outcome = invoke(*model, "data=table", f"data.path={path}", "svd_rank=4", *extra)
    assert_refused(outcome, *words)
    assert not outcome.records()


def test_model_without_known_blocks(
    invoke: Invoke, tiny_overrides: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "bloom"
    transformers.BloomConfig(hidden_size=8, n_head=2, n_layer=1).save_pretrained(folder)
    outcome = invoke(*tiny_overrides, f"model.name_or_path={folder}")
    assert_refused(outcome, "'bloom'", "bert, camembert")
    assert not outcome.records()


def test_named_schedule_on_another_depth(
    invoke: Invoke, tiny_overrides: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "deep"
    transformers.BertConfig(
        hidden_size=24, num_attention_heads=4, intermediate_size=37, num_hidden_layers=12
    ).save_pretrained(folder)
    outcome = invoke(*tiny_overrides, f"model.name_or_path={folder}", "experiment=optimized")
    assert_refused(outcome, "layer.6 is not named", "schedule=ramp")


def test_a_grid_checks_every_job_before_the_first_trains(
    invoke: Invoke, tiny_overrides: list[str]
) -> None:
    assert_refused(invoke(*tiny_overrides, "-m", "svd_rank=4,0"), "svd_rank=0")
    assert_refused(invoke(*tiny_overrides, "-m", "svd_rank=4,25"), "svd_rank=25")
    outcome = invoke(*tiny_overrides, "-m", "estimator=svd,random", "svd_rank=4")
    assert_refused(outcome, "svd_rank=4", "random")
    outcome = invoke(*tiny_overrides, "-m", "data.label_column=kind,nope")
    assert_refused(outcome, "data.label_column=nope")
    assert not outcome.records()


def test_a_run_folder_is_never_written_twice(invoke: Invoke, tiny_overrides: list[str]) -> None:
    arguments = [*tiny_overrides, "svd_rank=3", "train.max_steps=5", "hydra.run.dir=mine"]
    assert invoke(*arguments).code == 0
    assert_refused(invoke(*arguments), "hydra.run.dir=mine", "already")
    assert_refused(
        invoke(*arguments, "-m", "hydra.sweep.dir=mine"), "hydra.sweep.dir=mine", "already"
    )


def test_weights_that_are_quantized_already(
    invoke: Invoke, tiny_overrides: list[str], hub_folder: Path, tmp_path: Path
) -> None:
    # They stayed as they were, whatever model.quantization said.
    folder = tmp_path / "quantized"
    shutil.copytree(hub_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    outcome = invoke(*tiny_overrides, f"model.name_or_path={folder}")
    assert_refused(outcome, f"model.name_or_path={folder}", "quantized already", "nf4")


def test_four_bits_without_their_package(
    invoke: Invoke, tiny_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparselora.config.checks.find_spec", lambda _: None)
    outcome = invoke(*tiny_overrides, "model.quantization=nf4")
    assert_refused(outcome, "model.quantization=nf4", "bitsandbytes", "pip install", "none")
