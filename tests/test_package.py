"""What importing costs, and what the public names are."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sparselora

ROOT = Path(__file__).resolve().parent.parent


def loaded_by(statement: str) -> set[str]:
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    heavy = {
        "torch",
        "sklearn",
        "transformers",
        "peft",
        "pandas",
        "numpy",
        "hydra",
        "optuna",
        "datasets",
    }
    assert not heavy & loaded_by("import sparselora")
    parts = ("__main__", "rendering.write", "callback")
    report = "import " + ", ".join(f"sparselora.report.{part}" for part in parts)
    assert not {"torch", "transformers"} & loaded_by(f"{report}, optuna.importance")
    assert not {"torch", "transformers"} & loaded_by(
        "import sparselora.cli.preflight, sparselora.__main__"
    )
    core = loaded_by("import sparselora; sparselora.SparsityConfig()")
    assert not {"hydra", "pandas", "optuna", "torch"} & core  # it reads conf/ without Hydra


@pytest.mark.parametrize("name", sparselora.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(sparselora, name) is not None
    assert name in dir(sparselora)


def test_a_name_that_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = sparselora.nope


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {_normal(str(re.match(r"[\w.-]+", line)[0])) for line in lines}  # type: ignore[index]


def _imported(folder: str) -> dict[str, str]:
    """Top-level module → a file that imports it, anywhere in it; ours and the standard library's not."""
    local = {path.stem for path in (ROOT / folder).glob("*.py")} | {"sparselora", "tests"}
    found = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            for name in names:
                found[name.partition(".")[0]] = str(path.relative_to(ROOT))
    return {
        name: path
        for name, path in found.items()
        if name not in sys.stdlib_module_names and name not in local
    }


@pytest.mark.parametrize(
    ("folder", "extras"), [("sparselora", ()), ("tests", ("dev",)), ("benchmarks", ("dev",))]
)
def test_everything_imported_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    imported, declared = _imported(folder), _declared(*extras)
    assert len(imported) > 5
    of_module = metadata.packages_distributions()
    # What Hydra's plugins are found by is one module of several packages.
    for name, path in imported.items():
        packages = {_normal(each) for each in of_module.get(name, [name])}
        assert packages & declared, f"{path} imports {name}, of {', '.join(packages)}"


def test_what_is_not_imported_is_not_installed_for_it() -> None:
    imported = {
        _normal(each)
        for name in _imported("sparselora")
        for each in metadata.packages_distributions().get(name, [name])
    }
    # These are loaded by name: by transformers for GGUF, and by pandas for Markdown.
    assert _declared() - imported <= {"gguf", "tabulate", "hydra-optuna-sweeper"}
    assert not any("sklearn" in name or "scikit" in name for name in {*imported, *_declared()})


def test_configuration_packages_stay_below_their_next_minor() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    held = [Requirement(line) for line in lines if line.startswith(("hydra", "omegaconf"))]
    assert {each.name for each in held} >= {"hydra-core", "omegaconf", "hydra-optuna-sweeper"}
    for each in held:
        prefix = "2.4" if each.name == "omegaconf" else "1.4"
        following = "2.5.0" if each.name == "omegaconf" else "1.5.0"
        assert each.specifier.contains(f"{prefix}.9", prereleases=True)
        for version in (following, f"{following}rc1", f"{following}.dev1"):
            assert not each.specifier.contains(version, prereleases=True), (each.name, version)


def test_types_are_for_those_who_import_it() -> None:
    assert (ROOT / "sparselora" / "py.typed").is_file()
