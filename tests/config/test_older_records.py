from sparselora.config.older_records import filled
from sparselora.config.schema import RunConfig


def test_what_is_there_stays_and_what_came_later_is_its_default() -> None:
    older = {"model": {"name": "m", "gone": 1}, "lora": {"r": 4}, "seed": 3, "another": {"a": 1}}
    whole = filled(older)
    assert whole["model"]["name"] == "m"
    assert whole["model"]["gone"] == 1
    assert whole["model"]["quantization"] == "none"
    assert whole["lora"] == {**RunConfig().to_dict()["lora"], "r": 4}
    assert whole["task"]["name"] == "classification"
    assert whole["another"] == {"a": 1}
    assert "ffn_sparsity" not in whole  # it has no default
    assert older["model"] == {"name": "m", "gone": 1}


def test_a_value_where_a_group_should_be_is_left() -> None:
    assert filled({"model": [1], "train": None})["model"] == [1]
    assert filled({"train": None})["train"] is None
