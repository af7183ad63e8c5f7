"""Keep a run in the middle of its training: enough to end with the very metrics of one never stopped.

What it does not hold follows from the seed again: the untrained model, calibration, and the order of the
batches, of which those that were taken are passed over.
"""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from sparselora.config.identity import outcome_settings
from sparselora.config.older_records import filled
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError
from sparselora.records.files import write_atomically
from sparselora.records.record import COMPLETED, RECORD_NAME, read_record
from sparselora.sparse.patch import SparsityHandle
from sparselora.training.adapters import adapter_state, load_adapter_state
from sparselora.training.stepper import Stepper

CHECKPOINT_NAME = "checkpoint.pt"


def save_checkpoint(
    folder: Path,
    model: PeftModel,
    stepper: Stepper,
    handle: SparsityHandle | None,
    progress: Mapping[str, Any],
) -> None:
    """Put the state after a step in place of the folder's earlier one: whole, or not at all.

    Args:
        folder: of the run.
        model: whose trained weights are kept.
        stepper: its optimizer and scheduler.
        handle: its patch; None in plain LoRA.
        progress: plain values and tensors: what the caller needs to go on.
    """
    state = {
        "trained": adapter_state(model),
        "optimizer": stepper.optimizer.state_dict(),
        "scheduler": stepper.scheduler.state_dict(),
        "sparsity": None if handle is None else handle.state_dict(),
        "random": _random_state(),
        "progress": dict(progress),
    }
    write_atomically(folder / CHECKPOINT_NAME, lambda temporary: torch.save(state, temporary))


def load_checkpoint(folder: Path, run: RunConfig) -> dict[str, Any]:
    """Load what `save_checkpoint` left in the folder of a run with the same settings.

    Raises:
        UserError: there is none, it cannot be read, or the settings are others.
    """
    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        stopped = read_record(folder)
        ended = stopped is not None and stopped.status == COMPLETED
        why = "that run is complete" if ended else f"holds no {CHECKPOINT_NAME}"
        raise UserError(
            f"train.resume={folder}: {why}; the folder of a run that was stopped, and had "
            "train.checkpoint_every, is allowed"
        )
    record = read_record(folder)
    if record is None:
        raise UserError(f"train.resume={folder}: its {RECORD_NAME} cannot be read")
    asked, held = (
        {key: value for key, value in outcome_settings(config).items() if value != {}}
        for config in (run.to_dict(), filled(record.config))
    )
    for key in sorted({*asked, *held}):
        if asked.get(key) != held.get(key):
            raise UserError(
                f"{key}={asked.get(key)}: the run in train.resume={folder} had {held.get(key)}; "
                "a run goes on with its own settings"
            )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"train.resume={folder}: {CHECKPOINT_NAME} cannot be read") from error
    return state


def restore(
    state: Mapping[str, Any], model: PeftModel, stepper: Stepper, handle: SparsityHandle | None
) -> None:
    """Bring model, optimizer, scheduler, patch and random numbers to a checkpoint's state."""
    load_adapter_state(model, state["trained"])
    stepper.optimizer.load_state_dict(state["optimizer"])
    stepper.scheduler.load_state_dict(state["scheduler"])
    if handle is not None:
        handle.load_state_dict(state["sparsity"])
    _set_random_state(state["random"])


def _random_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(kind),
            np.asarray(keys).tolist(),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, list(words), gauss],
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
