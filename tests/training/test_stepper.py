import copy

import pytest
import torch

from sparselora.config.groups import TrainConfig
from sparselora.model.causal_lm import completion_loss
from sparselora.sparse.channels.tokens import IGNORED
from sparselora.training.stepper import Stepper, head_positions, tokens_kept_dense
from tests.conftest import plain, tiny_batch, tiny_model
from tests.sparse.channels.test_tokens import completions, tiny_decoder

CPU = torch.device("cpu")


def test_accumulated_gradients_are_those_of_the_joined_batch() -> None:
    batch = tiny_batch(8, padded=False)
    halves = [
        {name: tensor[part] for name, tensor in batch.items()} for part in (slice(3), slice(3, 8))
    ]
    after = []
    for micro_batches in ([batch], halves):
        model = tiny_model("bert").double()
        stepper = Stepper(model, TrainConfig(lr_warmup_ratio=0.0), 10, CPU)
        loss, norm, _ = stepper.step(micro_batches)
        after.append((loss, norm, [p.detach().clone() for p in stepper.parameters]))
    torch.testing.assert_close(after[0], after[1])


def test_accumulated_completions_weigh_by_their_tokens() -> None:
    """A mean of means over unlike numbers of completion tokens would be another loss."""
    batch = completions()
    halves = [
        {name: value[part] for name, value in batch.items()} for part in (slice(1), slice(1, 4))
    ]
    labelled = [int((half["labels"] != IGNORED).sum()) for half in halves]
    assert labelled[0] * 3 != labelled[1]
    after = []
    for micro_batches in ([batch], halves):
        for loss_of in (None, completion_loss):
            model = tiny_decoder("llama").double()
            stepper = Stepper(model, TrainConfig(lr_warmup_ratio=0.0), 10, CPU, loss_of)
            loss, norm, _ = stepper.step(micro_batches)
            after.append((loss, norm, [p.detach().clone() for p in stepper.parameters]))
    for other in after[1:]:
        torch.testing.assert_close(after[0], other, rtol=1e-5, atol=1e-6)


def test_a_step_starts_from_no_gradient() -> None:
    model = tiny_model("bert")
    stepper = Stepper(model, TrainConfig(), 10, CPU)
    stepper.step([tiny_batch()])
    assert all(parameter.grad is None for parameter in stepper.parameters)


def test_step_equals_a_loop_written_out() -> None:
    train = TrainConfig(learning_rate=0.01, max_grad_norm=0.1, lr_warmup_ratio=0.5)
    ours = tiny_model("bert").double()
    theirs = copy.deepcopy(ours)
    stepper = Stepper(ours, train, 4, CPU)
    parameters = [p for p in theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=train.weight_decay)
    for step in range(4):
        stepper.step([tiny_batch()])
        # Linear warm-up over two of four steps, then linear decay to 0.
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step / 2 if step < 2 else (4 - step) / 2)
        optimizer.zero_grad()
        theirs.train()(**tiny_batch()).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()
    for ours_parameter, theirs_parameter in zip(stepper.parameters, parameters, strict=True):
        torch.testing.assert_close(ours_parameter, theirs_parameter)


def test_the_learning_rate_warms_up_and_ends_at_nothing() -> None:
    stepper = Stepper(
        tiny_model("bert"), TrainConfig(learning_rate=0.01, lr_warmup_ratio=0.4), 5, CPU
    )
    rates = []
    for _ in range(5):
        rates.append(stepper.scheduler.get_last_lr()[0])
        stepper.step([tiny_batch()])
    assert rates == pytest.approx([0.0, 0.005, 0.01, 0.02 / 3, 0.01 / 3])
    assert stepper.scheduler.get_last_lr()[0] == 0.0


def test_positions_that_the_head_is_applied_to() -> None:
    labels = torch.full((3, 6), IGNORED)
    labels[0, 4] = labels[2, 4] = labels[2, 5] = 7
    labels[1, 0] = 7  # nothing stands before it that could say it
    assert head_positions({"labels": labels}) == 3 * 2
    assert head_positions({"labels": torch.tensor([1, 0, 1])}) == 0


def test_positions_that_stay_dense() -> None:
    batch = completions()
    assert tokens_kept_dense(batch, plain()) == 0
    kept = tokens_kept_dense(batch, plain(tokens="context", sink_tokens=2))
    assert 0 < tokens_kept_dense(batch, plain(tokens="context", sink_tokens=0)) < kept
    assert kept < batch["input_ids"].numel()
