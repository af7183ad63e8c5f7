"""Refuse settings that contradict the option that was chosen by its name."""

from collections.abc import Collection, Mapping

from sparselora.config.checks import is_dense
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError, WithoutEffectError

EMBEDDED = "critics"
"""The option of `data` that is taken where nothing is said."""
_SPARSE = (
    "ffn_sparsity",
    "layer_sparsity",
    "qk_sparsity",
    "vo_sparsity",
    "layer_qk_sparsity",
    "layer_vo_sparsity",
)


def check_choices(
    run: RunConfig, choices: Mapping[str, str | None], user_keys: Collection[str]
) -> None:
    """Check a run against the options that it was composed of.

    Args:
        run: its settings.
        choices: group → option, as Hydra gives them.
        user_keys: the dotted keys and groups that the user set.

    Raises:
        UserError: a path of the user's own with columns and labels of the embedded data.
        WithoutEffectError: `experiment=dense` beside something that is sparse.
    """
    experiment = choices.get("experiment")
    if experiment == "dense" and not is_dense(
        run, [run.ffn_sparsity, *run.layer_sparsity.values()]
    ):
        raise _not_dense(run, choices, user_keys)
    own = "data.path" in user_keys and "data" not in user_keys
    if own and choices.get("data") == EMBEDDED and run.data.path != f"asset:{EMBEDDED}":
        raise UserError(
            f"data.path={run.data.path}: would be read with the columns and labels of the embedded "
            f"data; add data=table, with data.text_column and data.label_column"
        )


def _not_dense(
    run: RunConfig, choices: Mapping[str, str | None], user_keys: Collection[str]
) -> UserError:
    for key in sorted(user_keys):
        field = key.partition(".")[0]
        if field not in _SPARSE:
            continue
        value = getattr(run, field)
        if any(value.values()) if isinstance(value, Mapping) else value:
            return _contradicts(field, value)
    if "schedule" in user_keys:
        return _contradicts("schedule", choices.get("schedule"))
    return UserError("experiment=dense: is plain LoRA, and the config files beside it are sparse")


def _contradicts(key: str, value: object) -> WithoutEffectError:
    return WithoutEffectError(
        key,
        f"{key}={value}: contradicts experiment=dense, which is plain LoRA; leave out one of them",
    )
