"""Under torch.compile: one graph, compiled once a phase, with the eager step's result."""

import copy

import pytest
import torch
import torch._dynamo as dynamo
from torch._dynamo.utils import counters

from sparselora import sparsify
from tests.conftest import plain, tiny_batch, tiny_model


@pytest.mark.parametrize("estimator", ["svd", "static"])
def test_one_graph_without_a_break(estimator: str) -> None:
    dynamo.reset()
    counters.clear()
    model = tiny_model("bert")
    config = plain(svd_rank=3, ffn_sparsity=0.6, estimator=estimator)
    handle = sparsify(model, config, calibration=tiny_batch())
    expected = copy.deepcopy(model)(**tiny_batch())
    assert dynamo.explain(model)(**tiny_batch()).graph_break_count == 0
    dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, backend="eager")
    before = handle.sparse_blocks["layer.0"].calls
    graphs = []
    for _ in range(5):
        output = compiled(**tiny_batch())
        output.loss.backward()
        graphs.append(counters["stats"]["unique_graphs"])
    # A fixed choice is made in the first graph and found in the second.
    assert graphs[1:] == [graphs[1]] * 4
    assert graphs[-1] <= 2
    torch.testing.assert_close(output.logits, expected.logits)
    assert handle.sparse_blocks["layer.0"].calls == before + 5
    handle.disable()
    dense = compiled(**tiny_batch()).logits
    assert not torch.allclose(dense, expected.logits)
    model.eval()
    torch.testing.assert_close(compiled(**tiny_batch()).logits, dense)


def test_a_choice_kept_for_several_calls_is_refused() -> None:
    dynamo.reset()
    model = tiny_model("bert")
    sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6, estimator_every=2))
    with pytest.raises(RuntimeError, match="estimator_every over 1"):
        torch.compile(model, backend="eager")(**tiny_batch())


def test_one_graph_for_batches_of_any_length() -> None:
    # An earlier version kept the scored tokens by shape, which made a graph of each length.
    dynamo.reset()
    counters.clear()
    model = tiny_model("bert")
    sparsify(model, plain(svd_rank=2, ffn_sparsity=0.5))
    compiled = torch.compile(model, backend="eager")
    for length in (7, 8, 9, 11, 13):
        compiled(**tiny_batch(length=length)).loss.backward()
    assert counters["stats"]["unique_graphs"] <= 2
