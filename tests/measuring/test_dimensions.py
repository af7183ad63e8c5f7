import pytest

from sparselora import sparsify
from sparselora.measuring.dimensions import attention_kept_of, kept_of, model_dimensions
from tests.conftest import plain, tiny_model


@pytest.mark.parametrize("intermediate_size", [80, 520])
def test_kept_channels_are_those_that_the_patch_keeps(intermediate_size: int) -> None:
    model = tiny_model("bert", intermediate_size=intermediate_size)
    sparsities = [0.0, 0.37, 0.99]
    named = {f"layer.{index}": sparsity for index, sparsity in enumerate(sparsities)}
    found = kept_of(model, sparsities)
    handle = sparsify(model, plain(svd_rank=3, rule="explicit", layer_sparsity=named))
    assert found == [layer.kept for layer in handle.report()]


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "llama"])
def test_the_head_is_what_lies_outside_of_the_layers(model_type: str) -> None:
    model = tiny_model(model_type)
    sizes = model_dimensions(model)
    assert sizes.gated == (model_type == "llama")
    assert sizes.head_maps[-1][2]  # the last of them trains
    trained = sum(size_in * size_out for size_in, size_out, trains in sizes.head_maps if trains)
    heads = [p for name, p in model.named_parameters() if p.requires_grad and "lora" not in name]
    assert trained == sum(p.numel() for p in heads if p.dim() == 2)


def test_attention_that_is_not_sparsified_is_not_counted_as_kept() -> None:
    model = tiny_model("bert")
    assert attention_kept_of(model, plain(svd_rank=3, ffn_sparsity=0.5)) is None
    layers = attention_kept_of(model, plain(svd_rank=3, ffn_sparsity=0.5, qk_sparsity=0.5))
    assert layers is not None
    d = model_dimensions(model).hidden_size
    for kept in layers:
        assert kept is not None
        assert kept.query == kept.key < d
        assert (kept.value, kept.output) == (d, d)
        assert kept.estimate_flops == 3 * 2 * 3 * (d + d)
