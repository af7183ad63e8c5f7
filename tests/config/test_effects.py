"""A setting without effect is refused with the reason, and one that has an effect is not."""

import pytest

from sparselora.config.effects import check_dense_effects, check_effects
from sparselora.config.schema import RunConfig
from sparselora.errors import WithoutEffectError


def _run(**changes: object) -> RunConfig:
    run = RunConfig(ffn_sparsity=0.5, sparse_warmup_ratio=0.1, seed=1, svd_rank=4)
    given = {
        "task__name": "classification",
        "schedule__name": "uniform",
        "schedule__rule": "uniform",
        "estimator__name": "svd",
        "compensation__name": "none",
        "data__path": "asset:critics",
        "model__name_or_path": "asset:minilm",
    }
    for key, value in (given | changes).items():
        group, _, name = key.rpartition("__")
        setattr(getattr(run, group) if group else run, name, value)
    return run


CASES: dict[str, tuple[str, dict[str, object]]] = {
    "data.prompt_template": ("has no prompts", {"task__name": "causal_lm"}),
    "data.train_split": ("not a data set of the hub", {"data__path": "glue"}),
    "data.quoting": ("no CSV or TSV", {"data__path": "a.csv"}),
    "model.revision": ("not on the hub", {"model__name_or_path": "bert-base-uncased"}),
    "model.init_config": ("random_init is false", {"model__random_init": True}),
    "compensation.rank": ("has no rank", {"compensation__name": "lowrank"}),
    "calibration.batches": ("nothing is fitted", {"estimator__name": "whitened"}),
    "sink_tokens": ("tokens is all", {"tokens": "context"}),
    "attention_scope": ("are 0", {"qk_sparsity": 0.5}),
    "measure.eval_every": ("the run has 3 steps", {"train__max_steps": 300}),
}


@pytest.mark.parametrize("key", CASES)
def test_a_setting_is_refused_just_where_it_has_no_effect(key: str) -> None:
    reason, other = CASES[key]
    short = {"train__max_steps": 3} if key == "measure.eval_every" else {}
    check_effects(_run(**short), ())
    with pytest.raises(WithoutEffectError, match=f"^{key}=.*without effect, since .*{reason}"):
        check_effects(_run(**short), {key})
    check_effects(_run(**other), {key})


@pytest.mark.parametrize("key", ["svd_rank", "estimator", "estimator.tokens", "schedule"])
def test_what_only_sparse_layers_look_at_is_refused_where_all_are_dense(key: str) -> None:
    check_dense_effects(_run(), {"train.batch_size"})
    with pytest.raises(WithoutEffectError, match=f"^{key}=.*every layer is dense"):
        check_dense_effects(_run(), {key})


def test_a_schedule_may_stand_beside_a_sparsity_of_0() -> None:
    check_dense_effects(_run(), {"schedule", "ffn_sparsity"})
