"""A backbone with its LoRA adapter and its task's head."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import huggingface_hub
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn

from sparselora import assets
from sparselora.errors import UserError
from sparselora.gguf import unpacked
from sparselora.sparse.blocks import get_architecture
from sparselora.tasks import TASKS

if TYPE_CHECKING:
    from sparselora.schema import LoraSettings, ModelConfig, RunConfig

transformers.logging.set_verbosity_error()
huggingface_hub.logging.set_verbosity_error()  # each retry without network would be a line
transformers.logging.disable_progress_bar()


def load_model_config(model: "ModelConfig", label_names: Sequence[str] | None = None) -> Any:
    """The transformers config of the backbone: sizes without weights.

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
        except (ValueError, TypeError) as error:
            raise UserError(f"model.init_config: {_first_line(error)}") from error
    else:
        config = _load(transformers.AutoConfig, model, **labels)
    get_architecture(config)
    return config


def load_tokenizer(model: "ModelConfig") -> Any:
    """The tokenizer that goes with the backbone; one without a pad token pads with its last."""
    tokenizer = _load(transformers.AutoTokenizer, model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(run: "RunConfig", label_names: Sequence[str], pad_token_id: int) -> PeftModel:
    """The backbone, frozen, with a fresh adapter on its attention and, to classify, a fresh head.

    What is drawn at random (adapter, head, and the backbone under `model.random_init`) follows
    torch's global seed. Under bf16 frozen weights are bfloat16 and trained ones float32.
    """
    task = TASKS[run.task.name]
    config = load_model_config(run.model, label_names if task.trains_head else None)
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = pad_token_id
    if run.model.random_init:
        try:
            model = task.auto_model.from_config(config)
        except ValueError as error:
            raise UserError(f"model.init_config: {_first_line(error)}") from error
    else:
        model = _load(
            task.auto_model,
            run.model,
            config=config,
            dtype=torch.float32,
        )
    model.config.use_cache = False  # of keys and values, which only generation has a use for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks by a name that is on its way out
        adapted = get_peft_model(model, lora_config(run.lora, config, run.task.name))
    if run.train.precision.name == "bf16":
        for parameter in adapted.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    return adapted


def lora_config(lora: "LoraSettings", config: Any, task_name: str = "classification") -> LoraConfig:
    """PEFT's config for the attention projections that `lora.projections` names."""
    task = TASKS[task_name]
    architecture = get_architecture(config)
    roles = dict(zip(("query", "key", "value", "output"), architecture.attention, strict=True))
    fused = {"query", "key", "value"}
    if architecture.fused_attention and 0 < len(fused & set(lora.projections)) < 3:
        raise UserError(
            f"lora.projections={lora.projections}: this model holds query, key and value in one map, "
            "so all three or none of them is allowed"
        )
    return LoraConfig(
        task_type=task.peft_type,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(dict.fromkeys(roles[name] for name in lora.projections)),
        modules_to_save=list(architecture.head) if task.trains_head else None,
    )


def trained_parameters(model: nn.Module) -> int:
    """How many parameters train: adapter and head."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _load(kind: Any, model: "ModelConfig", **extra: Any) -> Any:
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
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"model.name_or_path={model.name_or_path}: cannot be loaded ({_first_line(error)}); a "
            "local folder, a hub name (with network), asset:minilm or asset:smollm2 is allowed"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
