"""Read from a model's folder by transformers, and say in one line what goes wrong there."""

import warnings
from collections.abc import Sequence
from typing import Any

import huggingface_hub
import torch
import transformers

from sparselora.config.groups import ModelConfig
from sparselora.data import assets
from sparselora.errors import UserError, in_one_line
from sparselora.model.folder import check_folder
from sparselora.model.gguf import unpacked
from sparselora.sparse.backbone.lookup import get_architecture

transformers.logging.set_verbosity_error()
huggingface_hub.logging.set_verbosity_error()  # each retry without network would be a line
transformers.logging.disable_progress_bar()


def read_pretrained(kind: Any, model: ModelConfig, **extra: Any) -> Any:
    """Call `kind.from_pretrained` for the checkpoint that `model` names.

    Raises:
        UserError: it cannot be loaded, whatever the reason; names it.
    """
    path = assets.resolve(model.name_or_path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if model.gguf_file is not None:
                found = unpacked(path, model.gguf_file)
                path = found or path
                extra |= {} if found else {"gguf_file": model.gguf_file}
            return kind.from_pretrained(
                path,
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                **extra,
            )
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a file that is not what it says raises anything
        part = {"AutoConfig": "config.json", "AutoTokenizer": "the tokenizer"}
        raise UserError(
            f"model.name_or_path={model.name_or_path}: "
            f"{part.get(kind.__name__, 'the checkpoint')} cannot be loaded ({in_one_line(error)}); a "
            "local folder, a hub name (with network), asset:minilm or asset:smollm2 is allowed"
        ) from error


def load_model_config(model: ModelConfig, label_names: Sequence[str] | None = None) -> Any:
    """Return the transformers config of the backbone: sizes without weights.

    Raises:
        UserError: it cannot be loaded, or its architecture is not in the table.
    """
    labels: dict[str, Any] = {}
    if label_names is not None:
        labels = {
            "num_labels": len(label_names),
            "id2label": dict(enumerate(label_names)),
            "label2id": {name: index for index, name in enumerate(label_names)},
        }
    if model.random_init:
        settings = dict(model.init_config)
        model_type = settings.pop("model_type", None)
        if model_type is None:
            raise UserError("model.init_config.model_type: needed beside model.random_init=true")
        try:
            config = transformers.AutoConfig.for_model(model_type, **settings, **labels)
        except Exception as error:
            raise UserError(f"model.init_config: {in_one_line(error)}") from error
    else:
        check_folder(model)
        config = read_pretrained(transformers.AutoConfig, model, **labels)
    get_architecture(config)
    return config
