from pathlib import Path

import pytest
import torch

from sparselora.training.calibration_cache import KEPT_FILES, fit
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


def test_the_oldest_files_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSELORA_CACHE", str(tmp_path))
    monkeypatch.setattr("sparselora.training.calibration_cache.KEPT_FILES", 2)
    assert KEPT_FILES > 2
    model, config = tiny_model("bert"), plain(estimator="static")
    for rows in (2, 3, 4):
        fit(model, config, [0.5] * 3, lambda rows=rows: [tiny_batch(rows)])
    assert len(list((tmp_path / "calibration").iterdir())) == 2


def test_a_file_that_was_cut_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSELORA_CACHE", str(tmp_path))
    model, config = tiny_model("bert"), plain(estimator="static")
    made = fit(model, config, [0.5] * 3, lambda: [tiny_batch()])
    (path,) = (tmp_path / "calibration").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    again = fit(model, config, [0.5] * 3, lambda: [tiny_batch()])
    assert made.calibration is not None
    assert again.calibration is not None
    for name, moments in made.calibration.items():
        assert torch.equal(again.calibration[name].cross, moments.cross)


def test_nothing_is_measured_for_plain_lora(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparselora.training.calibration_cache.calibrate", None)
    fitted = fit(tiny_model("bert"), plain(estimator="static", ffn_sparsity=0.0), [0.0] * 3, list)
    assert (fitted.calibration, fitted.seconds, fitted.sparsities) == (None, 0.0, [0.0] * 3)
