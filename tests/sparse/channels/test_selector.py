import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselora.sparse.channels.selector import select_ffn_channels


@given(size=st.integers(1, 200), seed=st.integers(0, 1000), data=st.data())
def test_the_best_scores_sorted(size: int, seed: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(1, size))
    scores = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    chosen = select_ffn_channels(scores, kept)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == kept
    left_out = torch.ones(size, dtype=torch.bool)
    left_out[chosen] = False
    if left_out.any():
        assert scores[chosen].min() >= scores[left_out].max()


@pytest.mark.parametrize("kept", [0, -1, 6])
def test_a_number_that_cannot_be_kept(kept: int) -> None:
    with pytest.raises(ValueError, match=f"kept={kept}: from 1 to 5 channels"):
        select_ffn_channels(torch.rand(5), kept)
