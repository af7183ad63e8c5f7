"""Do one optimizer step on one model: the same code trains and is timed."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import get_linear_schedule_with_warmup

from sparselora.machine.timer import StepTimer
from sparselora.sparse.channels.tokens import IGNORED, output_tokens
from sparselora.sparse.config import SparsityConfig

if TYPE_CHECKING:
    from sparselora.config.groups import TrainConfig

Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]


def make_optimizer(
    model: nn.Module, train: "TrainConfig", total_steps: int
) -> tuple[torch.optim.Optimizer, Any]:
    """Make AdamW over what trains, and a linear schedule with warm-up."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
    )
    warmup = round(train.lr_warmup_ratio * total_steps)
    return optimizer, get_linear_schedule_with_warmup(optimizer, warmup, total_steps)


def autocast(train: "TrainConfig", device: torch.device) -> torch.autocast:
    """Return the context of a forward pass: bfloat16 under `train.precision=bf16`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=train.precision.name == "bf16")


class Stepper:
    """Do optimizer steps on one model: the same code trains and is timed.

    Args:
        model: with what trains marked so.
        train: batch, optimizer and precision settings.
        total_steps: of the learning-rate schedule.
        device: that the model is on.
        loss: gives the loss of a model and a batch; None: as the model itself gives it.
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
        """Do one step over batches on the device; return loss, gradient norm and the step's timer."""
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


def tokens_kept_dense(batch: Mapping[str, Tensor], config: SparsityConfig) -> int:
    """Count the positions of a batch that every channel is computed for, in a sparse step."""
    if config.tokens == "all":
        return 0
    dense, _ = output_tokens(batch["labels"], batch["attention_mask"], config.sink_tokens)
    return int(dense.sum())


def head_positions(batch: Mapping[str, Tensor]) -> int:
    """Count the positions of a batch that say a labelled token in any row, times its rows."""
    labels = batch["labels"]
    if labels.dim() == 1:
        return 0
    return len(labels) * int((labels[:, 1:] != IGNORED).any(0).sum())


def _own_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


def _losses(labels: Tensor) -> int | Tensor:
    """Count the losses that a batch's mean is of: one an example, or one a token of a completion."""
    return len(labels) if labels.dim() == 1 else (labels[:, 1:] != IGNORED).sum()


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return the batch with every tensor of it on the device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}
