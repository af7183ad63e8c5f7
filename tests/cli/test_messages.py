import pytest
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparselora.cli.messages import MAX_LINES, USER_MISTAKES, explain
from sparselora.config.groups import TrainConfig
from sparselora.errors import TrainingError, UserError


def test_ours_are_passed_on_and_cut() -> None:
    assert explain(UserError("key=1: from 2 is allowed")) == "key=1: from 2 is allowed"
    assert explain(UserError("\n".join("abcdef"))).splitlines() == list("abcdef")[:MAX_LINES]


def test_a_key_that_there_is_not_gets_a_suggestion() -> None:
    error = ConfigCompositionException("Could not override 'svd_rnk'.")
    error.__cause__ = OmegaConfBaseException("Key 'svd_rnk' not in 'RunConfig'")
    assert explain(error).startswith("svd_rnk: unknown key; did you mean svd_rank?")


def test_an_option_that_there_is_not_lists_those_that_are() -> None:
    error = HydraException("Could not find 'model/foo'\n\nAvailable options:\n\tminilm\n\tmpnet")
    assert explain(error) == "model=foo: unknown; must be one of minilm, mpnet"


def test_a_value_of_another_kind_says_which_is_allowed() -> None:
    config = OmegaConf.structured(TrainConfig)
    with pytest.raises(OmegaConfBaseException) as raised:
        config.batch_size = "many"
    error = HydraException(f"Error merging override train.batch_size=many\n{raised.value}")
    assert explain(error) == "train.batch_size=many: a whole number is allowed"


def test_an_error_without_words_has_its_name() -> None:
    assert explain(HydraException()) == "HydraException"
    assert not isinstance(TrainingError("loss is nan"), USER_MISTAKES)
