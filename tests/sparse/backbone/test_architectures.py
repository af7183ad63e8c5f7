"""The table of architectures, and rows that are added to it."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

import sparselora
from sparselora import Architecture, UserError, accelerate, register_architecture, sparsify
from sparselora.sparse.acceleration.gated_ffn import fast_ffn
from sparselora.sparse.acceleration.rms_norm import fast_norm
from sparselora.sparse.backbone import architectures
from sparselora.sparse.backbone.architecture import CLASSES
from sparselora.sparse.backbone.architectures import ARCHITECTURES, is_class_of_a_row
from tests.conftest import TINY, plain, tiny_batch

NAME = "llama_of_ones_own"
LLAMA = ARCHITECTURES["llama"]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    architectures._ROWS.pop(NAME, None)


class OwnRMSNorm(LlamaRMSNorm):
    pass


class OwnMLP(LlamaMLP):
    pass


class OwnConfig(transformers.LlamaConfig):
    model_type = NAME


class OwnBackbone(transformers.LlamaModel):
    config_class = OwnConfig


transformers.AutoModel.register(OwnConfig, OwnBackbone, exist_ok=True)


class OwnForSequenceClassification(transformers.LlamaForSequenceClassification):
    """LLaMA with norms and FFNs of other classes, as a plugin's model may have."""

    config_class = OwnConfig

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        for module in self.modules():
            if type(module) is LlamaRMSNorm:
                module.__class__ = OwnRMSNorm
            elif type(module) is LlamaMLP:
                module.__class__ = OwnMLP


def own_model() -> nn.Module:
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["q_proj", "v_proj"])
    model: nn.Module = get_peft_model(
        OwnForSequenceClassification(OwnConfig(**TINY["llama"], num_labels=3)), lora
    ).train()
    return model


def test_a_model_from_outside_is_a_row() -> None:
    model = own_model()
    with pytest.raises(UserError, match=rf"'{NAME}'; supported are .* sparselora.register_arch"):
        sparsify(model, plain(svd_rank=3, ffn_sparsity=0.5))
    row = replace(
        LLAMA,
        rms_norm_class=f"{__name__}.OwnRMSNorm",
        gated_ffn_class=f"{__name__}.OwnMLP",
    )
    register_architecture(NAME, row)
    register_architecture(NAME, replace(row))  # as where its module is imported again
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.5))
    model(**tiny_batch()).loss.backward()
    assert all(layer.realised_sparsity for layer in handle.report())
    norms = [module for module in model.modules() if isinstance(module, OwnRMSNorm)]
    assert norms
    assert all(type(module).__name__ == "FastNormOwnRMSNorm" for module in norms)
    handle.remove()
    acceleration = accelerate(model)
    kinds = {type(module).__name__ for module in model.modules() if isinstance(module, OwnMLP)}
    assert kinds == {"FastFFNOwnMLP"}
    acceleration.remove()


def test_another_row_of_the_same_name_is_refused() -> None:
    register_architecture(NAME, LLAMA)
    with pytest.raises(UserError, match="has another row already"):
        register_architecture(NAME, replace(LLAMA, lin1="mlp.other"))
    with pytest.raises(UserError, match=r"'bert'.*has another row already"):
        register_architecture("bert", LLAMA)
    assert ARCHITECTURES[NAME] is LLAMA


@pytest.mark.parametrize("name", ["", " ", None, 3])
def test_a_name_is_needed(name: Any) -> None:
    with pytest.raises(UserError, match="model_type is needed"):
        register_architecture(name, LLAMA)


def test_a_row_is_needed() -> None:
    with pytest.raises(UserError, match="dict is no row; an Architecture is needed"):
        register_architecture(NAME, vars(LLAMA))  # type: ignore[arg-type]
    assert NAME not in ARCHITECTURES


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", ""),
        ("lin1", "mlp..up_proj"),
        ("lin2", None),
        ("activation", "mlp act"),
        ("attention", ("q", "k", "v")),
        ("attention", "qkvo"),
        ("head", "score"),
        ("head", ()),
        ("gate", ""),
        ("called", "a."),
        ("positions", "column"),
        ("rms_norm_class", "my-norm"),
    ],
)
def test_a_field_that_cannot_be_is_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"architecture: {field}="):
        replace(LLAMA, **{field: value})


def test_classes_that_the_table_names() -> None:
    named = {
        field: {name for row in ARCHITECTURES.values() if (name := getattr(row, field))}
        for field in CLASSES
    }
    families = {"Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3"}
    assert named["rms_norm_class"] == {f"{name}RMSNorm" for name in families | {"Phi3"}}
    assert named["gated_ffn_class"] == {f"{name}MLP" for name in families | {"Gemma"}}
    assert named["rotary_attention_class"] == {f"{name}Attention" for name in families | {"Gemma"}}


def test_a_bare_name_is_of_transformers_alone() -> None:
    # Code from elsewhere may have a class of the same name and of another formula.
    assert is_class_of_a_row(LlamaRMSNorm, "rms_norm_class")
    same_name = type("LlamaRMSNorm", (LlamaRMSNorm,), {"__module__": "somewhere"})
    assert fast_norm(same_name) is None
    assert fast_ffn(type("LlamaMLP", (LlamaMLP,), {"__module__": "somewhere"})) is None


def test_registering_loads_no_torch() -> None:
    code = (
        "import sys; from dataclasses import replace; import sparselora; "
        "from sparselora.sparse.backbone.architectures import ARCHITECTURES; "
        "sparselora.register_architecture('own', replace(ARCHITECTURES['bert'], positions='ids')); "
        "assert 'own' in ARCHITECTURES; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_public_names() -> None:
    assert sparselora.Architecture is Architecture
    assert type(LLAMA) is Architecture
