"""The training loop: a row for each optimizer step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from sparselora.errors import TrainingError
from sparselora.sparse.patch import SparsityHandle
from sparselora.timing import StepTimer

if TYPE_CHECKING:
    from sparselora.schema import TrainConfig

READ_EVERY = 10
"""Steps between reads from a CUDA device: each read waits for it."""


@dataclass(frozen=True)
class StepRow:
    """What one optimizer step was: a row of `metrics.csv`."""

    step: int
    """From 1."""
    phase: str
    """dense or sparse."""
    loss: float
    """Mean over the step's examples, before the update."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    tokens: int
    """Real ones; padding is not counted."""
    padded_tokens: int
    """Positions computed: real ones and padding."""
    milliseconds: float
    """Forward, backward, clip, optimizer and scheduler; the batch was on the device already."""


@dataclass(frozen=True)
class StepPlan:
    """Which steps run dense, and when rows must be up to date."""

    total_steps: int
    dense_steps: int
    """At the start; a plain LoRA run has `total_steps` of them."""
    eval_every: int | None

    def is_sparse(self, step: int) -> bool:
        return step > self.dense_steps

    def evaluates_after(self, step: int) -> bool:
        """Whether the weights after this step are evaluated; after the last they always are."""
        due = self.eval_every is not None and step % self.eval_every == 0
        return due or step == self.total_steps


def make_optimizer(
    model: nn.Module, train: "TrainConfig", total_steps: int
) -> tuple[torch.optim.Optimizer, Any]:
    """AdamW over what trains, and a linear schedule with warm-up."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
    )
    warmup = round(train.lr_warmup_ratio * total_steps)
    return optimizer, get_linear_schedule_with_warmup(optimizer, warmup, total_steps)


def autocast(train: "TrainConfig", device: torch.device) -> torch.autocast:
    """The context that a forward pass runs in: bfloat16 under `train.precision=bf16`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=train.precision.name == "bf16")


def train_steps(
    model: nn.Module,
    sparsity: SparsityHandle | None,
    batches: Iterator[dict[str, Tensor]],
    plan: StepPlan,
    train: "TrainConfig",
    device: torch.device,
) -> Iterator[StepRow]:
    """Train `model` for `plan.total_steps`, yielding a row a step.

    Rows may come late, in groups, on a CUDA device; where `plan.evaluates_after` a step, its row
    comes before the next step begins, so the weights are that step's.

    Raises:
        TrainingError: a loss that is not finite; names the step.
    """
    optimizer, scheduler = make_optimizer(model, train, plan.total_steps)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    read_every = READ_EVERY if device.type == "cuda" else 1
    pending: list[tuple[int, str, Tensor, float, Tensor, int, int, StepTimer]] = []
    for step in range(1, plan.total_steps + 1):
        sparse = plan.is_sparse(step)
        if sparsity is not None:
            (sparsity.enable if sparse else sparsity.disable)()
        micro_batches = [next(batches) for _ in range(train.gradient_accumulation_steps)]
        tokens = sum(int(batch["attention_mask"].sum()) for batch in micro_batches)
        padded = sum(batch["attention_mask"].numel() for batch in micro_batches)
        examples = sum(len(batch["labels"]) for batch in micro_batches)
        micro_batches = [_to(batch, device) for batch in micro_batches]
        model.train()
        learning_rate = scheduler.get_last_lr()[0]
        timer = StepTimer(device)
        timer.start()
        loss_sum: Tensor = torch.zeros((), device=device)
        for batch in micro_batches:
            with autocast(train, device):
                loss = model(**batch).loss * (len(batch["labels"]) / examples)
            loss.backward()
            loss_sum = loss_sum + loss.detach()
        grad_norm = nn.utils.clip_grad_norm_(parameters, train.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        timer.stop()
        phase = "sparse" if sparse else "dense"
        pending.append((step, phase, loss_sum, learning_rate, grad_norm, tokens, padded, timer))
        if len(pending) >= read_every or plan.evaluates_after(step):
            for number, name, loss_sum, rate, norm, real, computed, stopped in pending:
                value = float(loss_sum)
                if not torch.isfinite(loss_sum):
                    raise TrainingError(
                        f"loss is {value} at step {number} of {plan.total_steps} ({name} phase, "
                        f"learning rate {rate:.2g}); lower train.learning_rate"
                    )
                milliseconds = stopped.milliseconds()
                yield StepRow(number, name, value, rate, float(norm), real, computed, milliseconds)
            pending.clear()


def _to(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
