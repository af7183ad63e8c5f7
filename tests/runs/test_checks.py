import pytest

from sparselora.errors import UserError
from sparselora.runs.checks import load_run_data, user_keys
from tests.runs.composed import composed


def test_keys_and_groups_that_a_user_sets() -> None:
    words = ["+sweep=x", "svd_rank=4", "++a.b=[1,2]", "~train.epochs", "data.path='x=y'"]
    assert user_keys(words) == {"sweep", "svd_rank", "a.b", "train.epochs", "data.path"}
    assert user_keys([]) == frozenset()


def test_a_sample_of_the_validation_rows(tiny_overrides: list[str]) -> None:
    whole = load_run_data(composed(tiny_overrides)[0]).splits
    few = load_run_data(composed([*tiny_overrides, "measure.eval_rows=5"])[0]).splits
    assert len(few["validation"]) == 5
    assert set(few["validation"].example_ids) <= set(whole["validation"].example_ids)
    for name in ("train", "test"):
        assert few[name].example_ids == whole[name].example_ids


def test_a_presets_length_gives_way_and_a_users_does_not(tiny_overrides: list[str]) -> None:
    # The tiny model has 128 positions.
    run, _ = composed([*tiny_overrides, "data.max_length=100"])
    assert run.data.max_length == 100
    with pytest.raises(UserError, match="max_length=129: this model has 128 positions"):
        composed([*tiny_overrides, "data.max_length=129"])


def test_an_encoder_completes_nothing(tiny_overrides: list[str]) -> None:
    prompts = ['data.prompt_template="{sentence}"', 'data.completion_template="{kind}"']
    rest = [item for item in tiny_overrides if "_column=" not in item or "group" in item]
    with pytest.raises(UserError, match="is an encoder; a decoder, such as"):
        composed([*rest, *prompts, "task=causal_lm"])
