from pathlib import Path

from tests.cli.lines import Invoke, assert_one_line, tiny


def test_a_config_folder_is_checked_before_the_first_job(
    invoke: Invoke, tiny_overrides: list[str], own_folder: Path
) -> None:
    outcome = invoke(
        *tiny(tiny_overrides, ("data=",)),
        f"--config-dir={own_folder}",
        *("-m", "data=mine", "svd_rank=3,4000"),
    )
    assert_one_line(outcome, "svd_rank=4000")


def test_a_run_is_run_again_by_hydras_flag(invoke: Invoke, tiny_overrides: list[str]) -> None:
    given = [*tiny(tiny_overrides, ("train.max_steps=",)), "svd_rank=3", "train.max_steps=5"]
    assert invoke(*given, "hydra.run.dir=mine").code == 0
    outcome = invoke("--experimental-rerun", "mine")
    assert outcome.code == 2  # or what is there would be written over
    assert "holds results already" in outcome.message[0]
    assert invoke("--experimental-rerun", "mine", "hydra.run.dir=other").code == 0
    first, second = outcome.records()
    assert first["config_hash"] == second["config_hash"]
