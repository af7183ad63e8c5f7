"""Keep adapters on disk: ordinary PEFT checkpoints, replaced whole."""

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

ADAPTER_FOLDER = "adapter"


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """Return a copy of everything that trains, as PEFT names it."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def load_adapter_state(model: PeftModel, state: dict[str, Tensor]) -> None:
    """Put back what `adapter_state` gave."""
    set_peft_model_state_dict(model, state)


def save_adapter(model: PeftModel, tokenizer: Any, folder: Path) -> None:
    """Write adapter, head and tokenizer to `folder`, which stock `PeftModel` loads."""
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    # PEFT prints and warns about model cards and vocabularies that a local base does not have.
    with contextlib.redirect_stdout(io.StringIO()):
        model.save_pretrained(str(temporary), save_embedding_layers=False)
        tokenizer.save_pretrained(str(temporary))
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(folder)
