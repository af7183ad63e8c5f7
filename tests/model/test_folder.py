"""Folders that people give as a model: a usual mistake is one line, and what is read is what is there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from sparselora.config.groups import ModelConfig
from sparselora.errors import UserError
from sparselora.model.load import load_model_config
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from tests.conftest import Outcome, tiny_config, word_tokenizer
from tests.model.checkpoints import load

Invoke = Callable[..., Outcome]


def model_config(path: object) -> ModelConfig:
    return ModelConfig(name="mine", name_or_path=str(path))


def adapter(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_config(tiny_config("llama"))
    lora = LoraConfig(target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(folder)


def adapter_beside_weights(folder: Path) -> None:
    """It was loaded, its LoRA on q_proj drawn anew, and that on down_proj trained along."""
    transformers.AutoModelForCausalLM.from_config(tiny_config("llama")).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    adapter(folder)


def pointer(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        transformers.AutoModel.from_config(tiny_config("bert")).save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
        (folder / name).write_text(text)

    return make


MISTAKES: dict[str, tuple[Callable[[Path], None], str]] = {
    "adapter alone": (adapter, "holds a PEFT adapter"),
    "adapter beside weights": (adapter_beside_weights, "holds a PEFT adapter"),
    "weights not fetched": (
        pointer("model.safetensors"),
        "model.safetensors is a pointer of git-lfs",
    ),
    "config not fetched": (pointer("config.json"), "config.json is a pointer of git-lfs"),
    "tokenizer not fetched": (pointer("tokenizer.json"), "tokenizer.json is a pointer of git-lfs"),
    "nothing": (lambda folder: folder.mkdir(), "has no config.json"),
    "a file": (lambda folder: folder.write_text("a,b"), "is a file"),
    "not there": (lambda folder: None, "no such folder"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_usual_mistake_is_one_line(tmp_path: Path, kind: str) -> None:
    make, reason = MISTAKES[kind]
    make(tmp_path / "model")
    with pytest.raises(UserError, match=r"model\.name_or_path=") as raised:
        load_model_config(model_config(tmp_path / "model"))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_adapter_is_refused_before_data_are_read(
    invoke: Invoke, decoder_overrides: list[str], tmp_path: Path
) -> None:
    adapter_beside_weights(tmp_path / "model")
    given = [each for each in decoder_overrides if not each.startswith("model.name_or_path=")]
    outcome = invoke(*given, f"model.name_or_path={tmp_path / 'model'}")
    assert outcome.code == 2
    assert len(outcome.message) == 1
    assert "holds a PEFT adapter" in outcome.message[0]


def test_a_decoder_without_its_head_says_how_it_was_saved(tmp_path: Path) -> None:
    config = tiny_config("llama")
    config.tie_word_embeddings = False
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="saved without its language-model head"):
        load(tmp_path, task="causal_lm")


OTHER_CLASSES = [
    ("bert", "AutoModelForMaskedLM"),
    ("bert", "AutoModelForQuestionAnswering"),
    ("roberta", "AutoModelForMaskedLM"),
    ("roberta", "AutoModelForTokenClassification"),
    ("electra", "AutoModelForPreTraining"),
    ("distilbert", "AutoModelForMaskedLM"),
    ("deberta-v2", "AutoModelForMaskedLM"),
    ("mpnet", "AutoModelForMaskedLM"),
    ("modernbert", "AutoModelForMaskedLM"),
    ("gpt2", "AutoModelForCausalLM"),
    ("llama", "AutoModelForCausalLM"),
    ("opt", "AutoModelForCausalLM"),
]


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(("model_type", "saved_by"), OTHER_CLASSES)
def test_checkpoints_that_another_class_saved_are_whole(
    tmp_path: Path, model_type: str, saved_by: str, older: bool
) -> None:
    """As hubs hold them: other heads, older names of norms, buffers that are saved no more."""
    auto = getattr(transformers, saved_by)
    auto.from_config(tiny_config(model_type)).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    if older:
        weights = load_file(tmp_path / "model.safetensors")
        if model_type == "bert":
            for new, old in (("weight", "gamma"), ("bias", "beta")):
                weights = {
                    key.replace(f"LayerNorm.{new}", f"LayerNorm.{old}"): tensor
                    for key, tensor in weights.items()
                }
            weights["bert.embeddings.position_ids"] = torch.arange(128)[None]
        if model_type == "gpt2":
            weights = {key.removeprefix("transformer."): each for key, each in weights.items()}
            weights["h.0.attn.bias"] = torch.ones(1, 1, 128, 128)
            weights["h.0.attn.masked_bias"] = torch.tensor(-1e4)
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    _, _, notes = load(tmp_path)
    head = ARCHITECTURES[model_type].head
    assert notes["made_new"]["trained"]
    assert all(name.startswith(head) for name in notes["made_new"]["trained"])
    assert all("pooler" in name for name in notes["made_new"]["frozen"])
