"""The count against torch's own counter, on real models."""

from dataclasses import fields
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from sparselora import sparsify
from sparselora.measuring.dimensions import attention_kept_of, kept_of, model_dimensions
from sparselora.measuring.flops import (
    StepFlops,
    step_flops,
    svd_estimate_flops,
)
from sparselora.measuring.sizes import ModelDimensions
from sparselora.model.causal_lm import completion_loss
from sparselora.records.costs import FlopTerms
from sparselora.records.typed import declared
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.schedule import kept_channels
from sparselora.training.stepper import head_positions, tokens_kept_dense
from tests.conftest import plain

REAL: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12}
    | {"num_hidden_layers": 6},
    "distilbert": {},
    "llama": {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "num_hidden_layers": 6, "vocab_size": 1000, "pad_token_id": 0},
}
DISTILBERT = ModelDimensions(
    num_layers=6,
    hidden_size=768,
    intermediate_size=3072,
    num_attention_heads=12,
    num_key_value_heads=12,
    head_dim=64,
    gated=False,
    head_maps=((768, 768, True), (768, 2, True)),
    head_on_every_token=False,
)
# The counter knows addmm and baddbmm, and not their in-place forms.
IN_PLACE = {
    torch.ops.aten.addmm_: lambda _, a, b, **kwargs: 2 * a[0] * a[1] * b[1],
    torch.ops.aten.baddbmm_: lambda _, a, b, **kwargs: 2 * a[0] * a[1] * a[2] * b[2],
}
ROLES = ("query", "key", "value", "output")
SCHEDULES = {
    "dense": [0.0] * 6,
    "original": [0.0, 0.2, 0.3, 0.5, 0.6, 0.7],
    "optimized": [0.4, 0.5, 0.6, 0.8, 0.9, 0.95],
}


def adapted(config: Any, projections: tuple[str, ...]) -> Any:
    """A classifier of this config with LoRA of rank 8."""
    base = transformers.AutoModelForSequenceClassification.from_config(config)
    row = ARCHITECTURES[config.model_type]
    named = dict(zip(ROLES, row.attention, strict=True))
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=8,
        lora_dropout=0.05,
        target_modules=[named[role] for role in projections],
        modules_to_save=list(row.head),
    )
    return get_peft_model(base, lora).train()


@pytest.mark.parametrize("projections", [ROLES, ("query", "value"), ("output",)], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("model_type", REAL)
def test_within_one_percent_of_torchs_counter(
    model_type: str, schedule: str, projections: tuple[str, ...]
) -> None:
    config = transformers.AutoConfig.for_model(
        model_type, **REAL[model_type], num_labels=2, attn_implementation="eager"
    )
    model = adapted(config, projections)
    sparsities = SCHEDULES[schedule]
    layer_sparsity = {f"layer.{index}": value for index, value in enumerate(sparsities)}
    # The SVD of six layers takes seconds, so one case of each model has it.
    rank = 8 if (schedule, projections) == ("optimized", ROLES) else None
    config_of: dict[str, Any] = {"svd_rank": rank, "estimator": "svd" if rank else "random"}
    sparsify(model, plain(layer_sparsity=layer_sparsity, estimator_tokens=64, **config_of))
    batch = {
        "input_ids": torch.randint(5, 900, (3, 50)),
        "attention_mask": torch.ones(3, 50, dtype=torch.long),
        "labels": torch.tensor([0, 1, 0]),
    }
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        model(**batch).loss.backward()
    dimensions = model_dimensions(model)
    kept = [kept_channels(value, dimensions.intermediate_size) for value in sparsities]
    estimate = 0
    if rank:
        d, f = dimensions.hidden_size, dimensions.intermediate_size
        estimate = svd_estimate_flops(d, f, rank)
    ours = step_flops(dimensions, 3, 50, kept, projections, 8, estimate, 64)
    assert ours.total == pytest.approx(counter.get_total_flops(), rel=0.01)
    # Attention alone, so that a small term cannot hide behind the large ones.
    products = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    assert ours.attention == pytest.approx(products["aten.bmm"], rel=0.01)


@pytest.mark.parametrize("projections", [ROLES, ("value",)], ids=str)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kinds", ["c2p|p2c", "p2c"])
def test_attention_by_distance_within_one_percent(
    kinds: str, shared: bool, projections: tuple[str, ...]
) -> None:
    """DeBERTa's maps of distances were left out: a fifth of what a layer computes of short texts."""
    sizes = {**REAL["bert"], "vocab_size": 1000, "num_hidden_layers": 3}
    config = transformers.DebertaV2Config(
        **sizes,
        relative_attention=True,
        position_buckets=64,
        max_position_embeddings=128,
        pos_att_type=kinds,
        share_att_key=shared,
        norm_rel_ebd="layer_norm",
        num_labels=2,
    )
    model = adapted(config, projections)
    settings = plain(
        svd_rank=8, ffn_sparsity=0.5, qk_sparsity=0.5, vo_sparsity=0.25, estimator_tokens=64
    )
    sparsify(model, settings)
    batch = {
        "input_ids": torch.randint(5, 900, (3, 27)),
        "attention_mask": torch.ones(3, 27, dtype=torch.long),
        "labels": torch.tensor([0, 1, 0]),
    }
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        model(**batch).loss.backward()
    dimensions = model_dimensions(model)
    d, f = dimensions.hidden_size, dimensions.intermediate_size
    ours = step_flops(
        dimensions,
        3,
        27,
        kept_of(model, [0.5] * 3),
        projections,
        8,
        svd_estimate_flops(d, f, 8),
        64,
        attention=attention_kept_of(model, settings),
    )
    assert ours.relative_attention > 0.02 * ours.total
    assert ours.total == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_bound_by_hand() -> None:
    dimensions = DISTILBERT
    f = dimensions.intermediate_size
    dense = step_flops(dimensions, 32, 64, [f] * 6, ("query", "value"), 8)
    kept = [kept_channels(value, f) for value in SCHEDULES["optimized"]]
    sparse = step_flops(dimensions, 32, 64, kept, ("query", "value"), 8)
    assert dense.ffn_lin1 == 6 * 4 * 32 * 64 * 768 * 3072
    assert sparse.ffn_lin2 == 4 * 32 * 64 * 768 * sum(kept)
    # Design figure: 1.85 for optimized at 32 × 64.
    assert dense.total / sparse.total == pytest.approx(1.85, abs=0.03)


def test_estimator_cost_follows_rank_and_tokens() -> None:
    dimensions = DISTILBERT
    kept = [1536] * 6

    def estimator(rank: int, tokens: int | None, choices: float = 1.0) -> int:
        cost = svd_estimate_flops(768, 3072, rank)
        return step_flops(dimensions, 32, 64, kept, ROLES, 8, cost, tokens, choices).estimator

    assert estimator(8, 128) == 2 * estimator(4, 128)
    assert estimator(8, 128) == 6 * 128 * svd_estimate_flops(768, 3072, 8)
    assert estimator(8, None) == estimator(8, 32 * 64) == 16 * estimator(8, 128)
    assert estimator(8, 128, 0.1) == estimator(8, 128) // 10
    assert estimator(8, 128, 0.0) == 0


@pytest.mark.parametrize("tokens", ["all", "context"])
@pytest.mark.parametrize("projections", [ROLES, ("value",)], ids=str)
def test_a_decoder_with_sparse_attention_within_one_percent(
    tokens: str, projections: tuple[str, ...]
) -> None:
    """Token splitting, sliced attention maps and a head applied to the labelled positions alone."""
    config = transformers.LlamaConfig(**REAL["llama"], attn_implementation="eager")
    base = transformers.LlamaForCausalLM(config)
    base.config.use_cache = False
    named = dict(zip(ROLES, ARCHITECTURES["llama"].attention, strict=True))
    targets = [named[role] for role in projections]
    lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=8, lora_dropout=0.05, target_modules=targets)
    model = get_peft_model(base, lora).train()
    settings = plain(
        svd_rank=8,
        estimator_tokens=64,
        rule="deeper",
        ffn_sparsity=0.45,
        qk_sparsity=0.25,
        vo_sparsity=0.3,
        tokens=tokens,
    )
    sparsify(model, settings)
    labels = torch.full((3, 50), -100)
    labels[:, 42:] = 7
    batch = {
        "input_ids": torch.randint(5, 900, (3, 50)),
        "attention_mask": torch.ones(3, 50, dtype=torch.long),
        "labels": labels,
    }
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        completion_loss(model, batch).backward()
    dimensions = model_dimensions(model)
    d, f = dimensions.hidden_size, dimensions.intermediate_size
    ours = step_flops(
        dimensions,
        3,
        50,
        kept_of(model, [0.0, 0.0, 0.0, 0.9, 0.9, 0.9]),
        projections,
        8,
        svd_estimate_flops(d, f, 8),
        64,
        dense_tokens=tokens_kept_dense(batch, settings),
        head_positions=head_positions(batch),
        attention=attention_kept_of(model, settings),
    )
    assert tokens_kept_dense(batch, settings) == (27 if tokens == "context" else 0)
    assert head_positions(batch) == 24
    assert ours.total == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_record_has_a_place_for_each_term() -> None:
    terms = {field.name for field in fields(StepFlops)}
    assert {item.name for item in declared(FlopTerms)} == terms | {"total"}
