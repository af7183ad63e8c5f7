import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparselora.sparse.backbone.ffn import FFNBlock, find_blocks
from sparselora.sparse.blocks.ffn_slice import FFNSlice
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.channels.compensation import Compensation
from sparselora.sparse.channels.selector import FFNChannels
from tests.conftest import plain, tiny_batch, tiny_model
from tests.sparse.blocks.test_ffn import with_lora_on_the_ffn

NOTHING = Compensation()


def of_kept_alone(block: FFNBlock, x: Tensor, filled: Tensor, indices: Tensor) -> Tensor:
    """The block with `filled` in the place of the activations left out, written plainly."""
    keep = torch.zeros(block.intermediate_size, dtype=torch.bool)
    keep[indices] = True
    return block.lin2(torch.where(keep, block.activations(x), filled))


@settings(deadline=None, max_examples=15)
@given(
    model_type=st.sampled_from(["bert", "gpt2", "llama", "modernbert", "phi3"]),
    kept=st.integers(1, 37),
    seed=st.integers(0, 1000),
    mean=st.booleans(),
)
def test_it_computes_the_block_without_what_is_left_out(
    model_type: str, kept: int, seed: int, mean: bool
) -> None:
    model = tiny_model(model_type).double()
    block = find_blocks(model)[1]
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randperm(37, generator=generator)[:kept].sort().values
    compensation, filled = NOTHING, torch.zeros(37, dtype=torch.float64)
    if mean:
        moments = calibrate(model, [tiny_batch()])["layer.1"]
        lin2 = block.lin2.weight.detach()
        compensation = Compensation.fitted(plain(compensation="mean"), moments, lin2, None)
        filled = moments.activation_mean
    x = torch.randn(6, 24, generator=generator, dtype=torch.float64)
    made = FFNSlice.of(block, FFNChannels(indices), compensation, torch.float64)
    torch.testing.assert_close(made.compute(block, x), of_kept_alone(block, x, filled, indices))


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_adapters_of_kept_channels_are_exact(model_type: str) -> None:
    block = find_blocks(with_lora_on_the_ffn(model_type).double().eval())[1]
    assert block.has_adapters
    indices = torch.arange(0, 37, 3)
    x = torch.randn(6, 24, dtype=torch.float64)
    made = FFNSlice.of(block, FFNChannels(indices), NOTHING, torch.float64)
    expected = of_kept_alone(block, x, torch.zeros(37, dtype=torch.float64), indices)
    torch.testing.assert_close(made.compute(block, x), expected)


def test_it_serves_its_choice_dtype_and_weights_alone() -> None:
    model: nn.Module = with_lora_on_the_ffn("bert")
    block = find_blocks(model)[1]
    channels = FFNChannels(torch.arange(5))
    made = FFNSlice.of(block, channels, NOTHING, torch.float32)
    assert made.serves(block, channels, torch.float32)
    assert not made.serves(block, channels, torch.bfloat16)
    assert not made.serves(block, FFNChannels(torch.arange(5)), torch.float32)
    model.merge_adapter()  # type: ignore[operator]
    assert not made.serves(block, channels, torch.float32)
