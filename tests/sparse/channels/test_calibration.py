import pytest
import torch

from sparselora import sparsify
from sparselora.errors import UserError
from sparselora.sparse.backbone.ffn import find_blocks
from sparselora.sparse.channels.calibration import calibrate
from tests.conftest import plain, tiny_batch, tiny_model
from tests.sparse.channels.test_tokens import completions, dense_tokens, tiny_decoder


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "llama", "gpt2", "modernbert", "opt"])
def test_moments_are_those_of_the_real_tokens(model_type: str) -> None:
    model = tiny_model(model_type, dropout=0.3)
    batches = [tiny_batch(4, 9), tiny_batch(3, 7)]
    moments = calibrate(model, batches)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.eval()
    for block in find_blocks(model):
        inputs: list[torch.Tensor] = []
        hook = block.entry.register_forward_pre_hook(lambda _, args, to=inputs: to.append(args[0]))
        for batch in batches:
            model(**batch)
        hook.remove()
        x = torch.cat(
            [
                states.reshape(-1, 24)[batch["attention_mask"].flatten() != 0]
                for states, batch in zip(inputs, batches, strict=True)
            ]
        )
        x, a = x.double(), block.activations(x).double()
        got = moments[block.name]
        torch.testing.assert_close(got.input_mean, x.mean(0))
        torch.testing.assert_close(got.activation_mean, a.mean(0))
        torch.testing.assert_close(got.activation_square, a.square().mean(0))
        torch.testing.assert_close(got.cross, x.T @ a / len(x))
        covariance = torch.cov(x.T, correction=0)
        torch.testing.assert_close(got.input_covariance(), covariance, atol=1e-5, rtol=1e-4)


def test_calibration_that_is_needed_and_missing() -> None:
    for config in (
        plain(estimator="whitened", svd_rank=3),
        plain(svd_rank=3, compensation="mean"),
    ):
        with pytest.raises(UserError, match="needs at least one batch"):
            sparsify(tiny_model("bert"), config)
        with pytest.raises(UserError, match="at least one batch"):
            calibrate(tiny_model("bert"), [])
    with pytest.raises(UserError, match=r"cannot be called with \['pixels'\]"):
        calibrate(tiny_model("bert"), [{"pixels": torch.zeros(2, 3)}])
    sparsify(tiny_model("bert"), plain(estimator="static"), calibration=tiny_batch())
    sparsify(tiny_model("bert"), plain(estimator="static"), calibration=[tiny_batch()])


@pytest.mark.parametrize("side", ["right", "left"])
def test_context_alone_is_calibrated_on(side: str) -> None:
    """Where output tokens stay dense, what stands in for channels was fitted on them all the same."""
    model, batch = tiny_decoder("llama"), completions(side)
    moments = calibrate(model, [batch], tokens="context", sink_tokens=1)
    context = (batch["attention_mask"] != 0) & ~dense_tokens(batch, sinks=1)
    block, inputs = find_blocks(model)[1], []
    hook = block.entry.register_forward_pre_hook(lambda _, args: inputs.append(args[0][context]))
    with torch.no_grad():
        model.eval()(**batch)
    hook.remove()
    assert 0 < len(inputs[0]) < int(batch["attention_mask"].sum())
    expected = inputs[0].double().mean(0)
    assert torch.allclose(moments["layer.1"].input_mean, expected, atol=1e-7)
    with pytest.raises(UserError, match="tokens=context takes batches with a label for each token"):
        calibrate(model, [{"input_ids": batch["input_ids"]}], tokens="context")
    alone = batch | {"labels": batch["input_ids"]}
    with pytest.raises(UserError, match="no token that is real and context"):
        calibrate(model, [alone], tokens="context")
