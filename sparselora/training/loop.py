"""Train by optimizer steps, a row for each."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparselora.errors import TrainingError
from sparselora.machine.lock import DeviceLock
from sparselora.machine.timer import StepTimer
from sparselora.sparse.patch import SparsityHandle
from sparselora.sparse.phases import Phases
from sparselora.training.stepper import Stepper, head_positions, to_device, tokens_kept_dense

READ_EVERY = 10
"""Steps between reads from a CUDA device: each read waits for it."""


@dataclass(frozen=True)
class StepRow:
    """Describe one optimizer step: a row of `metrics.csv`."""

    step: int
    """From 1."""
    phase: str
    """dense or sparse."""
    loss: float
    """Mean over the step's examples, or the tokens of their completions, before the update."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    examples: int
    tokens: int
    """Real ones; padding is not counted."""
    padded_tokens: int
    """Positions computed: real ones and padding."""
    dense_tokens: int
    """Of the positions, those that are computed densely in a sparse step too, by `tokens=context`."""
    head_positions: int
    """Positions that the head is applied to, where the labels say; 0 where the model does."""
    milliseconds: float
    """Forward, backward, clip, optimizer and scheduler; the batch was on the device already."""


@dataclass(frozen=True)
class StepPlan:
    """Say which steps run dense, and when rows must be up to date."""

    phases: Phases
    eval_every: int | None
    checkpoint_every: int | None = None

    @property
    def total_steps(self) -> int:
        """Return the number of optimizer steps."""
        return self.phases.total_steps

    def evaluates_after(self, step: int) -> bool:
        """Return whether the weights after this step are evaluated; after the last they always are."""
        due = self.eval_every is not None and step % self.eval_every == 0
        return due or step == self.total_steps

    def keeps_after(self, step: int) -> bool:
        """Return whether the state after this step goes to disk."""
        return self.checkpoint_every is not None and step % self.checkpoint_every == 0

    def pauses_after(self, step: int) -> bool:
        """Return whether the weights after this step are looked at before the next one."""
        return self.evaluates_after(step) or self.keeps_after(step)


def train_steps(
    stepper: Stepper,
    sparsity: SparsityHandle | None,
    batches: Iterator[dict[str, Tensor]],
    plan: StepPlan,
    lock: DeviceLock,
    done: int = 0,
) -> Iterator[StepRow]:
    """Train the stepper's model for `plan.total_steps`, and yield a row for each step.

    Each step holds `lock` shared and lets it go again, so that a job that times can stop the others.
    Rows may come late, in groups, on a CUDA device; where `plan.pauses_after` a step, its row
    comes before the next step begins, so the weights are that step's.

    Args:
        stepper: whose model, optimizer and schedule go on from where they are.
        sparsity: the model's patch; None in plain LoRA.
        batches: the next ones.
        plan: of the whole run.
        lock: of the device.
        done: steps that were trained before.

    Raises:
        TrainingError: a loss that is not finite; names the step.
    """
    device, train = stepper.device, stepper.train
    read_every = READ_EVERY if device.type == "cuda" else 1
    pending: list[
        tuple[int, str, Tensor, float, Tensor, tuple[int, int, int, int, int], StepTimer]
    ] = []
    for step in range(done + 1, plan.total_steps + 1):
        sparse = plan.phases.share(step) > 0.0
        if sparsity is not None:
            sparsity.set_step(step, plan.total_steps)
        micro_batches = [next(batches) for _ in range(train.gradient_accumulation_steps)]
        tokens = sum(int(batch["attention_mask"].sum()) for batch in micro_batches)
        padded = sum(batch["attention_mask"].numel() for batch in micro_batches)
        examples = sum(len(batch["labels"]) for batch in micro_batches)
        learning_rate = stepper.scheduler.get_last_lr()[0]
        with lock.shared():
            loss_sum, grad_norm, timer = stepper.step(
                [to_device(batch, device) for batch in micro_batches]
            )
            timer.wait()  # letting go with work still queued would let another job time beside it
        phase = "sparse" if sparse else "dense"
        dense_tokens = 0
        if sparsity is not None:
            dense_tokens = sum(tokens_kept_dense(batch, sparsity.config) for batch in micro_batches)
        head = sum(map(head_positions, micro_batches))
        counts = (examples, tokens, padded, dense_tokens, head)
        pending.append((step, phase, loss_sum, learning_rate, grad_norm, counts, timer))
        if len(pending) >= read_every or plan.pauses_after(step):
            for number, name, loss_sum, rate, norm, counts, stopped in pending:
                value = float(loss_sum)
                if not torch.isfinite(loss_sum):
                    raise TrainingError(
                        f"loss is {value} at step {number} of {plan.total_steps} ({name} phase, "
                        f"learning rate {rate:.2g}); lower train.learning_rate"
                    )
                yield StepRow(
                    number, name, value, rate, float(norm), *counts, stopped.milliseconds()
                )
            pending.clear()
