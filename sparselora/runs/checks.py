"""Check a run's settings against its data, its model and this machine."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from sparselora.config.checks import check_model, parse_config
from sparselora.config.choices import check_choices
from sparselora.config.schema import RunConfig
from sparselora.data.load import LoadedData, load_data
from sparselora.errors import UserError


def user_keys(overrides: Sequence[str]) -> frozenset[str]:
    """Return the dotted keys and groups that overrides set."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return frozenset(override.key_or_group for override in parsed)


def parse_job(config: DictConfig, overrides: Sequence[str]) -> RunConfig:
    """Check a job's merged config, Hydra's part among it, and return its values.

    Raises:
        UserError: see `parse_config` and `check_choices`.
    """
    OmegaConf.set_struct(config, False)
    choices = config.pop("hydra").runtime.choices
    keys = user_keys(overrides)
    run = parse_config(config, keys)
    check_choices(run, choices, keys)
    return run


def load_run_data(run: RunConfig) -> LoadedData:
    """Load the run's data, checked against what the run will ask of them, validation rows sampled.

    Raises:
        UserError: see `load_data`; or the test split is asked for and is empty.
    """
    data = load_data(run.data, prompts=run.task.name == "causal_lm")
    if run.measure.test and not len(data.splits["test"]):
        raise UserError(
            f"measure.test=true: data={run.data.name} has no test split with labels; "
            "leave it out, or set data.test_split or data.test_fraction"
        )
    rows = run.measure.eval_rows
    if rows is None:
        return data
    return replace(
        data, splits=data.splits | {"validation": data.splits["validation"].sample(rows)}
    )


def check_shape(run: RunConfig, keys: frozenset[str]) -> list[float]:
    """Check a run's settings against its model, its tokenizer, its device and the run to resume.

    `data.max_length` comes down to the model's positions where it is not the user's own.

    Returns:
        The sparsity asked of each layer.
    """
    from sparselora.machine.device import choose_device
    from sparselora.model.load import check_full_weights, load_model_config, load_tokenizer
    from sparselora.model.positions import usable_positions
    from sparselora.sparse.backbone.lookup import get_architecture, get_model_shape

    choose_device(run.train.device)
    config = load_model_config(run.model)
    check_full_weights(run.model, config)
    if run.task.name == "causal_lm" and not get_architecture(config).head_on_every_token:
        raise UserError(
            f"task=causal_lm: model={run.model.name} is an encoder; a decoder, such as model=smollm2, "
            "is allowed"
        )
    longest = usable_positions(config)
    if longest is not None and "data.max_length" not in keys:
        # A preset's length is no wish of the user's.
        run.data.max_length = min(run.data.max_length, longest)
    lengths = {"data.max_length": run.data.max_length, "bench.seq_len": run.bench.seq_len}
    for key, length in lengths.items():
        if longest is not None and length is not None and length > longest:
            raise UserError(
                f"{key}={length}: this model has {longest} positions; a whole number up to "
                f"{longest} is allowed"
            )
    sparsities = check_model(run, get_model_shape(config), keys)
    load_tokenizer(run.model)
    if run.train.resume is not None:
        from sparselora.training.checkpoint import load_checkpoint

        # After `data.max_length` has come down, as it had in the run that is resumed.
        load_checkpoint(Path(run.train.resume), run)
    return sparsities
