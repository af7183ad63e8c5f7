import copy

import pytest
import torch

from sparselora import sparsify
from sparselora.machine.memory import step_memory
from sparselora.sparse.accelerate import accelerate
from tests.conftest import plain, tiny_batch, tiny_model

CPU = torch.device("cpu")


def test_saved_bytes_are_those_of_one_micro_batch() -> None:
    model = tiny_model("bert")
    batches = [tiny_batch(4, 9), tiny_batch(8, 12), tiny_batch(2, 5)]

    def step(these: list[dict[str, torch.Tensor]]) -> None:
        for batch in these:
            model(**batch).loss.backward()

    of_all = step_memory(model, lambda: step(batches), CPU)["saved_mb"]
    of_largest = step_memory(model, lambda: step([batches[1]]), CPU)["saved_mb"]
    assert of_all == of_largest


def test_a_sparse_step_keeps_less_for_the_backward_pass() -> None:
    dense = tiny_model("bert", intermediate_size=400)
    sparse = copy.deepcopy(dense)
    accelerate(dense)
    sparsify(sparse, plain(svd_rank=3, ffn_sparsity=0.9))
    batch = tiny_batch(32, 30)
    memory = [
        step_memory(model, lambda model=model: model(**batch).loss.backward(), CPU)["saved_mb"]
        for model in (dense, sparse)
    ]
    assert memory[0] is not None
    assert memory[1] is not None
    # Nine tenths of the pre-activations, (N, f) in float32 a layer, of the first tokens in the last;
    # lin2 is frozen, so what it takes in is not kept in either model. The gathered weights, two (k, d),
    # are what comes on top.
    left_out = (2 * 32 * 30 + 32) * 360 * 4 / 1e6
    gathered = 3 * 2 * 40 * 24 * 4 / 1e6
    assert memory[0] - memory[1] == pytest.approx(left_out - gathered, rel=0.02)
