import pytest
import torch
from torch import Tensor, nn

from sparselora import calibrate, sparsify
from sparselora.sparse.backbone.attention import find_attention
from sparselora.sparse.channels.attention_estimators import build_norms
from sparselora.sparse.estimators import ESTIMATORS
from tests.conftest import plain, tiny_batch, tiny_model
from tests.sparse.blocks.test_ffn import gradients


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_chooses(name: str) -> None:
    model = tiny_model("llama")
    config = plain(estimator=name, svd_rank=3, ffn_sparsity=0.6, qk_sparsity=0.5, vo_sparsity=0.4)
    handle = sparsify(model, config, calibration=tiny_batch())
    gradients(model, tiny_batch())
    for each in handle.sparse_attention.values():
        # Two heads of keys of six channels: three pairs each, of which two stay, and four of six.
        assert len(each.chosen.key) == 8
        assert len(each.chosen.value) == 8
        assert len(each.chosen.query) == len(each.chosen.output) == 16
    report = handle.report()[0]
    assert (report.qk_sparsity, report.vo_sparsity) == pytest.approx((1 / 3, 1 / 3))


def test_oracle_and_static_norms_are_those_of_the_maps() -> None:
    model = tiny_model("opt").double().eval()
    inputs: dict[str, Tensor] = {}
    layer = find_attention(model)[1]

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs["x"] = args[0]

    layer.entry.register_forward_pre_hook(note)
    batch = tiny_batch(padded=False)
    model(**batch)
    moments = calibrate(model, [batch])["layer.1"].attention
    x = inputs["x"].reshape(-1, 24)
    for name, scale in (("oracle", 1.0), ("static", len(x) ** -0.5)):
        config = plain(estimator=name, qk_sparsity=0.5)
        norms = build_norms(layer, config, moments)(x, None)
        for role, norm in zip(("query", "key", "value"), norms, strict=True):
            expected = (x @ layer.weight(role).T + layer.bias(role)).norm(dim=0) * scale
            torch.testing.assert_close(norm.double(), expected, rtol=1e-5, atol=1e-6)
