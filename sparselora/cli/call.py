"""Do one fine-tune from Python, with the settings and the checks of the command."""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from sparselora.cli.command_line import check_options, check_sweep, parse_overrides
from sparselora.cli.config_folders import config_folders
from sparselora.cli.hydra_setup import SweepsSearchPath, install, run_id
from sparselora.cli.messages import USER_MISTAKES, explain
from sparselora.cli.preflight import check_unused, compose_config, make_output_folder
from sparselora.cli.progress import Progress
from sparselora.cli.task import check_alone
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError
from sparselora.plugins import load_plugins
from sparselora.runs.checks import check_shape, load_run_data, parse_job, user_keys

_ONE_AT_A_TIME = threading.Lock()
"""Hydra composes by the state of a whole process, so threads take turns."""
SCHEMA_FILE = "schema.yaml"
"""The name under which Hydra's store keeps what `register_schema` registers."""

if TYPE_CHECKING:
    from sparselora.records.record import RunRecord


def fine_tune(
    overrides: Iterable[str] = (),
    folder: str | Path | None = None,
    config_folder: str | Path | None = None,
) -> "RunRecord":
    """Do one sparse-LoRA fine-tune, as `python -m sparselora.run` does it, and return its record.

    Every check of the command is made before anything is trained. A notebook or a script may call this as
    often as it likes, inside a Hydra application of its own too. Like the command it seeds torch's random
    numbers, and sets its threads.

    Args:
        overrides: what would be typed behind the command, such as
            `["experiment=optimized", "train.learning_rate=2e-3"]`; no sweep, nothing of `hydra`.
        folder: where record, metrics, predictions and adapters go; made if need be. By default a new
            one below `outputs/runs`.
        config_folder: one with options of your own, as `--config-dir` takes it.

    Returns:
        The record, completed. `record.content` holds what stands in `record.json`:
        `record.content.final.accuracy`, `record.content.ms_per_step`.

    Raises:
        UserError: a setting is wrong; the message is the command's.
        TrainingError: training cannot go on. The record on disk says what was reached.
    """
    overrides = _as_list(overrides)
    check_alone()
    load_plugins()
    # PEFT loads it where it is installed, and it warns of a kernel that only evaluation would use.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if folder is not None and not str(folder):
        raise UserError("folder=: a folder is needed")
    place = Path("outputs", "runs", run_id()) if folder is None else Path(folder)
    place = place.absolute()  # a run is named by its folder and the one that this lies in
    if config_folder is not None and not Path(config_folder).is_dir():
        raise UserError(f"config_folder={config_folder}: no such folder")
    try:
        run, choices = _composed(overrides, config_folder)
        check_unused(overrides, ("bench.",))
    except USER_MISTAKES as error:
        raise UserError(explain(error)) from (None if isinstance(error, UserError) else error)
    if run.seeds is not None:
        raise UserError(f"seeds={run.seeds}: one call is one run; give seed=N, once a seed")
    make_output_folder("folder", place)
    for note in load_run_data(run).notes:
        print(f"note: {note}", file=sys.stderr)
    sparsities = check_shape(run, user_keys(overrides))
    flags = [] if config_folder is None else ["--config-dir", str(Path(config_folder).resolve())]

    from sparselora.runs.job import Origin, run_job

    origin = Origin(overrides, choices.get("experiment"), flags)
    (record,) = run_job(run, sparsities, place, origin, watch=Progress)
    return record


def _as_list(overrides: Any) -> list[str]:
    if isinstance(overrides, str | bytes) or not isinstance(overrides, Iterable):
        raise UserError(f"overrides={overrides!r}: a list such as ['seed=2'] is needed")
    given = list(overrides)
    for each in given:
        if not isinstance(each, str):
            raise UserError(f"overrides: {each!r}: a text such as 'seed=2' is needed")
    return given


def _composed(
    overrides: list[str], config_folder: str | Path | None
) -> tuple[RunConfig, dict[str, Any]]:
    """Return the checked settings, and the option that was chosen of each group."""
    extra = None if config_folder is None else str(config_folder)
    with _ONE_AT_A_TIME, _own_schema(), config_folders(None, extra):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        parsed = parse_overrides(overrides, parser)
        for override in parsed:
            if override.key_or_group.startswith(("hydra.", "hydra/")):
                raise UserError(
                    f"{override.input_line}: without effect in a call, which is one run in its `folder`"
                )
            if override.is_sweep_override():
                raise UserError(
                    f"{override.input_line}: a sweep; one call is one run (several values of one key are "
                    "a list: key=[a,b])"
                )
        check_options(parsed)
        check_sweep(parsed)
        config = compose_config("config", overrides)
        choices = dict(config.hydra.runtime.choices)
        return parse_job(config, overrides), choices


@contextlib.contextmanager
def _own_schema() -> Iterator[None]:
    # A user's own Hydra application may have registered another under this name, and looks for its
    # options in its own folders.
    store, active = ConfigStore.instance(), SweepsSearchPath.active
    theirs = store.repo.get(SCHEMA_FILE)
    try:
        install()
        yield
    finally:
        SweepsSearchPath.active = active
        if theirs is not None:
            store.repo[SCHEMA_FILE] = theirs
