import torch

from sparselora.config.groups import TrainConfig
from sparselora.measuring.arms import AGAIN, FAST_AGAIN, OWN, SPARSE, STOCK, Arms
from sparselora.sparse.channels.calibration import calibrate
from tests.conftest import plain, tiny_batch, tiny_model

CPU = torch.device("cpu")
SPARSITY = plain(svd_rank=3, ffn_sparsity=0.6)
ATTENTION = plain(svd_rank=3, ffn_sparsity=0.6, qk_sparsity=0.5, vo_sparsity=0.5)


def test_arms_are_what_they_say() -> None:
    model = tiny_model("bert")
    arms = Arms(model, SPARSITY, TrainConfig(learning_rate=1e-9), CPU)
    assert arms.handle is not None
    calls = lambda: sum(ffn.calls for ffn in arms.handle._sparse.values())  # noqa: E731
    steps = ((STOCK, 0), (AGAIN, 0), (OWN, 0), (SPARSE, 3), (OWN, 3), (FAST_AGAIN, 6))
    for name, expected in steps:
        arms.step(name, [tiny_batch()])
        assert calls() == expected, name
    # Stock is PEFT's own model: no stand-in, no hook, lin2 laid out as it was.
    stock = arms.models[STOCK]
    assert not any(type(module).__module__.startswith("sparselora") for module in stock.modules())
    assert not any(module._forward_pre_hooks for module in stock.modules())
    weights = dict(stock.named_parameters())
    assert all(weights[name].stride() == p.stride() for name, p in model.named_parameters())
    # What is frozen and laid out alike is shared; what trains is not.
    for name, parameter in model.named_parameters():
        relaid = name.endswith("output.dense.weight") and "attention" not in name
        assert (weights[name] is parameter) == (not parameter.requires_grad and not relaid), name


def test_sparse_attention_is_laid_out_anew_in_its_own_arm_alone() -> None:
    """Stock was timed with the output maps that our arm had laid out for itself."""
    model = tiny_model("bert")
    strides = {name: p.stride() for name, p in model.named_parameters()}
    arms = Arms(model, ATTENTION, TrainConfig(), CPU)
    for copied in (model, arms.models[STOCK]):
        assert strides == {name: p.stride() for name, p in copied.named_parameters()}
    ours = {name: p.stride() for name, p in arms.models[OWN].named_parameters()}
    assert any(ours[name] != stride for name, stride in strides.items() if "attention" in name)


def test_memory_of_a_step_counts_what_stays_from_step_to_step() -> None:
    model = tiny_model("bert", intermediate_size=400)
    batch = tiny_batch(2, 5)
    config = plain(ffn_sparsity=0.5, estimator="static", compensation="lowrank")
    arms = Arms(model, config, TrainConfig(), CPU, calibrate(model, [batch]))
    assert arms.handle is not None
    arms.step(SPARSE, [batch])
    held = sum(tensor.nbytes for tensor in arms.handle.held())
    slices = 3 * 2 * 200 * 24 * 4  # three layers, two maps, k of d, float32
    assert slices < held < 2 * slices
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    everything = sum(p.nbytes for p in model.parameters()) + held + 2 * trained
    peak = arms.memory(SPARSE, [batch])["peak_mb"]
    assert peak is None or peak >= everything / 1e6
