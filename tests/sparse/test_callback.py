"""Under transformers' own Trainer."""

from pathlib import Path

import torch
import transformers
from torch.utils.data import Dataset

from sparselora import SparsityCallback, sparsify
from tests.conftest import plain, tiny_batch, tiny_model


class Rows(Dataset):
    """Sixteen rows of one batch."""

    def __init__(self) -> None:
        batch = tiny_batch(16, 9)
        self.rows = [{name: tensor[row] for name, tensor in batch.items()} for row in range(16)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.rows[index]


def trainer_of(folder: Path, **changes: float) -> tuple[transformers.Trainer, object]:
    model = tiny_model("bert")
    handle = sparsify(model, plain(svd_rank=3, ffn_sparsity=0.6, **changes))
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=10,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        eval_steps=5,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=Rows(),
        eval_dataset=Rows(),
        callbacks=[SparsityCallback(handle)],
    )
    return trainer, handle


def test_sparse_steps_dense_evaluation_and_two_trainers_apart(tmp_path: Path) -> None:
    one, first = trainer_of(tmp_path / "1", sparse_warmup_ratio=0.2, sparse_cooldown_ratio=0.1)
    two, second = trainer_of(tmp_path / "2")
    one.train()
    calls = {
        name: [ffn.calls for ffn in h._sparse.values()] for name, h in (("1", first), ("2", second))
    }
    # 10 steps, 2 dense at the start and 1 at the end; two evaluations of 2 batches are dense.
    assert calls == {"1": [7, 7, 7], "2": [0, 0, 0]}
    assert not first.enabled
    assert second.enabled
    before = [ffn.calls for ffn in first._sparse.values()]
    one.evaluate()
    one.predict(Rows())
    assert [ffn.calls for ffn in first._sparse.values()] == before
    two.train()
    assert [ffn.calls for ffn in second._sparse.values()] == [10, 10, 10]
