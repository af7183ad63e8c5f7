"""Load a backbone with a LoRA adapter and its task's head."""

import warnings
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from sparselora.config.groups import LoraSettings, ModelConfig, Precision, Quantization
from sparselora.config.schema import RunConfig
from sparselora.errors import UserError, in_one_line
from sparselora.machine.device import choose_device
from sparselora.model.pretrained import load_model_config, read_pretrained
from sparselora.model.tasks import TASKS
from sparselora.model.tokenizer import load_tokenizer, padding_id
from sparselora.model.weight_checks import check_loaded
from sparselora.sparse.backbone.lookup import get_architecture
from sparselora.sparse.backbone.quantized import keep_trainable

__all__ = ["load_model", "load_model_config", "load_tokenizer", "lora_config"]

TASK_FIELDS = {
    "return_dict": True,
    "torchscript": False,
    "output_hidden_states": False,
    "output_attentions": False,
    "gradient_checkpointing": False,
}
"""What a run sets in a model's config, whatever stands there: loss and outputs are the task's."""


def load_model(
    run: RunConfig,
    label_names: Sequence[str],
    pad_token_id: int,
    notes: dict[str, Any] | None = None,
) -> PeftModel:
    """Return the backbone, frozen, with a fresh adapter on its attention and, to classify, a fresh head.

    What is drawn at random (adapter, head, and the backbone under `model.random_init`) follows
    torch's global seed. Under bf16 frozen weights are bfloat16 and trained ones float32. What
    `model.quantization` asks for is done on the device that the run computes on.

    Args:
        run: its settings.
        label_names: of the classes, in the order of their indices; none of prompts.
        pad_token_id: what the tokenizer pads with.
        notes: takes `made_new`: the weights that no file gave, those that train and those that do not.

    Raises:
        UserError: the checkpoint is not what its config says; see `check_loaded`.
    """
    task = TASKS[run.task.name]
    config = load_model_config(run.model, label_names if task.trains_head else None)
    set_task_fields(config, task.trains_head, pad_token_id)
    frozen = torch.bfloat16 if run.train.precision is Precision.bf16 else torch.float32
    how: dict[str, Any] = {"config": config, "dtype": torch.float32}
    if run.model.quantization is not Quantization.none:
        how |= {"dtype": frozen} | _quantization(run, task.trains_head, config, frozen)
    check_full_weights(run.model, config)
    if run.model.random_init:
        model = _random(task.auto_model, config, how)
    else:
        # A head of another size is made new; what is not a head is judged below.
        how |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = read_pretrained(task.auto_model, run.model, **how)
        new = check_loaded(model, info, run.model.name_or_path, head_is_new=task.trains_head)
        if task.trains_head and not _are_same_classes(run.model, label_names):
            new.trained.extend(renew_outputs(model, len(label_names), known=new.trained))
        if notes is not None:
            notes["made_new"] = {"trained": new.trained, "frozen": new.frozen}
    keep_trainable(model)
    model.config.use_cache = False  # of keys and values, which only generation has a use for
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks by a name that is on its way out
        adapted = get_peft_model(model, lora_config(run.lora, config, run.task.name))
    for parameter in adapted.parameters():
        if parameter.is_floating_point():  # bits are not
            parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else frozen)
    return adapted


def check_full_weights(model: ModelConfig, config: Any) -> None:
    """Raise a `UserError` where a checkpoint's weights are quantized already."""
    if getattr(config, "quantization_config", None) and not model.random_init:
        raise UserError(
            f"model.name_or_path={model.name_or_path}: its weights are quantized already; full ones are "
            "needed, and model.quantization=nf4 has them quantized"
        )


def _are_same_classes(model: ModelConfig, label_names: Sequence[str]) -> bool:
    """Return whether a classifier in the checkpoint can be of the data's own classes, in their order."""
    named = getattr(load_model_config(model), "id2label", None) or {}
    names = [str(named[index]) for index in sorted(named, key=int)]
    generic = [f"LABEL_{index}" for index in range(len(names))]
    return names in (list(map(str, label_names)), generic)


@torch.no_grad()
def renew_outputs(model: Any, classes: int, known: Sequence[str]) -> list[str]:
    """Draw the linear layer that gives each class its logit anew, and return its weights' names.

    Weights `known` as new already are left as they are, and out of what is returned. A classifier
    of other classes, or of the same in another order, would begin as a wrong one.
    """
    renewed = []
    for path in get_architecture(model.config).head:
        for name, module in model.get_submodule(path).named_modules(prefix=path):
            if isinstance(module, torch.nn.Linear) and module.out_features == classes:
                weights = [f"{name}.{part}" for part, _ in module.named_parameters(recurse=False)]
                if not set(weights) & set(known):
                    module.weight.normal_(0.0, getattr(model.config, "initializer_range", 0.02))
                    if module.bias is not None:
                        module.bias.zero_()
                    renewed += weights
    return renewed


def set_task_fields(config: Any, classifies: bool, pad_token_id: int) -> None:
    """Set what is the task's and not the checkpoint's: what changes loss, outputs or padding.

    Raises:
        UserError: an encoder whose config makes it look backwards alone.
    """
    for name, value in TASK_FIELDS.items():
        if hasattr(config, name):
            setattr(config, name, value)
    row = get_architecture(config)
    if classifies:
        config.problem_type = "single_label_classification"
    if getattr(config, "is_decoder", False) and not row.head_on_every_token:
        raise UserError(
            "model: its config.json has is_decoder=true, so that the first token, which is read to "
            "classify, sees no other; is_decoder=false is allowed"
        )
    if row.positions != "ids" or padding_id(config) is None:
        known = pad_token_id < getattr(config, "vocab_size", pad_token_id + 1)
        config.pad_token_id = pad_token_id if known else None


def _quantization(
    run: RunConfig, trains_head: bool, config: Any, dtype: torch.dtype
) -> dict[str, Any]:
    """Return what `from_pretrained` takes: NF4 and its scales quantized, as in QLoRA, but for heads."""
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
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a strange size does to it
        raise UserError(f"model.init_config: {in_one_line(error)}") from error
    if "quantization_config" not in how:
        return model
    with TemporaryDirectory() as folder:  # transformers quantizes what it loads
        model.save_pretrained(folder)
        return auto_model.from_pretrained(folder, **how)


def lora_config(lora: LoraSettings, config: Any, task_name: str = "classification") -> LoraConfig:
    """Return PEFT's config for the attention projections that `lora.projections` names."""
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
