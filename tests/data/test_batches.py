import torch
from hypothesis import given
from hypothesis import strategies as st

from sparselora.data.batches import length_grouped


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=400),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_an_epoch_takes_every_row_once(lengths: list[int], batch_size: int, seed: int) -> None:
    batches = length_grouped(lengths, batch_size, torch.Generator().manual_seed(seed))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    again = length_grouped(lengths, batch_size, torch.Generator().manual_seed(seed))
    assert batches == again


def test_like_lengths_together_in_an_order_that_does_not_follow_length() -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 60, (6400,), generator=generator).tolist()
    batches = length_grouped(lengths, 32, generator)
    spreads = [
        max(lengths[row] for row in batch) - min(lengths[row] for row in batch) for batch in batches
    ]
    assert sum(spreads) / len(spreads) < 5
    # transformers' own sampler goes from long to short within a pool; see length_grouped.
    means = torch.tensor([sum(lengths[row] for row in batch) / len(batch) for batch in batches])
    order = torch.stack([torch.arange(len(means)).float(), means])
    assert abs(torch.corrcoef(order)[0, 1]) < 0.2
    falls = (means[1:] < means[:-1]).float().mean()
    assert 0.35 < falls < 0.65
