import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselora.sparse.channels.sampling import positions_to_sample, sample_tokens, take


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    left=st.booleans(),
    tokens=st.none() | st.integers(1, 100),
)
def test_padding_is_never_scored_and_weights_stand_for_all(
    lengths: list[int], left: bool, tokens: int | None
) -> None:
    # An earlier implementation scored pad tokens like any other.
    length = max(lengths)
    real = torch.zeros(len(lengths), length, dtype=torch.long)
    for row, count in enumerate(lengths):
        real[row, slice(length - count, None) if left else slice(count)] = 1
    numbers = torch.arange(real.numel()).view_as(real)
    hidden_states = torch.where(real != 0, numbers, -1).float().unsqueeze(2)
    sample, weights = sample_tokens(hidden_states, real, tokens)
    assert weights is not None
    counted = sample[weights.squeeze(1) != 0]
    assert (counted >= 0).all()
    if tokens is None or tokens >= real.numel():
        assert len(counted) == sum(lengths)
        return
    assert len(sample) == tokens
    # Squared weights stand for at most the real tokens, and for all where each stratum is sampled.
    total = float(weights.square().sum())
    if tokens >= 4 * len(lengths) and all(count >= 3 for count in lengths):
        assert abs(total - sum(lengths)) < 1e-3
        firsts = {int(row[row >= 0][0]) for row in hidden_states.squeeze(2)}
        lasts = {int(row[row >= 0][-1]) for row in hidden_states.squeeze(2)}
        assert firsts | lasts <= set(map(int, counted.flatten()))
    flat, _ = sample_tokens(hidden_states.reshape(-1, 1), real, tokens)
    assert torch.equal(flat, sample)


def test_norms_over_the_sample_estimate_those_over_all_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(64, 20, 8, generator=generator)
    activations[:, 0, 0] += 30.0  # a channel that answers to first tokens alone
    activations[:, -1, 1] += 30.0
    mask = torch.ones(64, 20, dtype=torch.long)
    exact = activations.reshape(-1, 8).norm(dim=0)
    sample, weights = sample_tokens(activations, mask, 256)
    estimate = (sample * weights).norm(dim=0)
    torch.testing.assert_close(estimate, exact, rtol=0.2, atol=0)
    torch.testing.assert_close(estimate[:2], exact[:2], rtol=0.02, atol=0)


def test_without_a_mask_all_tokens_count() -> None:
    hidden_states = torch.arange(10.0).unsqueeze(1)
    everything, none = sample_tokens(hidden_states, None, None)
    assert none is None
    assert torch.equal(everything, hidden_states)
    sample, weights = sample_tokens(hidden_states, None, 6)
    assert sample.flatten().tolist() == [2, 4, 6, 8, 0, 9]
    assert weights is not None
    assert abs(float(weights.square().sum()) - 10) < 1e-5


def test_rows_of_one_token_are_sampled_evenly() -> None:
    first_tokens = torch.arange(10.0).view(10, 1, 1)
    sample, weights = sample_tokens(first_tokens, None, 5)
    assert sample.flatten().tolist() == [0, 2, 4, 6, 8]
    assert weights is None


@given(seed=st.integers(0, 1000), tokens=st.none() | st.integers(1, 60))
def test_positions_serve_every_layer_of_the_same_shape(seed: int, tokens: int | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, 2, (5, 8), generator=generator)
    first, second = torch.randn(2, 5, 8, 3, generator=generator)
    where = positions_to_sample(first, mask, tokens)
    for states in (first, second):
        for got, expected in zip(
            take(states, where), sample_tokens(states, mask, tokens), strict=True
        ):
            assert got is expected is None or torch.equal(got, expected)
