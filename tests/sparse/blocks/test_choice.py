import copy
import pickle
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparselora.sparse.blocks.choice import ChannelChoice
from sparselora.sparse.channels.head_channels import AttentionChannels, HeadShape
from sparselora.sparse.channels.random_scores import (
    RandomEstimator,
    restore_generators,
    saved_generators,
)
from sparselora.sparse.channels.selector import FFNChannels, select_ffn_channels
from sparselora.sparse.channels.state import Call, SparsityState
from sparselora.sparse.config import SparsityConfig
from tests.conftest import plain

CHANNELS = 9


class Norms(nn.Module):
    """The norms of the tokens themselves, so that a test can say what is chosen; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, hidden_states: Tensor, token_weights: Tensor | None) -> Tensor:
        self.calls += 1
        return hidden_states.norm(dim=0)


def pick(scores: Tensor, kept: int) -> FFNChannels:
    return FFNChannels(select_ffn_channels(scores, kept))


def made(
    config: SparsityConfig, scorer: nn.Module | None = None
) -> tuple[ChannelChoice[FFNChannels], SparsityState]:
    state = SparsityState()
    state.switch(1.0)
    return ChannelChoice("layer.0", config, state, scorer or Norms(), pick), state


def tokens(seed: int, count: int = 5) -> Tensor:
    return torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(seed))


def best(x: Tensor, kept: int) -> list[int]:
    return x.norm(dim=0).topk(kept).indices.sort().values.tolist()


@given(every=st.integers(1, 6), calls=st.integers(1, 20), kept=st.integers(1, CHANNELS))
def test_a_choice_holds_for_as_many_calls_as_asked(every: int, calls: int, kept: int) -> None:
    choice, state = made(plain(estimator_every=every, estimator_tokens=None))
    for call in range(calls):
        state.enter(None)
        got = choice.select(tokens(call), kept)
        assert got.indices.tolist() == best(tokens(call - call % every), kept)
        assert choice.select(tokens(call + 100), kept) is got  # once a call, whatever comes after
        assert choice.current() is got is choice.chosen
        assert choice.was_made()
    assert choice.scorer.calls == -(-calls // every)
    assert choice.keeps == (every > 1)


def test_a_fixed_estimator_chooses_once() -> None:
    choice, state = made(plain(estimator="magnitude"))
    state.enter(None)
    first = choice.select(tokens(0), 4)
    for _ in range(3):
        state.enter(None)
        assert choice.select(tokens(1), 4) is first
    assert choice.keeps


@given(every=st.integers(2, 5), empty=st.lists(st.booleans(), min_size=2, max_size=12))
def test_a_choice_without_context_serves_no_later_call(every: int, empty: list[bool]) -> None:
    """In whatever order batches come: such a choice is dropped, and one with context kept."""
    choice, state = made(plain(estimator_every=every, tokens="context", estimator_tokens=None))
    state.context_only = True
    state._looks_for_context = False
    expires, last = 0, -1
    for call, nothing in enumerate(empty):
        labels = torch.full((1, 5), 7 if nothing else -100)
        state.labels = labels
        state.enter(torch.ones(1, 5, dtype=torch.long))
        assert state.split is not None
        assert (state.split.context == 0) == nothing
        before = choice.chosen
        got = choice.select(tokens(call).unsqueeze(0), 3)
        if call >= expires:
            last, expires = call, call + (1 if nothing else every)
            assert got is not before
        else:
            assert got is before
    assert choice.scorer.calls >= 1
    assert last >= 0


def test_another_number_is_chosen_anew() -> None:
    choice, state = made(plain(estimator_every=5, estimator_tokens=None))
    for call, kept in enumerate((3, 3, 4, 4, 3)):
        state.enter(None)
        got = choice.select(tokens(call), kept)
        assert got.kept == (kept,)
    assert choice.scorer.calls == 3


def test_what_is_gathered_goes_with_its_choice() -> None:
    choice, state = made(plain(estimator_every=2, estimator_tokens=None))
    for call in range(4):
        state.enter(None)
        choice.select(tokens(call), 3)
        assert choice.gathered == ({} if call % 2 == 0 else {"of": call - 1})
        choice.gathered.setdefault("of", call)


def test_a_call_that_trains_nothing_leaves_the_choice_and_the_generator() -> None:
    scorer = RandomEstimator(CHANNELS, seed=3)
    choice, state = made(plain(estimator="random"), scorer)
    state.without_gradients = True
    state.enter(None)
    first, generator = choice.select(tokens(0), 3), saved_generators(scorer)["generator"]
    state.leave(None)
    with torch.no_grad():
        state.enter(None)
        other = choice.select(tokens(0), 3)
        assert choice.current() is other
        state.leave(None)
    assert other is not first
    assert choice.chosen is first
    assert torch.equal(saved_generators(scorer)["generator"], generator)


def test_a_call_without_a_number_chooses_at_its_first_projection() -> None:
    choice, state = made(plain(estimator_tokens=None))
    state.call = Call(True)  # as a compiled one: no number, and nothing to be found again
    first = choice.select(tokens(0), 3)
    assert choice.select(tokens(1), 3, first=False) is first
    assert choice.current() is first
    assert choice.select(tokens(1), 3) is not first
    kept, state = made(plain(estimator_every=2))
    state.call = Call(True)
    with pytest.raises(RuntimeError, match="estimator_every over 1"):
        kept.select(tokens(0), 3)


@given(every=st.integers(1, 4), before=st.integers(1, 9), after=st.integers(1, 5))
def test_it_goes_on_from_its_state(every: int, before: int, after: int) -> None:
    config = plain(estimator="random", estimator_every=every)
    straight, first = made(config, RandomEstimator(CHANNELS, seed=1))
    for _ in range(before):
        first.enter(None)
        straight.select(tokens(0), 4)
    resumed, second = made(config, RandomEstimator(CHANNELS, seed=1))
    saved = pickle.loads(pickle.dumps(straight.state_dict()))
    resumed.load_state_dict(saved, FFNChannels, torch.device("cpu"))
    restore_generators(resumed.scorer, saved_generators(straight.scorer), torch.device("cpu"))
    second.forward_count = first.forward_count
    for _ in range(after):
        first.enter(None)
        second.enter(None)
        expected = straight.select(tokens(0), 4).indices
        assert torch.equal(resumed.select(tokens(0), 4).indices, expected)


def test_attentions_channels_go_through_the_state_as_well() -> None:
    shape = HeadShape(2, 2, 4, rotary=True, per_head=False)
    generator = torch.Generator().manual_seed(0)
    chosen = shape.choose([torch.rand(size, generator=generator) for size in (16, 8, 8)], 4, 3)
    assert chosen.kept == (4, 3)
    state = SparsityState()
    config = plain(qk_sparsity=0.5)
    choice: Any = ChannelChoice("layer.0.attention", config, state, Norms(), shape.choose)
    choice.chosen, choice.expires = chosen, 7
    again: Any = ChannelChoice("layer.0.attention", config, state, Norms(), shape.choose)
    again.load_state_dict(choice.state_dict(), AttentionChannels, torch.device("cpu"))
    assert again.expires == 7
    assert isinstance(again.chosen, AttentionChannels)
    assert all(torch.equal(*pair) for pair in zip(again.chosen, chosen, strict=True))


@pytest.mark.parametrize("several", [False, True])
def test_norms_are_those_over_the_tokens_of_all_ranks(
    several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks in one process: the other's squares are added where a group would add them."""
    here, there = tokens(0), tokens(1)
    joined = torch.cat([here, there]).norm(dim=0)
    shape = HeadShape(1, 1, CHANNELS, rotary=False, per_head=True)

    class Three(Norms):
        def forward(self, hidden_states: Tensor, token_weights: Tensor | None) -> Any:
            return [super().forward(hidden_states, token_weights)] * 3

    def reduce(squares: Tensor) -> None:
        squares.add_(there.square().sum(0))

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", reduce)
    seen: list[Any] = []

    def choose(scores: Any, *kept: int) -> Any:
        seen.append(scores)
        return shape.choose(scores, *kept) if several else pick(scores, *kept)

    state = SparsityState()
    state.switch(1.0)
    config = plain(estimator_tokens=None)
    scorer = Three() if several else Norms()
    choice: Any = ChannelChoice("layer.0", config, state, scorer, choose)
    state.enter(None)
    choice.select(here, *((3, 3) if several else (3,)))
    for norms in seen[0] if several else seen:
        torch.testing.assert_close(norms, joined)


def test_scores_that_look_at_no_token_are_not_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", None)
    choice, state = made(plain(estimator="random"), RandomEstimator(CHANNELS, seed=0))
    state.enter(None)
    assert choice.select(tokens(0), 2).kept == (2,)


def test_a_rank_without_context_keeps_what_the_others_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda squares: None)
    choice, state = made(plain(estimator_every=3, tokens="context", estimator_tokens=None))
    state.context_only, state._looks_for_context = True, False
    state.labels = torch.full((1, 5), 7)
    state.enter(torch.ones(1, 5, dtype=torch.long))
    choice.select(tokens(0).unsqueeze(0), 3)
    assert choice.expires == 4


def test_a_copy_chooses_for_itself() -> None:
    choice, state = made(plain(estimator_tokens=None))
    state.enter(None)
    choice.select(tokens(0), 3)
    twin = copy.deepcopy(choice)
    twin.state.enter(None)
    twin.select(tokens(1), 3)
    assert twin.chosen is not None
    assert choice.chosen is not None
    assert twin.chosen.indices.tolist() == best(tokens(1), 3)
    assert choice.chosen.indices.tolist() == best(tokens(0), 3)
