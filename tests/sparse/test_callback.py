"""Under transformers' own Trainer."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from sparselora import SparsityCallback, UserError, sparsify
from sparselora.sparse.callback import from_plain, to_plain
from tests.conftest import plain, tiny_batch, tiny_model

CONFIG = plain(svd_rank=3, ffn_sparsity=0.6)


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
    handle = sparsify(model, replace(CONFIG, **changes))
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


SETTINGS = {
    "random": {"estimator": "random"},
    "every": {"estimator": "random", "estimator_every": 3},
    "by batch, every": {"estimator": "svd", "svd_rank": 3, "estimator_every": 4},
    "attention": {
        "estimator": "random",
        "estimator_every": 3,
        "qk_sparsity": 0.5,
        "vo_sparsity": 0.5,
    },
    "rising": {"estimator": "random", "sparse_warmup_ratio": 0.2, "sparse_rampup_ratio": 0.4},
}


def resumable(folder: Path, settings: dict[str, object], **arguments: object) -> Any:
    model = tiny_model("bert", dropout=0.1)
    config = plain(**{"ffn_sparsity": 0.6} | settings)
    handle = sparsify(model, config, calibration=tiny_batch())
    arguments = transformers.TrainingArguments(
        str(folder),
        **{
            "max_steps": 10,
            "per_device_train_batch_size": 4,
            "report_to": [],
            "use_cpu": True,
            "save_steps": 5,
            "disable_tqdm": True,
            "logging_steps": 1,
            "learning_rate": 1e-2,
        }
        | arguments,
    )
    return transformers.Trainer(
        model, arguments, train_dataset=Rows(), callbacks=[SparsityCallback(handle)]
    )


@pytest.mark.parametrize("restores", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_resumed_run_equals_the_whole_one_to_the_digit(
    tmp_path: Path, settings: str, restores: bool
) -> None:
    """A resumed run of `random` drew its first channels again."""
    whole = resumable(tmp_path / "whole", SETTINGS[settings])
    whole.train()
    resumed = resumable(
        tmp_path / "resumed",
        SETTINGS[settings],
        restore_callback_states_from_checkpoint=restores,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    for (name, expected), found in zip(
        whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, found), name
    losses = [
        [row["loss"] for row in each.state.log_history if "loss" in row]
        for each in (whole, resumed)
    ]
    assert losses[0] == losses[1]


def test_a_handle_of_another_model_is_refused(tmp_path: Path) -> None:
    """Its steps were dense, or never switched, without a word."""
    handle = sparsify(tiny_model("bert"), CONFIG)
    trainer = resumable(tmp_path, {"estimator": "magnitude"})
    trainer.callback_handler.callbacks[-1].handle = handle
    trainer.pop_callback(SparsityCallback)
    trainer.add_callback(SparsityCallback(handle))
    with pytest.raises(UserError, match="another model than the one that the trainer trains"):
        trainer.train()


def sparse_by_init() -> Any:
    model = tiny_model("bert")
    sparsify(model, CONFIG)
    return model


@pytest.mark.parametrize("sparse", [True, False])
def test_a_model_that_the_trainer_makes(tmp_path: Path, sparse: bool) -> None:
    callback = SparsityCallback()
    trainer = transformers.Trainer(
        model_init=sparse_by_init if sparse else lambda: tiny_model("bert"),
        args=transformers.TrainingArguments(
            str(tmp_path), max_steps=3, report_to=[], use_cpu=True, save_strategy="no"
        ),
        train_dataset=Rows(),
        callbacks=[callback],
    )
    if not sparse:
        with pytest.raises(UserError, match="the trainer's model is not sparse"):
            trainer.train()
        return
    trainer.train()
    assert callback.handle.sparse_blocks["layer.0"].calls == 3


def test_a_copy_of_a_sparse_model_is_another_model(tmp_path: Path) -> None:
    model = tiny_model("bert")
    handle = sparsify(model, CONFIG)
    trainer = transformers.Trainer(
        copy.deepcopy(model),
        transformers.TrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True),
        train_dataset=Rows(),
        callbacks=[SparsityCallback(handle)],
    )
    with pytest.raises(UserError, match="another model"):
        trainer.train()


def test_a_trainer_that_shards_is_refused_when_it_is_made() -> None:
    callback = SparsityCallback(sparsify(tiny_model("bert"), CONFIG))
    arguments = SimpleNamespace(fsdp=["full_shard"])
    with pytest.raises(UserError, match="fsdp: sparse blocks need whole weights"):
        callback.on_init_end(arguments, None, None, model=None)


@given(
    st.recursive(
        st.none() | st.integers() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    ),
    st.sampled_from([torch.int64, torch.uint8, torch.float32, torch.bool, torch.bfloat16]),
    st.lists(st.integers(0, 4), max_size=3),
)
def test_plain_values_hold_tensors_exactly(
    value: object, dtype: torch.dtype, shape: list[int]
) -> None:
    tensor = torch.randint(0, 2, shape).to(dtype)
    back = from_plain(json.loads(json.dumps(to_plain({"value": value, "tensor": tensor}))))
    assert back["value"] == value
    assert back["tensor"].dtype == dtype
    assert torch.equal(back["tensor"], tensor)
