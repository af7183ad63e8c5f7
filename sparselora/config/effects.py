"""Settings that could have no effect: an error where the user set one, never a silent no-op.

Judged on the keys that the user set or sweeps; what presets hold is never judged.
"""

from collections.abc import Collection
from pathlib import Path

from omegaconf import OmegaConf

from sparselora.config.schema import RunConfig, Timing
from sparselora.errors import WithoutEffectError


def check_effects(run: RunConfig, user_keys: Collection[str]) -> None:
    """Raise a `WithoutEffectError` where the user set what cannot have an effect, whatever the model."""
    path = run.data.path
    table = path.startswith("asset:") or path.lower().endswith(
        (".csv", ".tsv", ".json", ".jsonl", ".parquet")
    )
    local = (
        run.model.random_init
        or run.model.name_or_path.startswith("asset:")
        or Path(run.model.name_or_path).expanduser().is_dir()
    )
    total, every = run.train.max_steps, run.measure.eval_every
    too_rare = total is not None and every is not None and every > total
    kind, name = run.sparsity.kind, run.estimator.name
    scores = kind.uses_tokens
    lowrank, calibrates = run.compensation.name == "lowrank", run.sparsity.needs_calibration
    completes = run.task.name == "causal_lm"
    rules = (
        (not completes, _PROMPTS, f"task={run.task.name} has no prompts"),
        (run.tokens == "all", ["sink_tokens"], "tokens is all"),
        (
            not run.sparsity.sparsifies_attention,
            ["attention_scope"],
            "qk_sparsity and vo_sparsity are 0",
        ),
        (completes, _LABELS, "task=causal_lm takes what its templates name"),
        (
            completes and run.data.labels is None,
            ["data.label_column"],
            "task=causal_lm looks at labels only where data.labels names some",
        ),
        (not scores, ["estimator.tokens"], f"estimator={name} looks at no token"),
        (not scores, ["estimator.weighted"], f"estimator={name} scores no activations of a batch"),
        (kind.fixed, ["estimator.every"], f"estimator={name} chooses once"),
        (not lowrank, ["compensation.rank"], f"compensation={run.compensation.name} has no rank"),
        (not calibrates, ["calibration.batches"], "nothing is fitted on them"),
        (
            not (path.lower().endswith((".csv", ".tsv")) or Path(path).expanduser().is_dir()),
            ["data.quoting"],
            "data.path is no CSV or TSV",
        ),
        (
            run.data.messages_column is not None,
            ["data.prompt_template", "data.completion_template"],
            "data.messages_column names chats",
        ),
        (
            completes and run.data.labels is None,
            ["data.missing_label"],
            "task=causal_lm looks at labels only where data.labels names some",
        ),
        (table, _HUB_ONLY, "data.path is not a data set of the hub"),
        (not run.model.random_init, ["model.init_config"], "model.random_init is false"),
        (local, ["model.revision"], "model.name_or_path is not on the hub"),
        (too_rare, ["measure.eval_every"], f"the run has {total} steps"),
        (run.measure.timing is Timing.none, _TIMING, "measure.timing is none"),
    )
    for dead, keys, since in rules:
        for key in keys:
            if dead and key in user_keys:
                raise without_effect(run, key, since)


def check_dense_effects(run: RunConfig, user_keys: Collection[str]) -> None:
    """Raise a `WithoutEffectError` where the user set what only a sparse layer would look at."""
    dead = list(_SPARSE)
    if "ffn_sparsity" not in user_keys:
        dead.append("schedule")
    for key in dead:
        if key in user_keys:
            raise without_effect(run, key, "every layer is dense")


def without_effect(run: RunConfig, key: str, since: str) -> WithoutEffectError:
    """The error for one key."""
    groups = {name: getattr(run, name).name for name in ("estimator", "schedule", "compensation")}
    value = groups.get(key)
    if value is None:
        value = OmegaConf.select(OmegaConf.structured(run), key)
    return WithoutEffectError(key, f"{key}={value}: without effect, since {since}; leave it out")


_SPARSE = (
    "svd_rank",
    "tokens",
    "sink_tokens",
    "sparse_warmup_ratio",
    "sparse_rampup_ratio",
    "sparse_cooldown_ratio",
    "estimator",
    "estimator.tokens",
    "estimator.weighted",
    "estimator.every",
    "compensation",
    "compensation.rank",
    "calibration.batches",
)
_PROMPTS = [
    *("data.prompt_template", "data.completion_template", "data.messages_column"),
    "task.chat_template",
]
_LABELS = ["data.text_column", "data.pair_column"]
_HUB_ONLY = [
    f"data.{name}"
    for name in ("train_split", "validation_split", "test_split", "config_name", "revision")
]
_TIMING = [
    f"measure.{name}"
    for name in ("min_rounds", "max_rounds", "seconds", "interval_width", "batches")
]
