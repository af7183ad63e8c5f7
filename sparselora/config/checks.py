"""Check a run's settings, as far as that can be done before anything is loaded.

Hydra merges `conf/` and the command line into `RunConfig`; `parse_config` turns that into checked values.
Whether a setting is without effect is judged on the keys the user set, never on what presets hold.
"""

import math
from collections.abc import Collection
from dataclasses import fields, is_dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sparselora.config.effects import check_dense_effects, check_effects, without_effect
from sparselora.config.groups import Quantization, TrainConfig
from sparselora.config.keys import unknown_key
from sparselora.config.ranges import check_ranges
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError, WithoutEffectError
from sparselora.sparse.estimators import ESTIMATORS
from sparselora.sparse.schedule import kept_channels, layer_sparsities, names_layer
from sparselora.sparse.validate import check_choice

if TYPE_CHECKING:
    from sparselora.sparse.backbone.model_shape import ModelShape


def parse_config(config: DictConfig, user_keys: Collection[str] = ()) -> RunConfig:
    """Return the checked values of Hydra's merged config.

    Args:
        config: merged, without Hydra's own part.
        user_keys: the dotted keys that the user set.

    Raises:
        UserError: a value missing, out of range, or two settings that exclude each other.
    """
    unknown = _unknown_keys(config, RunConfig())
    if unknown:
        raise UserError(unknown_key(unknown[0]))
    there = set(map(str, config))  # `in` would overlook a key whose value is still missing
    removed = [field.name for field in fields(RunConfig) if field.name not in there]
    if removed:
        raise UserError(f"{removed[0]}: is removed; every run needs it")
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]}: a value is needed; give {missing[0]}=… on the command line")
    run: RunConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    for key, value in _numbers(run.to_dict()):
        if math.isnan(value):
            raise UserError(f"{key}=nan: a number is allowed")
    check_ranges(run)
    if run.model.quantization is not Quantization.none and find_spec("bitsandbytes") is None:
        raise UserError(
            f"model.quantization={run.model.quantization.name}: needs the package bitsandbytes "
            "(pip install 'sparselora[qlora]'); none is allowed without it"
        )
    _check_templates(run)
    _check_seeds(run, user_keys)
    check_choice("estimator.name", run.estimator.name, tuple(ESTIMATORS))
    if not ESTIMATORS[run.estimator.name].has_rank:
        if "svd_rank" in user_keys:
            raise WithoutEffectError(
                "svd_rank",
                f"svd_rank={run.svd_rank}: without effect, since estimator={run.estimator.name} "
                f"has no rank; leave it out, or choose estimator={_with_rank()}",
            )
        run.svd_rank = None
    run = replace(run, train=_steps_or_epochs(run.train, user_keys))
    run.sparsity  # noqa: B018 (checks its own values at construction)
    total = run.train.max_steps
    if total is not None:
        check_sparse_steps(run, total)
    if run.measure.max_rounds < run.measure.min_rounds:
        raise UserError(
            f"measure.max_rounds={run.measure.max_rounds}: at least measure.min_rounds, which is "
            f"{run.measure.min_rounds}, is allowed"
        )
    check_effects(run, user_keys)
    return run


def check_model(
    run: RunConfig, shape: "ModelShape", user_keys: Collection[str] = ()
) -> list[float]:
    """Check settings against the model's sizes, and return the sparsity asked of each layer.

    Raises:
        UserError: a rank or pattern that does not fit, or a key the user set that has no effect.
    """
    run.sparsity.check_rank(shape.hidden_size, shape.intermediate_size)
    sparsities = layer_sparsities(
        run.schedule.rule, shape.num_layers, run.ffn_sparsity, run.layer_sparsity
    )
    names = [f"layer.{index}" for index in range(shape.num_layers)]
    all_named = all(
        any(names_layer(pattern, name) for pattern in run.layer_sparsity) for name in names
    )
    if all_named and "ffn_sparsity" in user_keys:
        raise without_effect(run, "ffn_sparsity", "every layer is named in layer_sparsity")
    run.sparsity.attention_sparsities(shape.num_layers)
    if is_dense(run, sparsities):
        check_dense_effects(run, user_keys)
    elif not run.sparsity.sparsifies_attention and all(
        kept_channels(sparsity, shape.intermediate_size) == shape.intermediate_size
        for sparsity in sparsities
    ):
        raise UserError(
            f"ffn_sparsity={run.ffn_sparsity:g}: rounds to no channel left out of "
            f"{shape.intermediate_size}; raise it, or use experiment=dense"
        )
    return sparsities


def _check_seeds(run: RunConfig, user_keys: Collection[str]) -> None:
    if not 0 <= run.seed < 2**32:
        raise UserError(f"seed={run.seed}: a whole number from 0 to 2^32 − 1 is allowed")
    if run.seeds is None:
        return
    shown = f"seeds=[{','.join(map(str, run.seeds))}]"
    if "seed" in user_keys:
        raise UserError(f"seed={run.seed}: without effect beside {shown}; give one of the two")
    if not run.seeds or len(set(run.seeds)) != len(run.seeds):
        raise UserError(f"{shown}: different whole numbers, at least one, are allowed")
    if run.train.resume is not None:
        raise UserError(f"train.resume={run.train.resume}: goes on with one run; leave out {shown}")
    if not all(0 <= seed < 2**32 for seed in run.seeds):
        raise UserError(f"{shown}: whole numbers from 0 to 2^32 − 1 are allowed")


def _check_templates(run: RunConfig) -> None:
    if run.task.name != "causal_lm":
        if run.tokens == "context":
            raise UserError(
                f"tokens=context: task={run.task.name} has no output tokens; all is allowed"
            )
        return
    given = {name: getattr(run.data, name) for name in ("prompt_template", "completion_template")}
    if run.data.messages_column is None and None in given.values() and any(given.values()):
        name = next(name for name, template in given.items() if template is None)
        raise UserError(
            f"data.{name}=null: task=causal_lm needs one beside the other template; columns of the data "
            f"stand in braces, as in '{{{run.data.text_column}}}'"
        )


def _with_rank() -> str:
    return " or ".join(name for name, kind in ESTIMATORS.items() if kind.has_rank)


def is_dense(run: RunConfig, sparsities: Collection[float]) -> bool:
    """Return whether a run with these sparsities of its FFN blocks is plain LoRA."""
    return not any(sparsities) and not run.sparsity.sparsifies_attention


def check_sparse_steps(run: RunConfig, total_steps: int) -> None:
    """Raise a `UserError` where a run that is not plain LoRA would have no sparse step."""
    plain = run.ffn_sparsity == 0.0 and is_dense(run, run.layer_sparsity.values())
    phases = run.phases(total_steps)
    if not plain and not any(phases.share(step) == 1.0 for step in range(1, total_steps + 1)):
        finish = f" with sparse_cooldown_ratio={run.sparse_cooldown_ratio:g}"
        raise UserError(
            f"sparse_warmup_ratio={run.sparse_warmup_ratio:g}"
            f"{finish if run.sparse_cooldown_ratio else ''}: leaves no sparse step among "
            f"{total_steps}; lower it, or raise train.max_steps (experiment=dense is plain LoRA)"
        )


def _steps_or_epochs(train: TrainConfig, user_keys: Collection[str]) -> TrainConfig:
    if train.max_steps is not None and train.epochs is not None:
        if "train.max_steps" in user_keys and "train.epochs" in user_keys:
            raise UserError(
                f"train.epochs={train.epochs:g}: without effect beside "
                f"train.max_steps={train.max_steps}; give one of the two"
            )
        # The one that the user set wins over a preset's.
        if "train.epochs" in user_keys:
            return replace(train, max_steps=None)
        return replace(train, epochs=None)
    if train.max_steps is None and train.epochs is None:
        raise UserError("train.max_steps=null: a number of steps, or train.epochs, is needed")
    return train


def _unknown_keys(config: DictConfig, schema: Any, prefix: str = "") -> list[str]:
    # `+key=…` adds keys that the schema does not have, and Hydra lets it.
    known = {field.name: getattr(schema, field.name) for field in fields(schema)}
    unknown = []
    for name in map(str, config):
        if name not in known:
            unknown.append(f"{prefix}{name}")
        elif is_dataclass(known[name]):
            unknown += _unknown_keys(config[name], known[name], f"{prefix}{name}.")
    return unknown


def _numbers(value: Any, key: str = "") -> list[tuple[str, float]]:
    if isinstance(value, dict):
        items = [(f"{key}.{name}" if key else str(name), item) for name, item in value.items()]
        return [number for name, item in items for number in _numbers(item, name)]
    return [(key, value)] if isinstance(value, float) else []
