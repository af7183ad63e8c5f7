"""The training loop: a row for each optimizer step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from sparselora.errors import TrainingError
from sparselora.machine.lock import DeviceLock
from sparselora.machine.timer import StepTimer
from sparselora.sparse.channels.tokens import IGNORED, output_tokens
from sparselora.sparse.config import SparsityConfig
from sparselora.sparse.patch import SparsityHandle
from sparselora.sparse.phases import Phases

if TYPE_CHECKING:
    from sparselora.config.groups import TrainConfig

READ_EVERY = 10
"""Steps between reads from a CUDA device: each read waits for it."""


Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class StepRow:
    """What one optimizer step was: a row of `metrics.csv`."""

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
    """Which steps run dense, and when rows must be up to date."""

    phases: Phases
    eval_every: int | None
    checkpoint_every: int | None = None

    @property
    def total_steps(self) -> int:
        """Optimizer steps."""
        return self.phases.total_steps

    def evaluates_after(self, step: int) -> bool:
        """Whether the weights after this step are evaluated; after the last they always are."""
        due = self.eval_every is not None and step % self.eval_every == 0
        return due or step == self.total_steps

    def keeps_after(self, step: int) -> bool:
        """Whether the state after this step goes to disk."""
        return self.checkpoint_every is not None and step % self.checkpoint_every == 0

    def pauses_after(self, step: int) -> bool:
        """Whether the weights after this step are looked at before the next one."""
        return self.evaluates_after(step) or self.keeps_after(step)


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


class Stepper:
    """Does optimizer steps on one model: the same code trains and is timed.

    Args:
        model: with what trains marked so.
        train: batch, optimizer and precision settings.
        total_steps: of the learning-rate schedule.
        device: that the model is on.
        loss: (model, batch) → its loss; None: as the model gives it.
    """

    def __init__(
        self,
        model: nn.Module,
        train: "TrainConfig",
        total_steps: int,
        device: torch.device,
        loss: Loss | None = None,
    ) -> None:
        self.model, self.train, self.device = model, train, device
        self.loss = loss or _own_loss
        self.optimizer, self.scheduler = make_optimizer(model, train, total_steps)
        self.parameters = [
            parameter for group in self.optimizer.param_groups for parameter in group["params"]
        ]

    def step(self, micro_batches: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor, StepTimer]:
        """One step over batches that are on the device: (loss, gradient norm, its timer)."""
        counts = [_losses(batch["labels"]) for batch in micro_batches]
        self.model.train()
        timer = StepTimer(self.device)
        timer.start()
        loss_sum: Tensor = torch.zeros((), device=self.device)
        for batch, count in zip(micro_batches, counts, strict=True):
            with autocast(self.train, self.device):
                loss = self.loss(self.model, batch) * (count / sum(counts))
            loss.backward()
            loss_sum = loss_sum + loss.detach()
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.train.max_grad_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        timer.stop()
        return loss_sum, grad_norm, timer


def train_steps(
    stepper: Stepper,
    sparsity: SparsityHandle | None,
    batches: Iterator[dict[str, Tensor]],
    plan: StepPlan,
    lock: DeviceLock,
    done: int = 0,
) -> Iterator[StepRow]:
    """Train the stepper's model for `plan.total_steps`, yielding a row a step.

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


def tokens_kept_dense(batch: Mapping[str, Tensor], config: SparsityConfig) -> int:
    """How many of a batch's positions every channel is computed for, in a sparse step."""
    if config.tokens == "all":
        return 0
    dense, _ = output_tokens(batch["labels"], batch["attention_mask"], config.sink_tokens)
    return int(dense.sum())


def head_positions(batch: Mapping[str, Tensor]) -> int:
    """How many positions of a batch say a labelled token in any row, times its rows."""
    labels = batch["labels"]
    if labels.dim() == 1:
        return 0
    return len(labels) * int((labels[:, 1:] != IGNORED).any(0).sum())


def _own_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


def _losses(labels: Tensor) -> int | Tensor:
    """How many losses a batch's mean is of: an example each, or a token of a completion each."""
    return len(labels) if labels.dim() == 1 else (labels[:, 1:] != IGNORED).sum()


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch, every tensor of it on the device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}
