"""Private names of other libraries: where one moves, these tests say which, and of what version."""

import ast
import importlib
import importlib.metadata
from pathlib import Path

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from sparselora.cli import hydra_setup
from sparselora.paths import CONF, PACKAGE
from sparselora.search import compat

NAMES = [(library, name) for library, names in compat.PRIVATE_NAMES.items() for name in names]
LIBRARIES = ("hydra", "hydra_plugins", "omegaconf", "optuna")
COMPAT = PACKAGE / "search" / "compat.py"


def resolved(name: str) -> object:
    """The object of a dotted name: a module as far as there is one, attributes from there on."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize(("library", "name"), NAMES)
def test_it_is_where_it_was(library: str, name: str) -> None:
    try:
        version = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{library} is not installed")
    try:
        resolved(name)
    except (ImportError, AttributeError) as error:
        pytest.fail(
            f"{library} {version} has no {name} ({error}): sparselora/search/compat.py needs "
            "another way, or pyproject.toml another range",
            pytrace=False,
        )


def test_a_name_that_has_moved_is_seen() -> None:
    assert resolved("optuna.study.Study.ask") is optuna.study.Study.ask
    for name in ("hydra._internal.utils.gone", "hydra._internal.gone.f", "no_such_library.x"):
        with pytest.raises((ImportError, AttributeError)):
            resolved(name)


def private_names(path: Path) -> list[str]:
    """Names of these libraries with a leading underscore in one of their parts, that a file imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first in LIBRARIES and any(part.startswith("_") for part in rest):
                found.append(name)
    return found


def private_attributes(path: Path) -> list[str]:
    """Attributes with a leading underscore that are read of something else than `self`."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.endswith("_")  # `_target_` is a key of Hydra's configs
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]


def test_no_other_module_imports_a_private_name() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path != COMPAT]
    assert {str(path): names for path in files if (names := private_names(path))} == {}
    assert private_names(COMPAT)


@pytest.mark.parametrize("folder", ["cli", "search"])
def test_no_other_module_of_this_side_reads_a_private_attribute(folder: str) -> None:
    files = [path for path in (PACKAGE / folder).rglob("*.py") if path != COMPAT]
    assert {str(path): names for path in files if (names := private_attributes(path))} == {}
    assert "job._return_value" in private_attributes(COMPAT)


def test_every_private_name_is_listed() -> None:
    listed = {name for _, name in NAMES}
    for name in private_names(COMPAT):
        assert any(one == name or one.startswith(f"{name}.") for one in listed), name


def test_the_parser_has_our_version(capsys: pytest.CaptureFixture[str]) -> None:
    parser = compat.command_line_parser("ours 1.2")
    assert parser.parse_args(["-m", "a=1,2"]).overrides == ["a=1,2"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--version"])
    assert capsys.readouterr().out == "ours 1.2\n"


def test_composing_leaves_hydra_as_it_was() -> None:
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra

    hydra_setup.install()
    with compat.composing_from(compat.config_search_path(str(CONF))):
        assert compose("config", ["seed=7"]).seed == 7
    assert not GlobalHydra.instance().is_initialized()


def test_a_grid_is_every_combination() -> None:
    parsed = OverridesParser.create().parse_overrides(["a=1,2", "b=x,y", "c=3"])
    (batch,) = compat.grid_batches(parsed)
    expected = [["a=1", "b=x"], ["a=1", "b=y"], ["a=2", "b=x"], ["a=2", "b=y"]]
    assert [sorted(job) for job in batch] == [[*job, "c=3"] for job in expected]


def test_what_a_job_raised_is_told_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    error = MemoryError("too much")
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = error
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = 0.5
    assert compat.raised_by(failed) is error
    assert compat.raised_by(done) is None
    assert capsys.readouterr().err == ""


def test_distributions_of_sweeps() -> None:
    lines = ["a=1,2", "b=interval(0,1)", "c=3", "~d", "e=range(0,1,0.5)"]
    distributions, fixed, deleted = compat.distributions_of(lines)
    assert distributions["a"] == CategoricalDistribution([1, 2])
    assert distributions["b"] == FloatDistribution(0.0, 1.0)
    assert isinstance(distributions["e"], FloatDistribution)
    assert (fixed, deleted) == ({"c": "3"}, ["~d"])


def test_choices_of_a_grid() -> None:
    assert list(compat.grid_choices(CategoricalDistribution(["x", "y"]))) == ["x", "y"]
    assert list(compat.grid_choices(IntDistribution(2, 6, step=2))) == [2, 4, 6]
    with pytest.raises(ValueError, match="discrete"):
        compat.grid_choices(FloatDistribution(0.0, 1.0))


def test_targets_are_those_of_hydras_own_options() -> None:
    from hydra import compose, initialize_config_dir

    hydra_setup.install()
    expected = {
        "hydra/launcher=basic": ("launcher", f".{compat.BASIC_LAUNCHER}"),
        "hydra/sweeper=basic": ("sweeper", compat.BASIC_SWEEPER),
    }
    for line, (key, target) in expected.items():
        with initialize_config_dir(str(CONF)):
            config = compose("config", [line], return_hydra_config=True)
        assert config.hydra[key]._target_.endswith(target)
    with initialize_config_dir(str(CONF)):
        line = ["hydra/sweeper=search", "hydra/sweeper/sampler=nsgaii"]
        config = compose("config", line, return_hydra_config=True)
    assert config.hydra.sweeper.sampler._target_ == compat.NSGAII_SAMPLER
