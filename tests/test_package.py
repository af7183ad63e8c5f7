"""What importing costs, and what the public names are."""

import subprocess
import sys

import pytest

import sparselora


def loaded_by(statement: str) -> set[str]:
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "peft", "pandas", "numpy", "hydra", "optuna", "datasets"}
    assert not heavy & loaded_by("import sparselora")
    report = (
        "import sparselora.report.__main__, sparselora.report.write, sparselora.report.callback"
    )
    assert not {"torch", "transformers"} & loaded_by(f"{report}, optuna.importance")
    assert not {"torch", "transformers"} & loaded_by("import sparselora.preflight")


@pytest.mark.parametrize("name", sparselora.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(sparselora, name) is not None
    assert name in dir(sparselora)


def test_a_name_that_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = sparselora.nope
