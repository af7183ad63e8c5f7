import pytest

from sparselora import sparsify
from sparselora.errors import UserError
from sparselora.sparse.channels.calibration import calibrate
from sparselora.sparse.sensitivity import calibrated_config, error_curves
from tests.conftest import plain, tiny_batch, tiny_model


def test_error_curves_leave_the_model_and_rise() -> None:
    model = tiny_model("distilbert", dropout=0.3)
    batches = [tiny_batch(), tiny_batch(3, 7)]
    moments = calibrate(model, batches)
    before = dict(model.named_modules())
    config = plain(estimator="oracle", svd_rank=None)
    curves = error_curves(model, config, moments, batches)
    assert dict(model.named_modules()) == before
    assert model.training
    assert len(curves) == 3
    for curve in curves:
        assert curve[0] == 0.0
        assert curve == sorted(curve)
        assert curve[-1] > 0
    named = calibrated_config(
        model, plain(rule="calibrated", layer_sparsity={"layer.1": 0.1}), moments, batches
    )
    values = list(named.layer_sparsity.values())
    assert values[1] == 0.1
    assert sum(values) / 3 == pytest.approx(0.65)
    with pytest.raises(UserError, match="calibrated_config"):
        sparsify(model, plain(rule="calibrated"), batches)
