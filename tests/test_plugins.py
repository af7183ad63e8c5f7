"""What a package of its own can add, through public functions and the entry-point group alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "example_package"
TINY = (
    "model=ernie_tiny",
    "data=parity",
    "estimator=row_norms",
    "schedule=uniform",
    "ffn_sparsity=0.5",
    "data.max_length=16",
    "train.batch_size=8",
    "train.max_steps=4",
    "train.threads=1",
    "measure.timing=none",
)
CALL = """
import json, sys, sparselora
print(json.dumps(sparselora.fine_tune(sys.argv[2:], sys.argv[1]).content.to_dict()))
"""


def clean() -> dict[str, str]:
    # A command that ran in this process has asked for tracebacks by it.
    return {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """Environment variables of a process in which the package is installed, as pip installs one."""
    site = tmp_path / "site"
    shutil.copytree(PACKAGE, site)
    info = site / "sparselora_example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: sparselora-example\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text("[sparselora]\nexample = sparselora_example\n")
    return clean() | {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def python(
    folder: Path, environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_command_trains_with_what_a_package_brings(
    installed: dict[str, str], tmp_path: Path
) -> None:
    done = python(tmp_path, installed, "-m", "sparselora.run", *TINY, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["status"] == "completed"
    assert record["config"]["estimator"]["name"] == "row_norms"
    assert record["data"]["label_map"] == {"0": "even", "1": "odd"}
    assert record["sparsity"]["mean"] == pytest.approx(0.5, abs=0.02)
    assert record["steps"]["sparse"] > 0
    # The same in Python: another process, the same figures.
    called = python(tmp_path, installed, "-c", CALL, "called", *TINY)
    assert called.returncode == 0, called.stderr[-2000:]
    content = json.loads(called.stdout.splitlines()[-1])
    assert content["metrics"] == record["metrics"]
    assert content["config_hash"] == record["config_hash"]


LIBRARY = """
import torch, transformers
from peft import LoraConfig, TaskType, get_peft_model
import sparselora

sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
config = transformers.AutoConfig.for_model("ernie", vocab_size=50, **sizes)
model = transformers.AutoModelForSequenceClassification.from_config(config)
lora = LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query", "value"])
model = get_peft_model(model, lora)
sparsity = sparselora.SparsityConfig(estimator="row_norms", rule="uniform", ffn_sparsity=0.5)
handle = sparselora.sparsify(model, sparsity)
model(input_ids=torch.ones(2, 5, dtype=torch.long), labels=torch.tensor([0, 1])).loss.backward()
print([layer.kept for layer in handle.report()], handle.report()[0].realised_sparsity)
"""


def test_the_library_finds_what_a_package_brings(installed: dict[str, str], tmp_path: Path) -> None:
    done = python(tmp_path, installed, "-c", LIBRARY)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "[20, 20] 0.5"


ACCELERATED = (
    LIBRARY.split("sparsity =")[0]
    + """
sparselora.accelerate(model)
print("FFNInput" in str([type(module).__mro__ for module in model.modules()]))
"""
)


def test_a_model_of_the_packages_architecture_is_accelerated(
    installed: dict[str, str], tmp_path: Path
) -> None:
    """The table was read before the package was looked for, where nothing else had asked for it."""
    done = python(tmp_path, installed, "-c", ACCELERATED)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "True"


def test_without_the_package_each_is_unknown(tmp_path: Path) -> None:
    for override in ("model=ernie_tiny", "data=parity", "estimator=row_norms"):
        done = python(tmp_path, clean(), "-m", "sparselora.run", override)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith(f"error: {override}: unknown; must be one of "), line


def test_a_grid_over_what_a_package_brings(installed: dict[str, str], tmp_path: Path) -> None:
    grid = [item for item in TINY if not item.startswith("estimator=")]
    done = python(
        tmp_path, installed, "-m", "sparselora.run", "-m", *grid, "estimator=row_norms,magnitude"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    records = [json.loads(file.read_text()) for file in tmp_path.glob("outputs/**/record.json")]
    assert {record["config"]["estimator"]["name"] for record in records} == {
        "row_norms",
        "magnitude",
    }


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        ("1 / 0", "division by zero"),
        (
            "import sparselora\nsparselora.register_estimator('svd', lambda *_: None)",
            "svd",
        ),
    ],
)
def test_a_package_that_fails_is_a_line_that_names_it(
    installed: dict[str, str], tmp_path: Path, source: str, reason: str
) -> None:
    (tmp_path / "site" / "sparselora_example" / "__init__.py").write_text(source)
    done = python(tmp_path, installed, "-m", "sparselora.run", *TINY[3:])
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: plugin example of sparselora-example (sparselora_example): ")
    assert reason in line
