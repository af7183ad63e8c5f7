"""Under TRL's trainers, which call a model for references, rollouts and metrics too."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers

from sparselora import SparsityCallback, SparsityConfig, sparsify
from sparselora.sparse.estimators import ESTIMATORS
from sparselora.sparse.patch import SparsityHandle
from tests.conftest import WORDS, tiny_config

STEPS = 3
ROWS = 12


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    vocabulary = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", *WORDS]
    words = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        unk_token="[UNK]",
        padding_side="right",
    )


def texts(first: int, least: int) -> list[str]:
    return [
        " ".join(WORDS[(row * 5 + first + place) % len(WORDS)] for place in range(least + row % 4))
        for row in range(ROWS)
    ]


def completions_data() -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": texts(0, 4),
            "completion": [f" {text}" for text in texts(3, 2)],
        }
    )


def preferences() -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": texts(0, 4),
            "chosen": [f" {text}" for text in texts(3, 2)],
            "rejected": [f" {text}" for text in texts(9, 3)],
        }
    )


def model_of(kind: str, trained: bool = True) -> PeftModel:
    """A tiny Llama with LoRA, whose B is zero where it is not `trained`."""
    torch.manual_seed(0)
    reward = kind == "reward"
    config = tiny_config("llama")
    if reward:
        config.num_labels = 1
    auto = (
        transformers.AutoModelForSequenceClassification
        if reward
        else transformers.AutoModelForCausalLM
    )
    lora = LoraConfig(
        r=4,
        lora_dropout=0.0,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=not trained,
        task_type="SEQ_CLS" if reward else "CAUSAL_LM",
        modules_to_save=["score"] if reward else None,
    )
    return get_peft_model(auto.from_config(config), lora)


def arguments(folder: Path, checkpointing: bool, reentrant: bool) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
        "learning_rate": 1e-3,
        "seed": 1,
    }


def sft(model: PeftModel, settings: dict[str, Any], callbacks: list[Any]) -> Any:
    return trl.SFTTrainer(
        model,
        trl.SFTConfig(**{"max_length": 16} | settings),
        train_dataset=completions_data(),
        processing_class=tokenizer(),
        callbacks=callbacks,
    )


def plain_text(model: PeftModel, settings: dict[str, Any], callbacks: list[Any]) -> Any:
    return trl.SFTTrainer(
        model,
        trl.SFTConfig(**{"max_length": 16} | settings),
        train_dataset=Dataset.from_dict({"text": texts(0, 6)}),
        processing_class=tokenizer(),
        callbacks=callbacks,
    )


def dpo(model: PeftModel, settings: dict[str, Any], callbacks: list[Any]) -> Any:
    return trl.DPOTrainer(
        model,
        args=trl.DPOConfig(**settings),
        train_dataset=preferences(),
        processing_class=tokenizer(),
        callbacks=callbacks,
    )


def reward(model: PeftModel, settings: dict[str, Any], callbacks: list[Any]) -> Any:
    return trl.RewardTrainer(
        model,
        trl.RewardConfig(**settings),
        train_dataset=preferences(),
        processing_class=tokenizer(),
        callbacks=callbacks,
    )


def grpo(model: PeftModel, settings: dict[str, Any], callbacks: list[Any]) -> Any:
    return trl.GRPOTrainer(
        model,
        reward_funcs=lambda completions, **_: [float(len(each)) for each in completions],
        args=trl.GRPOConfig(
            **settings
            | {"num_generations": 4, "max_completion_length": 4, "beta": 0.1, "temperature": 1.0}
        ),
        train_dataset=Dataset.from_dict({"prompt": texts(0, 4)}),
        processing_class=tokenizer(),
        callbacks=callbacks,
    )


KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "completion only": (sft, {}),
    "plain text": (plain_text, {}),
    "packing": (plain_text, {"packing": True, "packing_strategy": "wrapped"}),
    "packing apart": (plain_text, {"packing": True, "packing_strategy": "bfd"}),
    "padding-free": (sft, {"padding_free": True, "max_length": None}),
    "label smoothing": (sft, {"label_smoothing_factor": 0.1}),
    "dpo": (dpo, {}),
    "dpo, references first": (dpo, {"precompute_ref_log_probs": True}),
    "reward": (reward, {}),
    "grpo": (grpo, {}),
}


REFERRING = ("label smoothing", "dpo", "dpo, references first", "grpo")
"""Kinds that call the model without gradients too: for metrics, references, rollouts."""


class Calls:
    """Counts the calls of a backbone that train, as torch sees them."""

    def __init__(self, model: PeftModel) -> None:
        self.training = self.others = 0
        model.get_base_model().base_model.register_forward_pre_hook(self)

    def __call__(self, module: torch.nn.Module, _: object) -> None:
        if module.training and torch.is_grad_enabled():
            self.training += 1
        else:
            self.others += 1


def train(
    kind: str,
    folder: Path,
    config: SparsityConfig | None,
    checkpointing: bool = False,
    reentrant: bool = False,
) -> tuple[list[float], SparsityHandle | None, Calls]:
    """→ each step's loss, the handle where the model was sparse, and the calls."""
    make, settings = KINDS[kind]
    model = model_of(kind)
    handle = None if config is None else sparsify(model, config, calibration=calibration_batch())
    calls = Calls(model)
    callbacks = [] if handle is None else [SparsityCallback(handle)]
    settings = arguments(folder, checkpointing, reentrant) | settings
    trainer = make(model, settings, callbacks)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return losses, handle, calls


def calibration_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(4, 20, (4, 9), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def config_of(estimator: str, sparsity: float = 0.6) -> SparsityConfig:
    return SparsityConfig(
        rule="uniform",
        estimator=estimator,
        svd_rank=3 if ESTIMATORS[estimator].has_rank else None,
        ffn_sparsity=sparsity,
        sparse_warmup_ratio=0.0,
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_at_sparsity_0_losses_are_the_dense_ones(
    kind: str, checkpointing: bool, tmp_path: Path
) -> None:
    dense, _, _ = train(kind, tmp_path / "dense", None, checkpointing)
    found, handle, calls = train(kind, tmp_path / "found", config_of("svd", 0.0), checkpointing)
    assert not handle.sparse_blocks
    assert calls.training == STEPS
    assert found == pytest.approx(dense, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_calls_are_the_policys_training_calls_alone(
    kind: str, estimator: str, reentrant: bool, tmp_path: Path
) -> None:
    """With checkpointing, its default, DPO was refused; without, its reference was sparse and counted."""
    results = []
    for checkpointing in (True, False):
        losses, handle, calls = train(
            kind, tmp_path / str(checkpointing), config_of(estimator), checkpointing, reentrant
        )
        assert {ffn.calls for ffn in handle.sparse_blocks.values()} == {calls.training}
        assert calls.training == STEPS
        assert (calls.others > 0) == (kind in REFERRING)
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=1e-5, abs=1e-6)


def test_a_first_preference_loss_by_what_the_reference_is(tmp_path: Path) -> None:
    """Sparse as its policy it starts at log 2; dense it does not, which the guide says."""
    losses = {}
    for sparse in (False, True):
        model = model_of("dpo", trained=False)
        handle = sparsify(model, config_of("svd"))
        settings = arguments(tmp_path, True, False) | {"max_steps": 1}
        trainer = dpo(model, settings, [SparsityCallback(handle)])
        if sparse:
            with handle.without_gradients():
                trainer.train()
        else:
            trainer.train()
        losses[sparse] = trainer.state.log_history[0]["loss"]
    assert losses[True] == pytest.approx(0.6931, abs=1e-4)
    assert losses[False] != pytest.approx(0.6931, abs=1e-4)


def test_completion_only_training_with_context_sparse(tmp_path: Path) -> None:
    config = SparsityConfig(
        rule="uniform",
        estimator="svd",
        svd_rank=3,
        ffn_sparsity=0.6,
        tokens="context",
        sparse_warmup_ratio=0.0,
    )
    results = []
    for checkpointing in (True, False):
        losses, handle, _ = train(
            "completion only", tmp_path / str(checkpointing), config, checkpointing
        )
        realised = handle.report()[0].realised_sparsity
        assert 0.1 < realised < 0.5  # completions are a third of the tokens
        results.append(losses)
    assert results[0] == pytest.approx(results[1], rel=1e-5)
