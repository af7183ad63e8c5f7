import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselora.sparse.selector import sample_tokens, select_ffn_channels


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


@given(
    mask=st.lists(st.booleans(), min_size=1, max_size=80).filter(any),
    tokens=st.none() | st.integers(1, 100),
)
def test_padding_is_never_scored(mask: list[bool], tokens: int | None) -> None:
    # An earlier implementation scored pad tokens like any other.
    real = torch.tensor(mask)
    hidden_states = torch.where(real, torch.arange(len(mask)), -1).float().unsqueeze(1)
    sample, weights = sample_tokens(hidden_states, real.long(), tokens)
    counted = sample if weights is None else sample[weights.squeeze(1) != 0]
    assert (counted >= 0).all()
    if tokens is None or tokens >= len(mask):
        assert len(counted) == sum(mask)
    else:
        assert len(sample) == tokens
        # Evenly spaced: no real token is taken twice unless there are fewer than asked for.
        if tokens <= sum(mask):
            assert len(set(sample.flatten().tolist())) == tokens


def test_without_a_mask_all_tokens_count() -> None:
    hidden_states = torch.arange(10.0).unsqueeze(1)
    assert sample_tokens(hidden_states, None, None) == (hidden_states, None)
    sample, _ = sample_tokens(hidden_states, None, 5)
    assert sample.flatten().tolist() == [1, 3, 5, 7, 9]
