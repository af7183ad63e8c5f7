"""Each private name of torch and transformers that is used does what it is used for.

A test that fails here says which name a new version has moved: mend it in `sparselora/sparse/compat.py`.
"""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.loss.loss_utils import ForCausalLMLoss

from tests.conftest import tiny_config

MOVED = "torch or transformers has moved a private name; mend it in sparselora/sparse/compat.py: "


@pytest.fixture(scope="module")
def compat() -> Any:
    try:
        return importlib.import_module("sparselora.sparse.compat")
    except (AttributeError, ImportError) as error:
        pytest.fail(f"{MOVED}{error}")


def is_there(owner: object, name: str) -> None:
    assert hasattr(owner, name), f"{MOVED}{type(owner).__name__}.{name}"


def same(got: Any, expected: Any, name: str) -> None:
    torch.testing.assert_close(got, expected, msg=lambda text: f"{MOVED}{name}: {text}")


def test_flash_attention_for_cpu(compat: Any) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3))
    mask = torch.zeros(1, 1, 5, 5).masked_fill_(torch.ones(5, 5).triu(1).bool(), float("-inf"))
    expected = nn.functional.scaled_dot_product_attention(query, key, value, mask, scale=0.3)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, (query, key, value), upstream)
    with torch.no_grad():
        got, sums = compat.flash_attention_for_cpu(query, key, value, attn_mask=mask, scale=0.3)
        same(got, expected, "flash attention")
        for ours, theirs in zip(
            compat.flash_attention_for_cpu_backward(
                upstream, query, key, value, got, sums, 0.0, False, attn_mask=mask, scale=0.3
            ),
            gradients,
            strict=True,
        ):
            same(ours, theirs, "flash attention's backward")


def test_softmax(compat: Any) -> None:
    scores = torch.tensor([[1.0, 2.0, -1.0], [float("-inf")] * 3])
    weights = compat.safe_softmax(scores, -1, dtype=torch.float32)
    same(weights, torch.stack([torch.softmax(scores[0], -1), torch.zeros(3)]), "_safe_softmax")
    scores = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    weights, upstream = torch.softmax(scores, -1), torch.randn(4, 5, dtype=torch.float64)
    (expected,) = torch.autograd.grad(weights, scores, upstream)
    got = compat.softmax_backward(upstream, weights.detach(), -1, torch.float64)
    same(got, expected, "_softmax_backward_data")


def test_current_graph_task(compat: Any) -> None:
    seen = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda _: seen.append(compat.current_graph_task()))
    assert compat.current_graph_task() == -1
    y.sum().backward()
    assert seen[0] != -1, f"{MOVED}_current_graph_task_id"


def test_tree_leaves(compat: Any) -> None:
    output = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=torch.ones(1))
    leaves = compat.tree_leaves({"a": (output, [2]), "b": None})
    assert any(leaf is output.last_hidden_state for leaf in leaves), f"{MOVED}_pytree.tree_leaves"


def test_version_of_a_tensor(compat: Any) -> None:
    tensor = torch.zeros(2)
    is_there(tensor, compat.VERSION)
    before = getattr(tensor, compat.VERSION)
    tensor.add_(1.0)
    assert getattr(tensor, compat.VERSION) == before + 1, f"{MOVED}{compat.VERSION}"


@pytest.mark.parametrize("name", ["CHILDREN", "PARAMETERS"])
def test_what_a_module_holds(compat: Any, name: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    is_there(model, getattr(compat, name))
    owner, public = {
        "CHILDREN": (model, model.named_children),
        "PARAMETERS": (model[0], model[0].named_parameters),
    }[name]
    assert getattr(owner, getattr(compat, name)) == dict(public()), f"{MOVED}{name}"


REGISTER: dict[str, Callable[[nn.Module], Any]] = {
    "FORWARD_HOOKS": lambda module: module.register_forward_hook(print),
    "FORWARD_PRE_HOOKS": lambda module: module.register_forward_pre_hook(print),
}


@pytest.mark.parametrize("name", REGISTER)
def test_forward_hooks_of_a_module(compat: Any, name: str) -> None:
    module = nn.Linear(2, 2)
    is_there(module, getattr(compat, name))
    hook = REGISTER[name](module)
    assert list(getattr(module, getattr(compat, name)).values()) == [print], f"{MOVED}{name}"
    hook.remove()
    assert not getattr(module, getattr(compat, name))


@pytest.mark.parametrize(
    "register",
    [
        *REGISTER.values(),
        lambda module: module.register_full_backward_hook(print),
        lambda module: module.register_full_backward_pre_hook(print),
        lambda module: setattr(module, "forward", print),
    ],
)
def test_a_bare_module_has_no_hook(compat: Any, register: Callable[[nn.Module], Any]) -> None:
    module = nn.Linear(2, 2)
    assert compat.is_bare(module)
    register(module)
    assert not compat.is_bare(module), f"{MOVED}a kind of hook"


def test_mark_of_a_replica(compat: Any) -> None:
    module = nn.Linear(2, 2)
    assert not getattr(module, compat.REPLICA, False)
    # What torch's `replicate`, which needs several GPUs, makes its copies by.
    is_there(module, "_replicate_for_data_parallel")
    is_there(module._replicate_for_data_parallel(), compat.REPLICA)


def test_attention_of_a_config(compat: Any) -> None:
    model = transformers.AutoModel.from_config(tiny_config("bert"))
    is_there(model.config, compat.ATTENTION)
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        assert getattr(model.config, compat.ATTENTION) == name, f"{MOVED}{compat.ATTENTION}"
    setattr(model.config, compat.ATTENTION, "eager")
    assert model.config._attn_implementation == "eager", f"{MOVED}{compat.ATTENTION}"


def test_loss_function_that_was_set(compat: Any) -> None:
    model: Any = transformers.AutoModelForCausalLM.from_config(tiny_config("llama"))
    assert model.loss_function is ForCausalLMLoss
    assert compat.OWN_LOSS not in vars(model)
    model.loss_function = print
    assert vars(model).get(compat.OWN_LOSS) is print, f"{MOVED}{compat.OWN_LOSS}"
    delattr(model, compat.OWN_LOSS)
    assert model.loss_function is ForCausalLMLoss
