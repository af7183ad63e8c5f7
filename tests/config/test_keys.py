import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparselora.config.keys import known_keys, suggestions, unknown_key


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("max_steps", ["train.max_steps"]),
        ("sparsity", ["ffn_sparsity"]),
        ("rank", ["svd_rank", "lora.r"]),
        ("lr", ["train.learning_rate"]),
        ("train.lr", ["train.learning_rate"]),
        ("learningRate", ["train.learning_rate"]),
        ("epochs", ["train.epochs"]),
        ("num_train_epochs", ["train.epochs"]),
        ("batch_size", ["train.batch_size", "bench.batch_size"]),
        ("per_device_train_batch_size", ["train.batch_size"]),
        ("warmup", ["train.lr_warmup_ratio", "sparse_warmup_ratio"]),
        ("dropout", ["lora.dropout"]),
        ("lora_alpha", ["lora.alpha"]),
        ("model.path", ["model.name_or_path"]),
        ("data.file", ["data.path"]),
        ("model.max_length", ["data.max_length"]),
        ("target_modules", ["lora.projections"]),
        ("train/max_steps", ["train.max_steps"]),
        ("random_seed", ["seed"]),
        ("modle", ["model"]),
        ("trian.max_steps", ["train.max_steps"]),
        ("layer_sparsty", ["layer_sparsity"]),
        ("optimized", ["experiment=optimized", "schedule=optimized"]),
        ("zzz", []),
    ],
)
def test_what_is_meant(key: str, meant: list[str]) -> None:
    assert suggestions(key.replace("/", ".")) == meant
    message = unknown_key(key)
    assert message.startswith(f"{key}: unknown key;")
    assert all(each in message for each in meant)


@given(st.sampled_from(known_keys()), st.data())
def test_a_slip_in_any_key_is_mended(key: str, data: st.DataObject) -> None:
    name = key.rpartition(".")[2]
    if len(name) < 6:
        return
    place = len(key) - len(name) + data.draw(st.integers(1, len(name) - 2))
    slipped = key[:place] + data.draw(st.sampled_from("qz")) + key[place + 1 :]
    if slipped != key:
        assert key in suggestions(slipped)


@given(st.sampled_from([key for key in known_keys() if "." in key]))
def test_a_key_without_its_group_is_found(key: str) -> None:
    name = key.rpartition(".")[2]
    found = suggestions(name)
    assert found
    alike = [each for each in known_keys() if each.endswith(f".{name}")]
    assert key in found or len(alike) > 3 or name in ("rank", "checkpoint")
