"""Every check of a run's settings that can be made before anything is loaded.

Hydra merges `conf/` and the command line into `RunConfig`; `parse_config` turns that into checked values.
Whether a setting is without effect is judged on the keys the user set, never on what presets hold.
"""

import difflib
import math
from collections.abc import Callable, Collection
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from sparselora.errors import UserError
from sparselora.schedule import dense_steps, layer_sparsities, names_layer
from sparselora.schema import PROJECTIONS, RunConfig, TrainConfig
from sparselora.sparse.config import ESTIMATORS, check_at_least, check_choice

if TYPE_CHECKING:
    from sparselora.sparse.blocks import ModelShape


def parse_config(config: DictConfig, user_keys: Collection[str] = ()) -> RunConfig:
    """Hydra's merged config → checked values; `user_keys` are the dotted keys the user set.

    Raises:
        UserError: a value missing, out of range, or two settings that exclude each other.
    """
    unknown = _unknown_keys(config, RunConfig())
    if unknown:
        raise UserError(unknown_key(unknown[0]))
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"{missing[0]}: a value is needed; give {missing[0]}=… on the command line")
    run: RunConfig = OmegaConf.to_object(config)  # type: ignore[assignment]
    for key, value in _numbers(run.to_dict()):
        if math.isnan(value):
            raise UserError(f"{key}=nan: a number is allowed")
    for check, keys in _CHECKS:
        for key in keys:
            check(key, OmegaConf.select(config, key))
    for projection in run.lora.projections:
        check_choice("lora.projections", projection, PROJECTIONS)
    if not run.lora.projections:
        raise UserError("lora.projections=[]: at least one of query, key, value, output is needed")
    if run.seed < 0:
        raise UserError(f"seed={run.seed}: a whole number of at least 0 is allowed")
    check_choice("estimator.name", run.estimator.name, tuple(ESTIMATORS))
    if not ESTIMATORS[run.estimator.name].has_rank:
        if "svd_rank" in user_keys:
            raise UserError(
                f"svd_rank={run.svd_rank}: without effect, since estimator={run.estimator.name} "
                "has no rank; leave it out, or choose estimator=svd"
            )
        run.svd_rank = None
    run = replace(run, train=_steps_or_epochs(run.train, user_keys))
    run.sparsity  # noqa: B018 (checks its own values at construction)
    total = run.train.max_steps
    if total is not None:
        check_sparse_steps(run, total)
    return run


def check_model(
    run: RunConfig, shape: "ModelShape", user_keys: Collection[str] = ()
) -> list[float]:
    """Check settings against the model's sizes; returns the sparsity asked of each layer.

    Raises:
        UserError: a rank or pattern that does not fit, or a key the user set that has no effect.
    """
    run.sparsity.check_rank(shape.hidden_size, shape.intermediate_size)
    sparsities = layer_sparsities(
        run.schedule.rule, shape.num_layers, run.ffn_sparsity, run.layer_sparsity
    )
    if is_dense(sparsities):
        without = "every layer is dense"
        dead: tuple[str, ...] = ("svd_rank", "sparse_warmup_ratio", "estimator", "estimator.tokens")
    else:
        without = "every layer is named in layer_sparsity"
        names = [f"layer.{index}" for index in range(shape.num_layers)]
        all_named = all(
            any(names_layer(pattern, name) for pattern in run.layer_sparsity) for name in names
        )
        dead = ("ffn_sparsity",) if all_named else ()
    for key in dead:
        if key in user_keys:
            value = OmegaConf.select(OmegaConf.structured(run), key)
            shown = run.estimator.name if key == "estimator" else value
            raise UserError(f"{key}={shown}: without effect, since {without}; leave it out")
    return sparsities


def is_dense(sparsities: Collection[float]) -> bool:
    """Whether a run with these layer sparsities is plain LoRA."""
    return not any(sparsities)


def check_sparse_steps(run: RunConfig, total_steps: int) -> None:
    """Raise a `UserError` where a run that is not plain LoRA would have no sparse step."""
    plain = run.ffn_sparsity == 0.0 and is_dense(run.layer_sparsity.values())
    if not plain and dense_steps(run.sparse_warmup_ratio, total_steps) >= total_steps:
        raise UserError(
            f"sparse_warmup_ratio={run.sparse_warmup_ratio:g}: leaves no sparse step among "
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


def unknown_key(key: str) -> str:
    """The message for a key that the schema does not have, with the nearest that it has."""
    parent, _, last = key.rpartition(".")
    kind: Any = RunConfig()
    for part in filter(None, parent.split(".")):
        kind = getattr(kind, part, None)
    if not is_dataclass(kind):
        kind, parent, last = RunConfig(), "", key
    allowed = [field.name for field in fields(kind)]
    if not parent:
        allowed.append("experiment")
    close = difflib.get_close_matches(last, allowed, n=1)
    prefix = f"{parent}." if parent else ""
    hint = f"; did you mean {prefix}{close[0]}?" if close else ";"
    where = f" in {parent}" if parent else ""
    return f"{key}: unknown key{hint} allowed{where}: {', '.join(allowed)}"


def _numbers(value: Any, key: str = "") -> list[tuple[str, float]]:
    if isinstance(value, dict):
        items = [(f"{key}.{name}" if key else str(name), item) for name, item in value.items()]
        return [number for name, item in items for number in _numbers(item, name)]
    return [(key, value)] if isinstance(value, float) else []


def _at_least(least: float) -> Callable[[str, Any], None]:
    return lambda key, value: check_at_least(key, value, least)


def _share(key: str, value: float) -> None:
    if not 0.0 <= value < 1.0:
        raise UserError(f"{key}={value:g}: a share from 0 up to, not including, 1 is allowed")


def _positive(key: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise UserError(f"{key}={value:g}: a finite number over 0 is allowed")


def _device(key: str, value: str) -> None:
    kind, _, index = value.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise UserError(f"{key}={value}: auto, cpu, cuda or cuda:N is allowed")


_CHECKS: tuple[tuple[Callable[[str, Any], None], tuple[str, ...]], ...] = (
    (
        _at_least(1),
        (
            "data.max_length",
            "estimator.tokens",
            "lora.r",
            "measure.eval_batch_size",
            "measure.eval_every",
            "train.batch_size",
            "train.gradient_accumulation_steps",
            "train.max_steps",
            "train.threads",
        ),
    ),
    (_at_least(0), ("train.weight_decay",)),
    (_positive, ("lora.alpha", "train.epochs", "train.learning_rate", "train.max_grad_norm")),
    (
        _share,
        (
            "data.test_fraction",
            "data.validation_fraction",
            "lora.dropout",
            "sparse_warmup_ratio",
            "train.lr_warmup_ratio",
        ),
    ),
    (_device, ("train.device",)),
)
