"""A backbone with its LoRA adapter and its task's head."""

import warnings
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError

from sparselora import assets
from sparselora.device import choose_device
from sparselora.errors import UserError
from sparselora.gguf import unpacked
from sparselora.schema import LoraSettings, ModelConfig, Precision, Quantization, RunConfig
from sparselora.sparse.blocks import get_architecture
from sparselora.sparse.quantized import keep_trainable
from sparselora.tasks import TASKS

transformers.logging.set_verbosity_error()
huggingface_hub.logging.set_verbosity_error()  # each retry without network would be a line
transformers.logging.disable_progress_bar()


def load_model_config(model: ModelConfig, label_names: Sequence[str] | None = None) -> Any:
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


def load_tokenizer(model: ModelConfig) -> Any:
    """The tokenizer that goes with the backbone; one without a pad token pads with its last."""
    tokenizer = _load(transformers.AutoTokenizer, model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(run: RunConfig, label_names: Sequence[str], pad_token_id: int) -> PeftModel:
    """The backbone, frozen, with a fresh adapter on its attention and, to classify, a fresh head.

    What is drawn at random (adapter, head, and the backbone under `model.random_init`) follows
    torch's global seed. Under bf16 frozen weights are bfloat16 and trained ones float32. What
    `model.quantization` asks for is done on the device that the run computes on.
    """
    task = TASKS[run.task.name]
    config = load_model_config(run.model, label_names if task.trains_head else None)
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = pad_token_id
    frozen = torch.bfloat16 if run.train.precision is Precision.bf16 else torch.float32
    how: dict[str, Any] = {"config": config, "dtype": torch.float32}
    if run.model.quantization is not Quantization.none:
        how |= {"dtype": frozen} | _quantization(run, task.trains_head, config, frozen)
    if getattr(config, "quantization_config", None) is not None and not run.model.random_init:
        raise UserError(
            f"model.name_or_path={run.model.name_or_path}: its weights are quantized already; full ones "
            "are needed, and model.quantization=nf4 has them quantized"
        )
    if run.model.random_init:
        model = _random(task.auto_model, config, how)
    else:
        model = _load(task.auto_model, run.model, **how)
    keep_trainable(model)
    model.config.use_cache = False  # of keys and values, which only generation has a use for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks by a name that is on its way out
        adapted = get_peft_model(model, lora_config(run.lora, config, run.task.name))
    for parameter in adapted.parameters():
        if parameter.is_floating_point():  # bits are not
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else frozen)
    return adapted


def _quantization(
    run: RunConfig, trains_head: bool, config: Any, dtype: torch.dtype
) -> dict[str, Any]:
    """What `from_pretrained` takes: NF4 and scales quantized once more, as in QLoRA, but for heads."""
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=run.model.quantization.name,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # None is transformers' own choice: the map to the vocabulary, and what it is tied to.
        llm_int8_skip_modules=list(get_architecture(config).head) if trains_head else None,
    )
    device = choose_device(run.train.device)
    return {"quantization_config": quantization, "device_map": {"": device}}


def _random(auto_model: Any, config: Any, how: dict[str, Any]) -> Any:
    try:
        model = auto_model.from_config(config)
    except ValueError as error:
        raise UserError(f"model.init_config: {_first_line(error)}") from error
    if "quantization_config" not in how:
        return model
    with TemporaryDirectory() as folder:  # transformers quantizes what it loads
        model.save_pretrained(folder)
        return auto_model.from_pretrained(folder, **how)


def lora_config(lora: LoraSettings, config: Any, task_name: str = "classification") -> LoraConfig:
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


def _load(kind: Any, model: ModelConfig, **extra: Any) -> Any:
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
