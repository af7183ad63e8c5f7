from pathlib import Path

import pytest
import torch

from sparselora.training.calibration_cache import fit
from tests.conftest import plain, tiny_batch, tiny_model


def test_cache_by_weights_and_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSELORA_CACHE", str(tmp_path))
    model, batch = tiny_model("bert"), tiny_batch()
    config = plain(rule="calibrated", ffn_sparsity=0.5, svd_rank=3)
    made = fit(model, config, [0.5] * 3, lambda: [batch])
    monkeypatch.setattr("sparselora.training.calibration_cache.calibrate", None)
    monkeypatch.setattr("sparselora.training.calibration_cache.error_curves", None)
    found = fit(model, config, [0.5] * 3, lambda: [batch])
    assert found.seconds == made.seconds > 0
    assert (found.curves, found.sparsities) == (made.curves, made.sparsities)
    assert made.calibration is not None
    assert found.calibration is not None
    for name, moments in made.calibration.items():
        assert torch.equal(found.calibration[name].cross, moments.cross)
    with pytest.raises(TypeError, match="not callable"):
        fit(model, config, [0.5] * 3, lambda: [tiny_batch(3)])
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(TypeError, match="not callable"):
        fit(model, config, [0.5] * 3, lambda: [batch])
    assert fit(model, plain(svd_rank=3), [0.5] * 3, list).calibration is None
