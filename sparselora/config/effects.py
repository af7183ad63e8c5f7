"""Refuse settings that could have no effect: an error where the user set one, never a silent no-op.

Judged on the keys that the user set or sweeps; what presets hold is never judged. Why a setting can be
without effect stands beside its field in `sparselora.config.groups`, by functions of this module: each
takes a run and returns the reason, or None where the setting has an effect.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from sparselora.config.ranges import idle_settings, sparse_settings
from sparselora.errors import WithoutEffectError

if TYPE_CHECKING:
    from sparselora.config.schema import RunConfig

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


def check_effects(run: "RunConfig", user_keys: Collection[str]) -> None:
    """Raise a `WithoutEffectError` where the user set what cannot have an effect, whatever the model."""
    for key, since in idle_settings(run):
        if key in user_keys:
            raise without_effect(run, key, since)


def check_dense_effects(run: "RunConfig", user_keys: Collection[str]) -> None:
    """Raise a `WithoutEffectError` where the user set what only a sparse layer would look at."""
    for key in sparse_settings(run):
        # A schedule says how a sparsity is spread, of which none is left where the user set it to 0.
        if key in user_keys and not (key == "schedule" and "ffn_sparsity" in user_keys):
            raise without_effect(run, key, "every layer is dense")


def without_effect(run: "RunConfig", key: str, since: str) -> WithoutEffectError:
    """Return the error for one key."""
    groups = {name: getattr(run, name).name for name in ("estimator", "schedule", "compensation")}
    value = groups.get(key)
    if value is None:
        value = OmegaConf.select(OmegaConf.structured(run), key)
    return WithoutEffectError(key, f"{key}={value}: without effect, since {since}; leave it out")


def no_prompts(run: "RunConfig") -> str | None:
    """Return why what makes prompts has no effect."""
    return None if _completes(run) else f"task={run.task.name} has no prompts"


def names_chats(run: "RunConfig") -> str | None:
    """Return why templates have no effect."""
    return None if run.data.messages_column is None else "data.messages_column names chats"


def takes_templates(run: "RunConfig") -> str | None:
    """Return why columns of texts have no effect."""
    return "task=causal_lm takes what its templates name" if _completes(run) else None


def looks_at_no_label(run: "RunConfig") -> str | None:
    """Return why what says which labels there are has no effect."""
    if _completes(run) and run.data.labels is None:
        return "task=causal_lm looks at labels only where data.labels names some"
    return None


def no_delimiters(run: "RunConfig") -> str | None:
    """Return why how quotes are read has no effect."""
    path = run.data.path
    if path.lower().endswith((".csv", ".tsv")) or Path(path).expanduser().is_dir():
        return None
    return "data.path is no CSV or TSV"


def not_of_the_hub(run: "RunConfig") -> str | None:
    """Return why names of the hub's splits and parts have no effect."""
    path = run.data.path
    table = path.startswith(("asset:", "dataset:")) or path.lower().endswith(_TABLES)
    return "data.path is not a data set of the hub" if table else None


def local_model(run: "RunConfig") -> str | None:
    """Return why a hub revision of the model has no effect."""
    model = run.model
    local = (
        model.random_init
        or model.name_or_path.startswith("asset:")
        or Path(model.name_or_path).expanduser().is_dir()
    )
    return "model.name_or_path is not on the hub" if local else None


def trained_weights(run: "RunConfig") -> str | None:
    """Return why sizes of a random model have no effect."""
    return None if run.model.random_init else "model.random_init is false"


def all_tokens(run: "RunConfig") -> str | None:
    """Return why what tells context tokens from others has no effect."""
    return "tokens is all" if run.tokens == "all" else None


def dense_attention(run: "RunConfig") -> str | None:
    """Return why how attention is made sparse has no effect."""
    return None if run.sparsity.sparsifies_attention else "qk_sparsity and vo_sparsity are 0"


def looks_at_no_token(run: "RunConfig") -> str | None:
    """Return why a number of tokens to score has no effect."""
    scores = run.sparsity.kind.uses_tokens
    return None if scores else f"estimator={run.estimator.name} looks at no token"


def scores_no_batch(run: "RunConfig") -> str | None:
    """Return why how scores are weighted has no effect."""
    scores = run.sparsity.kind.uses_tokens
    return None if scores else f"estimator={run.estimator.name} scores no activations of a batch"


def chooses_once(run: "RunConfig") -> str | None:
    """Return why the time from choice to choice has no effect."""
    return f"estimator={run.estimator.name} chooses once" if run.sparsity.kind.fixed else None


def no_rank(run: "RunConfig") -> str | None:
    """Return why the rank of a compensation has no effect."""
    name = run.compensation.name
    return None if name == "lowrank" else f"compensation={name} has no rank"


def nothing_fitted(run: "RunConfig") -> str | None:
    """Return why calibration has no effect."""
    return None if run.sparsity.needs_calibration else "nothing is fitted on them"


def evaluated_too_rarely(run: "RunConfig") -> str | None:
    """Return why the steps from one evaluation to the next have no effect."""
    total, every = run.train.max_steps, run.measure.eval_every
    too_rare = total is not None and every is not None and every > total
    return f"the run has {total} steps" if too_rare else None


def not_timed(run: "RunConfig") -> str | None:
    """Return why how a run is timed has no effect."""
    return "measure.timing is none" if run.measure.timing.name == "none" else None


def _completes(run: "RunConfig") -> bool:
    return run.task.name == "causal_lm"
