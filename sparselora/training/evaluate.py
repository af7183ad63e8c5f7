"""Evaluate a model on one split, without sparsity."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparselora.data.batches import TokenizedSplit, evaluation_batches
from sparselora.machine.lock import DeviceLock
from sparselora.model.reader import Evaluation, Reader


@torch.no_grad()
def evaluate(
    model: nn.Module,
    reader: Reader,
    tokenizer: Any,
    split: TokenizedSplit,
    batch_size: int,
    context: Callable[[], Any],
    device: torch.device,
    lock: DeviceLock,
) -> Evaluation:
    """Return what the model makes of every row of a split, without sparsity.

    The model's mode is as before afterwards.

    Args:
        model: to evaluate.
        reader: a new one, of the task.
        tokenizer: pads the batches.
        split: its rows, as tokens.
        batch_size: rows of a forward pass.
        context: makes the context that a forward pass runs in, such as autocast.
        device: the model's.
        lock: held shared for each batch.
    """
    was_training = model.training
    model.eval()
    try:
        for indices, batch in evaluation_batches(tokenizer, split, batch_size):
            with lock.shared(), context():
                reader.read(
                    model, indices, {name: tensor.to(device) for name, tensor in batch.items()}
                )
    finally:
        model.train(was_training)
    return reader.result(split)
