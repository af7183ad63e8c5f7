"""Each script says what it answers."""

import importlib

import pytest

from sparselora.paths import PACKAGE

SCRIPTS = sorted(
    path.stem for path in (PACKAGE.parent / "benchmarks").glob("*.py") if path.stem != "common"
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(name)
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    question, _, rest = module.__doc__.partition("\n")
    assert "?" in question
    assert f"python benchmarks/{name}.py" in rest
    assert question in said


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 8
