import optuna
import pytest

from sparselora.errors import UserError
from sparselora.search.space.space import Space
from tests.search.space.checks import PARAMS, check


def drawn(space: Space, count: int, seed: int = 1) -> list[list[str]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    return [space.draw(study.ask(), check) for _ in range(count)]


def test_a_key_is_drawn_only_where_it_has_an_effect() -> None:
    found = set()
    for overrides in drawn(Space.parse(PARAMS, ["seed=3"]), 12, seed=2):
        values = dict(item.split("=") for item in overrides)
        assert values["seed"] == "3"
        assert ("svd_rank" in values) == (values["estimator"] == "svd")
        assert ("ffn_sparsity" in values) == (values["schedule"] == "ramp")
        assert ("compensation.rank" in values) == (values["compensation"] == "lowrank")
        check(overrides)  # as a command line of its own
        found.add((values["estimator"], values["schedule"], values["compensation"]))
    assert len(found) >= 5


def test_groups_come_first_and_the_command_line_wins() -> None:
    space = Space.parse(PARAMS, ["svd_rank=16", "schedule=uniform,ramp", "+tags=[a]"])
    assert list(space.distributions)[:3] == ["schedule", "compensation", "estimator"] or set(
        list(space.distributions)[:3]
    ) == {"schedule", "estimator", "compensation"}
    assert "svd_rank" not in space.distributions
    assert space.distributions["schedule"].choices == ("uniform", "ramp")  # type: ignore[attr-defined]
    assert set(space.fixed) == {"svd_rank=16", "+tags=[a]"}


def test_steps_of_a_range_are_written_as_a_person_would() -> None:
    space = Space.parse({"ffn_sparsity": "range(0.1,0.9,0.1)"}, [])
    values = {dict(item.split("=") for item in one)["ffn_sparsity"] for one in drawn(space, 40)}
    assert values <= {f"0.{tenth}" for tenth in range(1, 9)}
    assert len(values) > 4


def test_beside_no_sparsity_nothing_else_is_drawn_into_the_setting() -> None:
    space = Space.parse({"ffn_sparsity": "0.0", "estimator": "svd,static"}, ["schedule=uniform"])
    assert drawn(space, 1) == [["schedule=uniform", "ffn_sparsity=0.0"]]


def test_named_settings_are_as_written_whatever_the_search_fixes() -> None:
    space = Space.parse(PARAMS, ["svd_rank=16", "train.max_steps=5", "estimator.tokens=64"])
    assert space.named("optimized", check) == ["train.max_steps=5", "experiment=optimized"]
    run, sparsities = check(space.named("original", check))
    assert (run.svd_rank, run.estimator.tokens) == (8, 128)
    assert sparsities == [0.0, 0.2, 0.3, 0.5, 0.6, 0.7]


def test_the_whole_space_is_checked_before_anything_runs() -> None:
    assert Space.parse(PARAMS, []).check(["dense"], check)
    cases = {
        "svd_rank": ({"estimator": "static,magnitude", "svd_rank": "4,8"}, []),
        "sparse_warmup_ratio=2": ({"sparse_warmup_ratio": "0.1,2"}, []),
        "svd_rank=5000": ({"svd_rank": "4,5000"}, []),
        "estimator=svd,whitened": ({"estimator": "svd,whitened"}, ["compensation.rank=4"]),
    }
    for start, (params, arguments) in cases.items():
        expected = "compensation.rank=4" if start.startswith("estimator") else start
        with pytest.raises(UserError, match=f"^{expected}"):
            Space.parse(params, arguments).check(["dense"], check)


def test_a_fixed_key_need_only_matter_to_some_settings() -> None:
    space = Space.parse({"estimator": "svd,static"}, ["svd_rank=16"])
    settings = space.check(["dense"], check)
    assert ["svd_rank=16", "estimator=svd"] in settings
    assert ["estimator=static"] in settings
