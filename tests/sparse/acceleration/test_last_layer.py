"""The last layer computed for the first token alone: against the whole one, and where it must not be."""

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sparselora import sparsify
from sparselora.measuring.dimensions import attention_kept_of, kept_of, model_dimensions
from sparselora.measuring.flops import step_flops
from sparselora.sparse.accelerate import accelerate
from sparselora.sparse.acceleration.first_token import HELD
from sparselora.sparse.acceleration.last_layer import reads_first_token
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.channels.selector import select_ffn_channels
from tests.conftest import plain, tiny_batch, tiny_config, tiny_model
from tests.measuring.test_flops import IN_PLACE
from tests.sparse.blocks.test_ffn import assert_all_close, gradients

READS_FIRST = sorted(
    name for name, row in ARCHITECTURES.items() if row.picks_first_token is not None
)
LAST = 2
"""Index of the last layer of a tiny model."""


def last_layer(model: nn.Module) -> Any:
    """A tiny model's."""
    config: Any = model.get_base_model().config  # type: ignore[operator]
    layers = ARCHITECTURES[config.model_type].layers
    return model.get_base_model().base_model.get_submodule(layers)[LAST]  # type: ignore[operator]


def tokens_of_the_last_activation(model: nn.Module, batch: dict[str, Tensor], **more: Any) -> int:
    """How many tokens' channels go through the last layer's activation in a call."""
    config: Any = model.config
    seen = []
    activation = last_layer(model).get_submodule(ARCHITECTURES[config.model_type].activation)

    def note(module: nn.Module, args: Any, _: Any) -> None:
        if module is activation:
            seen.append(args[0].shape[:-1].numel())

    # Of all modules: a hook of the layer's own makes the layer whole.
    hook = torch.nn.modules.module.register_module_forward_hook(note)
    model(**batch, **more)
    hook.remove()
    (tokens,) = seen
    return int(tokens)


def test_which_heads_read_the_first_token() -> None:
    assert {"bert", "deberta-v2", "distilbert", "modernbert", "roberta"} <= set(READS_FIRST)
    assert not {"gpt2", "llama", "opt"} & set(READS_FIRST)
    for model_type in ARCHITECTURES:
        assert reads_first_token(tiny_model(model_type)) == (model_type in READS_FIRST)


@pytest.mark.parametrize("model_type", READS_FIRST)
def test_what_the_table_says_of_a_head_is_so(model_type: str) -> None:
    """Nothing that the last layer gives at another position reaches the logits."""
    model = tiny_model(model_type)
    expected = model(**tiny_batch()).logits

    def spoil(_: nn.Module, __: Any, output: Any) -> Any:
        hidden_states = output if isinstance(output, Tensor) else output[0]
        spoilt = torch.cat([hidden_states[:, :1], torch.randn_like(hidden_states[:, 1:])], 1)
        return spoilt if isinstance(output, Tensor) else (spoilt, *output[1:])

    last_layer(model).register_forward_hook(spoil)
    assert torch.equal(model(**tiny_batch()).logits, expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("model_type", READS_FIRST)
def test_loss_and_gradients_are_those_of_the_whole_layer(
    model_type: str, padded: bool, implementation: str
) -> None:
    # The two that transformers has no other attention for are the same here twice.
    own = model_type in ("deberta-v2", "mpnet")
    changes = {} if own else {"_attn_implementation": implementation}
    model = tiny_model(model_type, **changes).double()
    batch = tiny_batch(padded=padded)
    expected = gradients(copy.deepcopy(model), batch)
    accelerate(model)
    assert tokens_of_the_last_activation(model, batch) == len(batch["labels"])
    assert_all_close(gradients(model, batch), expected)


@pytest.mark.parametrize("model_type", READS_FIRST)
def test_channels_are_chosen_by_the_tokens_that_are_computed(
    model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(model_type)
    handle = sparsify(model, plain(estimator="oracle", ffn_sparsity=0.6))
    block = handle.sparse_blocks[f"layer.{LAST}"]
    inputs: list[Tensor] = []
    select = block.select
    monkeypatch.setattr(block, "select", lambda x: inputs.append(x) or select(x))
    model(**tiny_batch())
    (given,) = inputs
    assert given.shape == (4, 1, 24)
    best = select_ffn_channels(block.estimator(given.detach().reshape(4, 24), None), block.kept)
    assert torch.equal(block.chosen, best)


def test_sparse_queries_are_chosen_by_all_tokens() -> None:
    whole, short = (tiny_model("bert").double() for _ in range(2))
    config = plain(estimator="oracle", ffn_sparsity=0.0, qk_sparsity=0.5, vo_sparsity=0.25)
    handles = [sparsify(model, config) for model in (whole, short)]
    handles[0]._acceleration.make_last_layer_full()
    expected = gradients(whole, tiny_batch())
    assert_all_close(gradients(short, tiny_batch()), expected)
    chosen = [handle.sparse_attention[f"layer.{LAST}"].chosen for handle in handles]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*chosen, strict=True))


def test_hidden_states_that_are_asked_for_are_whole() -> None:
    model, stock = tiny_model("bert"), tiny_model("bert")
    accelerate(model)
    ours = model(**tiny_batch(), output_hidden_states=True).hidden_states
    theirs = stock(**tiny_batch(), output_hidden_states=True).hidden_states
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected)
    assert tokens_of_the_last_activation(model, tiny_batch(), output_attentions=True) == 36
    assert tokens_of_the_last_activation(model, tiny_batch()) == 4
    model.get_base_model().config.output_hidden_states = True
    assert tokens_of_the_last_activation(model, tiny_batch()) == 36


def test_others_than_the_head_get_all_of_the_backbones_output() -> None:
    model, stock = tiny_model("distilbert"), tiny_model("distilbert")
    accelerate(model)
    batch = {key: value for key, value in tiny_batch().items() if key != "labels"}
    model(**batch)
    ours = model.get_base_model().distilbert(**batch).last_hidden_state
    theirs = stock.get_base_model().distilbert(**batch).last_hidden_state
    torch.testing.assert_close(ours, theirs)


def is_whole(model: nn.Module) -> bool:
    """Whether nothing stands in for a part of the last layer."""
    accelerate(model)
    return not any(HELD in module.__dict__ for module in model.modules())


def test_other_heads_have_the_whole_layer() -> None:
    class Mine(transformers.BertForSequenceClassification):
        pass

    assert is_whole(get_peft_model(Mine(tiny_config("bert")), lora_on("query")))
    tokens = transformers.BertForTokenClassification(tiny_config("bert"))
    assert is_whole(get_peft_model(tokens, lora_on("query")))
    assert is_whole(tiny_model("modernbert", classifier_pooling="mean"))
    assert is_whole(tiny_model("bert", num_hidden_layers=1))
    assert is_whole(tiny_model("bert", is_decoder=True))
    model = tiny_model("bert")
    head = model.get_base_model()
    head.forward = functools.partial(type(head).forward, head)
    assert is_whole(model)
    assert is_whole(tiny_model("llama"))
    assert not is_whole(tiny_model("bert"))


def lora_on(name: str) -> LoraConfig:
    return LoraConfig(task_type="SEQ_CLS", target_modules=[name])


def test_deberta_maps_distances_by_the_query_map() -> None:
    """Its embeddings of distances have three dimensions too: they must not be cut to the first."""
    settings = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    settings |= {"position_buckets": 4, "max_relative_positions": 8}
    model = tiny_model("deberta-v2", **settings).double()
    expected = gradients(copy.deepcopy(model), tiny_batch())
    accelerate(model)
    assert tokens_of_the_last_activation(model, tiny_batch()) == 4
    assert_all_close(gradients(model, tiny_batch()), expected)


def test_evaluation_is_whole_and_a_part_in_evaluation_mode_takes_no_other_along() -> None:
    model = tiny_model("bert").double()
    expected = gradients(copy.deepcopy(model), tiny_batch())
    accelerate(model)
    row = ARCHITECTURES["bert"]
    for path in (row.lin1, row.lin2, row.attention[0], row.attention[3], "attention.self"):
        part = last_layer(model).get_submodule(path)
        part.eval()
        assert_all_close(gradients(model, tiny_batch()), expected)
        part.train()
    assert tokens_of_the_last_activation(model.eval(), tiny_batch()) == 36


@pytest.mark.parametrize("make", [accelerate, lambda m: sparsify(m, plain(svd_rank=3))])
def test_remove_is_an_exact_inverse(make: Any) -> None:
    model = tiny_model("bert")
    before = {
        name: (module, type(module), set(module.__dict__)) for name, module in model.named_modules()
    }
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    made = make(model)
    assert any(HELD in module.__dict__ for module in model.modules())
    model(**tiny_batch()).loss.backward()
    made.remove()
    for name, module in model.named_modules():
        assert before[name] == (module, type(module), set(module.__dict__))
    assert hooks == [len(module._forward_pre_hooks) for module in model.modules()]


def test_accelerated_and_then_made_sparse() -> None:
    config = plain(estimator="oracle", ffn_sparsity=0.6)
    model, alone = (tiny_model("bert").double() for _ in range(2))
    before = dict(model.named_modules())
    acceleration = accelerate(model)
    accelerated = dict(model.named_modules())
    handle, other = sparsify(model, config), sparsify(alone, config)
    assert_all_close(gradients(model, tiny_batch()), gradients(alone, tiny_batch()))
    chosen = [each.sparse_blocks[f"layer.{LAST}"].chosen for each in (handle, other)]
    assert torch.equal(*chosen)
    handle.disable()
    assert tokens_of_the_last_activation(model, tiny_batch()) == 4
    handle.remove()
    assert dict(model.named_modules()) == accelerated
    assert tokens_of_the_last_activation(model, tiny_batch()) == 4
    acceleration.remove()
    assert dict(model.named_modules()) == before
    assert tokens_of_the_last_activation(model, tiny_batch()) == 36


def test_accelerated_twice() -> None:
    model = tiny_model("bert").double()
    expected = gradients(copy.deepcopy(model), tiny_batch())
    accelerations = [accelerate(model), accelerate(model)]
    assert tokens_of_the_last_activation(model, tiny_batch()) == 4
    assert_all_close(gradients(model, tiny_batch()), expected)
    for each in reversed(accelerations):
        each.remove()
        assert_all_close(gradients(model, tiny_batch()), expected)
    assert tokens_of_the_last_activation(model, tiny_batch()) == 36


def test_copies_and_pickles_are_on_their_own() -> None:
    model = tiny_model("bert")
    accelerate(model)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert tokens_of_the_last_activation(clone, tiny_batch()) == 4
        held = {id(m.__dict__[HELD]) for m in clone.modules() if HELD in m.__dict__}
        assert len(held) == 1
        assert held.isdisjoint(id(m.__dict__[HELD]) for m in model.modules() if HELD in m.__dict__)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_has_the_whole_layer(reentrant: bool) -> None:
    """What is computed again, later, was for one token or for all by another call's say."""
    model, stock = (tiny_model("bert").double() for _ in range(2))
    accelerate(model)
    grads = []
    for each in (model, stock):
        each.gradient_checkpointing_enable({"use_reentrant": reentrant})
        each.enable_input_require_grads()
        looked_at = each(**tiny_batch(), output_hidden_states=True).hidden_states[-1]
        (looked_at.square().mean() + each(**tiny_batch(3, 7)).loss).backward()
        grads.append({n: p.grad for n, p in each.named_parameters() if p.grad is not None})
    assert_all_close(grads[0], grads[1])
    assert tokens_of_the_last_activation(model, tiny_batch()) == 36


class MeanOfTokens(nn.Module):
    """A user's own pooler or head."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.map = nn.Linear(24, outputs)

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        mapped: Tensor = self.map(hidden_states.mean(1))
        return mapped


@pytest.mark.parametrize("first", ["accelerated", "replaced"])
@pytest.mark.parametrize(
    ("model_type", "path", "outputs"),
    [("bert", "bert.pooler", 24), ("roberta", "classifier", 3), ("deberta-v2", "pooler", 24)],
)
def test_a_pooler_of_ones_own_reads_the_whole_layer(
    model_type: str, path: str, outputs: int, first: str
) -> None:
    # The class of the model said that the first token is read; its gradients were off by nine tenths.
    models = [tiny_model(model_type).double() for _ in range(2)]
    if first == "accelerated":
        accelerate(models[0])
    for model in models:
        model.get_base_model().set_submodule(path, MeanOfTokens(outputs).double())
    if first == "replaced":
        accelerate(models[0])
    ours, theirs = (gradients(model, tiny_batch()) for model in models)
    assert_all_close(ours, theirs)


@pytest.mark.parametrize("place", ["bert", "bert.encoder", "bert.encoder.layer.2.attention"])
def test_who_looks_by_a_hook_sees_the_whole_layer(place: str) -> None:
    model, stock = tiny_model("bert"), tiny_model("bert")
    accelerate(model)
    seen: list[Tensor] = []
    for each in (model, stock):
        module = each.get_base_model().get_submodule(place)
        module.register_forward_hook(lambda _, __, output: seen.append(output[0]))
        each(**tiny_batch())
    torch.testing.assert_close(seen[0], seen[1])


def test_who_calls_a_part_or_asks_late_gets_the_whole_layer() -> None:
    model, stock = tiny_model("bert"), tiny_model("bert")
    accelerate(model)
    model(**tiny_batch())
    x = torch.randn(4, 9, 24)
    ours, theirs = (each.get_base_model().bert.encoder(x)[0] for each in (model, stock))
    torch.testing.assert_close(ours, theirs)
    # Head and backbone of two minds: what the head announced was kept for the next call.
    batch = {key: value for key, value in tiny_batch().items() if key != "labels"}
    model.get_base_model().bert.eval()
    model(**batch)
    model.train()
    ours, theirs = (each.get_base_model().bert(**batch)[0] for each in (model, stock))
    torch.testing.assert_close(ours, theirs)
    for each in (model, stock):
        each.get_base_model().register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "output_hidden_states": True}),
            with_kwargs=True,
        )
    ours, theirs = (each(**batch).hidden_states[-1] for each in (model, stock))
    torch.testing.assert_close(ours, theirs)


def test_a_layer_that_is_appended_reads_all_of_the_one_before() -> None:
    model, stock = tiny_model("bert"), tiny_model("bert")
    accelerate(model)
    for each in (model, stock):
        layers = each.get_base_model().bert.encoder.layer
        layers.append(copy.deepcopy(layers[0]))
    torch.testing.assert_close(model(**tiny_batch()).logits, stock(**tiny_batch()).logits)


def test_what_is_put_around_a_stand_in_outlives_the_acceleration() -> None:
    # A stand-in that was still in use had lost what it looks up.
    model = tiny_model("bert")
    acceleration = accelerate(model)
    model.add_adapter("two", lora_on("intermediate.dense"))
    acceleration.remove()
    torch.testing.assert_close(
        model(**tiny_batch()).logits, tiny_model("bert")(**tiny_batch()).logits
    )
    model = tiny_model("bert")
    acceleration = accelerate(model)
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.5))
    acceleration.remove()
    model(**tiny_batch())
    handle.remove()
    torch.testing.assert_close(
        model(**tiny_batch()).logits, tiny_model("bert")(**tiny_batch()).logits
    )


def test_first_tokens_count_alike_when_channels_are_chosen() -> None:
    # Left padding made all of their weights 0, and a sample smaller than the batch took few of them.
    batch = tiny_batch(16, 9)
    batch["attention_mask"] = batch["attention_mask"].flip(1)
    batch["attention_mask"][:, 0] = 0
    for tokens, rows in ((None, range(16)), (8, range(0, 16, 2)), (3, (0, 5, 10))):
        model = tiny_model("bert")
        config = plain(estimator="oracle", ffn_sparsity=0.6, estimator_tokens=tokens)
        handle = sparsify(model, config)
        block = handle.sparse_blocks[f"layer.{LAST}"]
        seen: list[Any] = []
        estimator = block.estimator
        hook = estimator.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args))
        model(**batch)
        hook.remove()
        ((sample, weights),) = seen
        assert weights is None
        assert len(sample) == len(rows)
        best = select_ffn_channels(estimator(sample, None), block.kept)
        assert torch.equal(block.chosen, best)


@pytest.mark.parametrize("sliced", [False, True])
@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_flops_against_torchs_counter(model_type: str, sliced: bool) -> None:
    """With the attention that torch has fused kernels for, of which one query a row is left."""
    roles = ("query", "key", "value", "output")
    changes = {"num_attention_heads": 4, "hidden_size": 96, "intermediate_size": 384}
    model = tiny_model(
        model_type, dropout=0.1, **changes
    )  # without it the counter misses attention
    settings = plain(
        estimator="magnitude",
        ffn_sparsity=0.5,
        qk_sparsity=0.5 * sliced,
        vo_sparsity=0.25 * sliced,
    )
    sparsify(model, settings)
    batch = tiny_batch(6, 40, padded=False)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        model(**batch).loss.backward()
    dimensions = model_dimensions(model)
    assert dimensions.short_last_layer is not None
    assert dimensions.short_last_layer.attention
    kept, attention = kept_of(model, [0.5] * 3), attention_kept_of(model, settings)
    ours = step_flops(dimensions, 6, 40, kept, roles, 4, choices=0.0, attention=attention)
    assert ours.total == pytest.approx(counter.get_total_flops(), rel=0.02)
