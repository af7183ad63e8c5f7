"""FFN blocks as the table finds them, against what the model itself computes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparselora import UserError
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from sparselora.sparse.backbone.ffn import find_block, find_blocks
from sparselora.sparse.backbone.lookup import get_architecture, get_backbone
from tests.conftest import tiny_batch, tiny_model


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_block_is_what_the_model_computes(model_type: str) -> None:
    model = tiny_model(model_type).eval()
    seen: dict[str, list[Tensor]] = {}
    blocks = find_blocks(model)
    assert [block.name for block in blocks] == ["layer.0", "layer.1", "layer.2"]
    for block in blocks:
        assert (block.hidden_size, block.intermediate_size) == (24, 37)
        assert block.is_current
        into = block.entry
        out = block.layer.get_submodule(block.paths[-1])

        def note(_: nn.Module, args: Any, name: str = block.name) -> None:
            seen[name] = [args[0].detach().view(-1, 24)]

        def note_output(_: nn.Module, __: Any, output: Tensor, name: str = block.name) -> None:
            seen[name].append(output.detach().view(-1, 24))

        into.register_forward_pre_hook(note)
        out.register_forward_hook(note_output)
    model(**tiny_batch())
    for block in blocks:
        x, expected = seen[block.name]
        torch.testing.assert_close(block(x), expected)
        through = block.lin2(block.activations(x))
        torch.testing.assert_close(through, expected)


def test_a_block_with_another_module_in_it_is_not_current() -> None:
    model = tiny_model("bert")
    block = find_blocks(model)[1]
    block.layer.intermediate.dense = nn.Linear(24, 37)  # type: ignore[union-attr]
    assert not block.is_current
    again = find_block(block.architecture, block.layer, block.name)
    assert again.is_current


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama", "phi3"])
def test_scattered_weights_are_those_whose_channels_are_columns(model_type: str) -> None:
    block = find_blocks(tiny_model(model_type))[0]
    widths = {37, 2 * 37}  # of a fused layer both parts
    scattered = list(block.scattered())
    assert scattered
    assert all(weight.shape[1] in widths for weight in scattered)
    assert [module.weight for module in block.scattered_layers()] == scattered or all(
        one is other.weight for one, other in zip(scattered, block.scattered_layers(), strict=True)
    )


def test_both_parts_of_a_fused_layer_are_one_layers_rows() -> None:
    block = find_blocks(tiny_model("phi3"))[0]
    lin1, lin2, gate = block.weights()
    fused = block.lin1.base.get_parameter("weight")
    assert gate is not None
    assert torch.equal(torch.cat([gate, lin1]), fused)
    assert lin2.shape == (24, 37)


def test_chunks_of_a_batch_are_refused() -> None:
    model = tiny_model("bert")
    get_backbone(model).config.chunk_size_feed_forward = 2  # type: ignore[union-attr]
    with pytest.raises(UserError, match="chunk_size_feed_forward=2"):
        find_blocks(model)


def test_a_module_that_is_not_there_is_named() -> None:
    model = tiny_model("bert")
    backbone: Any = get_backbone(model)
    layer = backbone.encoder.layer[0]
    del layer.intermediate.dense
    with pytest.raises(UserError, match=r"layer\.0\.intermediate\.dense is not there"):
        find_block(get_architecture(backbone.config), layer, "layer.0")
