import pytest

SEARCH = [
    "-m",
    "+sweep=tradeoff",
    "hydra.sweeper.objectives=[accuracy,gflops_per_step]",
    "train.max_steps=4",
    "measure.eval_every=null",
    "calibration.batches=1",
]


@pytest.fixture
def searching(tiny_overrides: list[str]) -> list[str]:
    own = {item.split("=")[0] for item in SEARCH}
    return [*SEARCH, *(item for item in tiny_overrides if item.split("=")[0] not in own)]
