from functools import partial

import pytest
import torch

from sparselora import sparsify
from sparselora.errors import UserError
from sparselora.sparse.backbone.architectures import ARCHITECTURES
from tests.conftest import tiny_batch, tiny_model
from tests.sparse.test_patch import CONFIG


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_one_wrapper_in_evaluation_mode_takes_the_block_along(model_type: str) -> None:
    model = tiny_model(model_type)
    sparsify(model, CONFIG)
    for module in model.modules():
        if "SparseOutput" in type(module).__name__:
            module.eval()
    expected = tiny_model(model_type)(**tiny_batch()).logits
    torch.testing.assert_close(model(**tiny_batch()).logits, expected)


def test_replicas_of_data_parallel_are_refused() -> None:
    # They share one state and the first device's weights.
    model = tiny_model("bert")
    sparsify(model, CONFIG)
    lin2 = model.get_base_model().bert.encoder.layer[0].output.dense
    replica = lin2._replicate_for_data_parallel()
    with pytest.raises(UserError, match="torchrun"):
        replica(torch.zeros(1, 24))


def test_a_module_with_a_forward_of_its_own_is_refused() -> None:
    """accelerate hooks the modules that it places: the wrapper's was hidden, lin2(lin1(x)) left."""
    model = tiny_model("bert")
    lin1 = model.get_submodule("base_model.model.bert.encoder.layer.1.intermediate.dense")
    lin1.forward = partial(type(lin1).forward, lin1)
    modules = list(model.modules())
    with pytest.raises(UserError, match=r"layer.1.intermediate.dense has a forward of its own"):
        sparsify(model, CONFIG)
    assert modules == list(model.modules())
