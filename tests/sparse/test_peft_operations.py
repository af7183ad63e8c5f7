"""What PEFT does to a model after it was made sparse or accelerated: followed, or refused in one line."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparselora import accelerate, sparsify
from sparselora.errors import UserError
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.ffn import find_blocks
from tests.conftest import plain, tiny_batch, tiny_config
from tests.sparse.blocks.test_ffn import assert_all_close, assert_as_near, gradients

TYPES = ["bert", "distilbert", "gpt2", "llama", "modernbert"]
CONFIG = plain(estimator="svd", svd_rank=3, ffn_sparsity=0.6)


def maps_of(model_type: str, where: str) -> list[str]:
    row = ARCHITECTURES[model_type]
    ffn = {path for path in (row.lin1, row.lin2, row.gate) if path}
    return sorted({"attention": set(row.attention), "ffn": ffn}[where])


def lora(model_type: str, where: str = "ffn", **settings: Any) -> peft.LoraConfig:
    targets = maps_of(model_type, where)
    # Of a model that another has wrapped the last layer's FFN is at hand too.
    given = {"r": 3, "init_lora_weights": False, "lora_dropout": 0.0} | settings
    return peft.LoraConfig(target_modules=targets, **given)


def adapted(model_type: str, where: str = "attention", dtype: Any = torch.float64) -> Any:
    torch.manual_seed(0)
    config = tiny_config(model_type)
    base = transformers.AutoModelForSequenceClassification.from_config(config).to(dtype)
    return peft.get_peft_model(base, lora(model_type, where)).train()


def add_and_switch(model: Any, model_type: str, tmp_path: Path) -> Any:
    model.add_adapter("two", lora(model_type))
    model.set_adapter("two")
    return model


def add_elsewhere_and_switch(model: Any, model_type: str, tmp_path: Path) -> Any:
    model.add_adapter("two", lora(model_type, "attention"))
    model.set_adapter("two")
    return model


def add_and_delete(model: Any, model_type: str, tmp_path: Path) -> Any:
    model.add_adapter("two", lora(model_type))
    model.set_adapter("two")
    model.delete_adapter("two")
    model.set_adapter("default")
    return model


def switch_there_and_back(model: Any, model_type: str, tmp_path: Path) -> Any:
    add_and_switch(model, model_type, tmp_path)
    model(**tiny_batch()).loss.backward()
    model.set_adapter("default")
    return model


def weigh(model: Any, model_type: str, tmp_path: Path) -> Any:
    model.add_adapter("two", model.peft_config["default"])
    model.add_weighted_adapter(["default", "two"], [0.7, 0.3], "both", combination_type="linear")
    model.set_adapter("both")
    return model


def load(model: Any, model_type: str, tmp_path: Path) -> Any:
    model.save_pretrained(tmp_path)
    model.load_adapter(str(tmp_path), "loaded", is_trainable=True)
    model.set_adapter("loaded")
    return model


def merge_and_unmerge(model: Any, model_type: str, tmp_path: Path) -> Any:
    model(**tiny_batch())
    model.merge_adapter()
    model(**tiny_batch())
    model.unmerge_adapter()
    return model


def merge_and_wrap(model: Any, model_type: str, tmp_path: Path) -> Any:
    merged = model.merge_and_unload()
    return peft.get_peft_model(merged, lora(model_type)).train()


def unload_and_wrap(model: Any, model_type: str, tmp_path: Path) -> Any:
    return peft.get_peft_model(model.unload(), lora(model_type, "attention")).train()


def inject(model: Any, model_type: str, tmp_path: Path) -> Any:
    peft.inject_adapter_in_model(lora(model_type), model.get_base_model(), "injected")
    for module in model.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            module.set_adapter("injected" if "injected" in module.lora_A else "default")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("injected" in name)
    return model


OPERATIONS: list[Callable[[Any, str, Path], Any]] = [
    add_and_switch,
    add_elsewhere_and_switch,
    add_and_delete,
    switch_there_and_back,
    weigh,
    load,
    merge_and_unmerge,
    merge_and_wrap,
    unload_and_wrap,
    inject,
]


def mask(model: nn.Module, chosen: dict[str, Tensor]) -> nn.Module:
    """A model whose lin2, adapters included, sees nothing of the channels that were left out."""
    for block in find_blocks(model):
        if block.name in chosen:
            keep = torch.zeros(block.intermediate_size, dtype=block.lin2.weight.dtype)
            keep[chosen[block.name]] = 1
            block.lin2.module.register_forward_pre_hook(
                lambda _, args, keep=keep: (args[0] * keep, *args[1:])
            )
    return model


def chosen_by(handle: Any) -> dict[str, Tensor]:
    return {name: ffn.chosen for name, ffn in handle.sparse_blocks.items()}


@pytest.mark.parametrize("where", ["attention", "ffn"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_changed_after_sparsify_is_followed(
    model_type: str, operation: Any, where: str, tmp_path: Path
) -> None:
    """An adapter put on a Llama's FFN got no gradient; a BERT's lin2 was given what lin1 had not made."""
    model, stock = adapted(model_type, where), adapted(model_type, where)
    handle = sparsify(model, CONFIG)
    model(**tiny_batch()).loss.backward()
    torch.manual_seed(7)
    model = operation(model, model_type, tmp_path / "sparse")
    torch.manual_seed(7)
    stock = operation(stock, model_type, tmp_path / "stock")
    got = gradients(model, tiny_batch())
    expected = gradients(mask(copy.deepcopy(stock), chosen_by(handle)), tiny_batch())
    assert_all_close(got, expected)
    assert not torch.allclose(got["logits"], stock(**tiny_batch()).logits)
    model.eval(), stock.eval()
    torch.testing.assert_close(model(**tiny_batch()).logits, stock(**tiny_batch()).logits)
    handle.remove()
    assert_stock(model, stock)


def assert_stock(model: nn.Module, stock: nn.Module) -> None:
    """Every module is of the class that it has in a model which nothing was done to, and computes so."""
    model.train(), stock.train()
    kinds = [(name, type(module)) for name, module in stock.named_modules()]
    assert kinds == [(name, type(module)) for name, module in model.named_modules()]
    for module in model.modules():
        assert not [name for name in vars(module) if "sparselora" in name]
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        assert not [hook for hook in hooks if "sparselora" in type(hook).__module__]
    assert all(p.is_contiguous() for p in model.parameters())
    assert_all_close(gradients(model, tiny_batch()), gradients(stock, tiny_batch()))


@pytest.mark.parametrize("where", ["attention", "ffn"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_changed_after_accelerate_is_pefts(
    model_type: str, operation: Any, where: str, tmp_path: Path
) -> None:
    model, stock = adapted(model_type, where), adapted(model_type, where)
    acceleration = accelerate(model)
    torch.manual_seed(7)
    model = operation(model, model_type, tmp_path / "fast")
    torch.manual_seed(7)
    stock = operation(stock, model_type, tmp_path / "stock")
    assert_all_close(gradients(model, tiny_batch()), gradients(stock, tiny_batch()))
    acceleration.remove()
    assert_stock(model, stock)


@pytest.mark.parametrize("model_type", TYPES)
def test_several_adapters_at_once_are_refused_where_they_are_sliced(model_type: str) -> None:
    model = adapted(model_type, "ffn")
    handle = sparsify(model, CONFIG)
    model.add_adapter("two", lora(model_type))
    model.base_model.set_adapter(["default", "two"])
    with pytest.raises(
        UserError, match=r"layer\.0\..*'default', 'two'.*one is allowed.*remove\(\)"
    ):
        model(**tiny_batch())
    with handle.dense():
        model(**tiny_batch())
    model.eval()(**tiny_batch())
    model.train().set_adapter("two")
    model(**tiny_batch())


CHANGES = {
    "dora": lambda model, kind: model.add_adapter("two", lora(kind, use_dora=True)),
    "lora_bias": lambda model, kind: model.add_adapter("two", lora(kind, lora_bias=True)),
    "trains": lambda model, kind: [p.requires_grad_() for p in model.parameters()],
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("model_type", TYPES)
def test_what_cannot_be_sliced_any_more_is_refused(model_type: str, change: str) -> None:
    """Weights that train from now on got no gradient, and a variant of LoRA was taken for plain LoRA."""
    model = adapted(model_type, "ffn")
    handle = sparsify(model, CONFIG)
    model(**tiny_batch())
    try:
        CHANGES[change](model, model_type)
    except ValueError:
        pytest.skip("PEFT has none for this kind of layer")
    if change != "trains":
        model.set_adapter("two")
    with pytest.raises(
        UserError, match=r"layer\.0.*(variant|weight trains).*changed after sparsify"
    ):
        model(**tiny_batch())
    handle.disable()
    assert torch.isfinite(model(**tiny_batch()).loss)


@pytest.mark.parametrize("where", ["attention", "ffn"])
@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("attention", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_model_in_evaluation_is_dense(
    model_type: str, where: str, attention: float, dtype: torch.dtype
) -> None:
    """The activation handed its input on while lin2 was PEFT's again: lin2(lin1(x)), without a word."""
    model = adapted(model_type, where, dtype)
    expected = copy.deepcopy(model).merge_and_unload().eval()(**tiny_batch()).logits
    config = plain(ffn_sparsity=0.6, svd_rank=3, qk_sparsity=attention, vo_sparsity=attention)
    handle = sparsify(model, config)
    model(**tiny_batch()).loss.backward()
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged.eval()(**tiny_batch()).logits, expected)
    with torch.no_grad():
        torch.testing.assert_close(merged.train()(**tiny_batch()).logits, expected)
    handle.remove()
    torch.testing.assert_close(merged(**tiny_batch()).logits, expected)
    assert all(
        "peft" in type(m).__module__ or "_mixed" not in vars(type(m)) for m in merged.modules()
    )


@pytest.mark.parametrize("part", ["lin1", "activation", "lin2"])
@pytest.mark.parametrize("way", ["evaluation", "replaced", "own forward"])
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "gpt2", "opt"])
def test_a_block_computes_sparsely_only_as_a_whole(model_type: str, way: str, part: str) -> None:
    model, stock = adapted(model_type), adapted(model_type)
    handle = sparsify(model, CONFIG)
    path = getattr(ARCHITECTURES[model_type], part)
    for block in find_blocks(model):
        module = block.layer.get_submodule(path)
        if way == "evaluation":
            module.eval()
        elif way == "replaced":
            twin = find_blocks(stock)[int(block.name.split(".")[1])].layer.get_submodule(path)
            block.layer.set_submodule(path, copy.deepcopy(twin).eval())
        else:
            module.forward = type(module).forward.__get__(module)
    expected = stock(**tiny_batch()).logits

    # Below the backbone's hooks, which follow what is replaced: nobody has told the block of it.
    def direct(m: Any, x: Tensor) -> Tensor:
        layer = find_blocks(m)[0].layer
        row = ARCHITECTURES[model_type]
        y = x
        for each in (row.lin1, row.activation, row.lin2):
            y = layer.get_submodule(each)(y)
        return y

    x = torch.randn(2, 3, 24, dtype=torch.float64)
    torch.testing.assert_close(direct(model, x), direct(stock, x))
    if way == "evaluation":
        torch.testing.assert_close(model(**tiny_batch()).logits, expected)
    handle.disable()
    torch.testing.assert_close(model(**tiny_batch()).logits, expected)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_switched_off_adapter_is_off_in_a_copy_too(model_type: str) -> None:
    """A copy's sparse block looked at another module than PEFT did."""
    model = adapted(model_type, "ffn")
    handle = sparsify(model, CONFIG)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with model.disable_adapter(), clone.disable_adapter():
            torch.testing.assert_close(clone(**tiny_batch()).logits, model(**tiny_batch()).logits)
        on = model(**tiny_batch()).logits
        torch.testing.assert_close(clone(**tiny_batch()).logits, on)
        with clone.disable_adapter():
            assert not torch.allclose(clone(**tiny_batch()).logits, on)
    handle.remove()


@pytest.mark.parametrize("model_type", TYPES)
def test_modules_that_peft_copies_are_copies_of_the_original(model_type: str) -> None:
    """`modules_to_save` makes a deep copy, of what stood in and of all that it held."""
    model, stock = adapted(model_type, "ffn"), adapted(model_type, "ffn")
    handle = sparsify(model, CONFIG)
    row = ARCHITECTURES[model_type]
    saved = [row.attention[0], row.head[0]]
    for each in (model, stock):
        torch.manual_seed(7)
        each.add_adapter("two", lora(model_type, modules_to_save=saved))
        each.set_adapter("two")
    got = gradients(model, tiny_batch())
    assert_all_close(got, gradients(mask(copy.deepcopy(stock), chosen_by(handle)), tiny_batch()))
    handle.remove()
    assert_stock(model, stock)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_copy_of_a_layer_is_dense(model_type: str) -> None:
    model, stock = adapted(model_type), adapted(model_type)
    handle = sparsify(model, CONFIG)
    model(**tiny_batch())
    for one, other in zip(find_blocks(model), find_blocks(stock), strict=True):
        x = torch.randn(2, 3, 24, dtype=torch.float64)
        clone = copy.deepcopy(one.layer)
        row = one.architecture
        parts = [row.whole] if row.whole else [row.lin1, row.activation, row.lin2]
        y, expected = x, x
        for part in parts:
            y = clone.get_submodule(part)(y)
            expected = other.layer.get_submodule(part)(expected)
        torch.testing.assert_close(y, expected)
    handle.remove()


ORDERS = st.permutations(["first", "sparse", "second"])


@settings(max_examples=12, deadline=None)
@given(order=ORDERS, copied=st.booleans(), model_type=st.sampled_from(TYPES))
def test_taken_back_in_any_order(order: list[str], copied: bool, model_type: str) -> None:
    model = adapted(model_type)
    modules = dict(model.named_modules())
    ways = {
        "first": accelerate(model),
        "sparse": sparsify(model, CONFIG),
        "second": accelerate(model),
    }
    model(**tiny_batch())
    if copied:
        model, ways = copy.deepcopy((model, ways))
    stock = adapted(model_type)
    for name in order:
        ways[name].remove()
        ways[name].remove()
        if "sparse" in order[: order.index(name) + 1]:
            assert_all_close(gradients(model, tiny_batch()), gradients(stock, tiny_batch()))
        else:
            model(**tiny_batch()).loss.backward()
    if not copied:
        assert all(modules[name] is module for name, module in model.named_modules())
    assert_stock(model, stock)
    assert model.config._attn_implementation == stock.config._attn_implementation


def test_a_switch_between_calls_reaches_what_is_kept() -> None:
    """A slice that was gathered once held the weights of before a checkpoint was loaded."""
    model, stock = adapted("bert"), adapted("bert")
    handle = sparsify(model, plain(estimator="magnitude", ffn_sparsity=0.5))
    model(**tiny_batch())
    other = {name: value + 0.1 for name, value in stock.state_dict().items()}
    for each in (model, stock):
        each.load_state_dict(other)
    got = gradients(model, tiny_batch())
    assert_all_close(got, gradients(mask(stock, chosen_by(handle)), tiny_batch()))


@pytest.mark.parametrize("operation", [add_and_switch, merge_and_wrap, load])
@pytest.mark.parametrize("model_type", TYPES)
def test_bfloat16_models_are_followed_as_near_as_masked_ones(
    model_type: str, operation: Any, tmp_path: Path
) -> None:
    """PEFT keeps the adapters of such a model in float32."""
    results, chosen = {}, {}
    for name, dtype in (("sparse", torch.bfloat16), ("masked", torch.bfloat16), ("exact", None)):
        model = adapted(model_type, "ffn", torch.bfloat16)
        handle = sparsify(model, plain(estimator="magnitude", ffn_sparsity=0.6))
        torch.manual_seed(7)
        model = operation(model, model_type, tmp_path / name)
        if name == "sparse":
            results[name] = gradients(model, tiny_batch())
            chosen = chosen_by(handle)
            continue
        handle.remove()
        model = model if dtype else model.float()
        results[name] = gradients(mask(model, chosen), tiny_batch())
    assert results["sparse"].keys() == results["masked"].keys()
    assert_as_near(results["sparse"], results["masked"], results["exact"])
