from contextlib import nullcontext
from typing import Any

import pytest
import torch

from sparselora.data.batches import TokenizedSplit
from sparselora.machine.lock import DeviceLock
from sparselora.model.tasks import TASKS
from sparselora.training.evaluate import evaluate
from tests.conftest import tiny_model, word_tokenizer

CPU = torch.device("cpu")
LENGTHS = (5, 2, 9, 3, 7, 1)


def split() -> TokenizedSplit:
    generator = torch.Generator().manual_seed(3)
    rows = [torch.randint(1, 20, (length,), generator=generator).tolist() for length in LENGTHS]
    features = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    return TokenizedSplit(features, [0, 1, 1, 0, 1, 0])


def evaluated(model: Any, batch_size: int) -> Any:
    reader, tokenizer = TASKS["classification"].reader(None), word_tokenizer()
    return evaluate(
        model, reader, tokenizer, split(), batch_size, nullcontext, CPU, DeviceLock(CPU)
    )


@pytest.mark.parametrize("batch_size", [1, 4, 10])
def test_rows_come_in_their_order_whatever_the_batches(batch_size: int) -> None:
    model = tiny_model("bert").eval()
    found = evaluated(model, batch_size)
    for row, feature in enumerate(split().features):
        alone = model(**{name: torch.tensor([value]) for name, value in feature.items()})
        expected = alone.logits[0].detach()
        torch.testing.assert_close(torch.tensor(found.logits[row]), expected, atol=1e-5, rtol=1e-4)
    assert found.labels.tolist() == split().labels


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_as_before(training: bool) -> None:
    model = tiny_model("bert", dropout=0.5).train(training)
    assert (evaluated(model, 2).logits == evaluated(model, 2).logits).all()  # without dropout
    assert model.training is training
