"""A template is columns in braces and nothing else."""

from pathlib import Path

import pandas as pd
import pytest

from sparselora.config.groups import DataConfig
from sparselora.data.load import load_data
from sparselora.data.templates import fill, template_end, template_fields
from sparselora.errors import UserError


def prompts_config(path: Path, prompt: str = "{line}?", answer: str = "{kind}") -> DataConfig:
    return DataConfig(name="p", path=str(path), prompt_template=prompt, completion_template=answer)


def test_templates_make_prompts_and_completions(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    frame = pd.DataFrame({"line": [f"line {n}" for n in range(40)], "kind": ["a", "b"] * 20})
    frame.loc[3, "kind"] = None
    frame.to_csv(path, index=False)
    loaded = load_data(prompts_config(path, "Say {line} {{once}}:"), prompts=True)
    assert loaded.dropped_rows == 1
    assert loaded.label_names == []
    train = loaded.splits["train"]
    assert train.labels == []
    assert train.completions is not None
    assert all(
        text == f"Say line {name.split(':')[1]} {{once}}:"
        for text, name in zip(train.texts, train.example_ids, strict=True)
    )
    assert set(train.completions) == {"a", "b"}
    sample = loaded.splits["train"].sample(5)
    assert len(sample) == 5
    assert sample.example_ids == loaded.splits["train"].sample(5).example_ids
    assert set(sample.example_ids) < set(train.example_ids)
    assert len(train.sample(10_000)) == len(train)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{missing}", "no such column"),
        ("{", "column"),
        ("{}", "column's name alone"),
        ("{line.upper}", "column's name alone"),
        ("{line:>9}", "column's name alone"),
    ],
)
def test_a_wrong_template_names_its_key(tmp_path: Path, template: str, reason: str) -> None:
    path = tmp_path / "lines.csv"
    pd.DataFrame({"line": ["a", "b"], "kind": ["x", "y"]}).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"data.prompt_template") as raised:
        load_data(prompts_config(path, template), prompts=True)
    assert reason in str(raised.value)


def test_a_row_without_any_of_its_columns_is_none() -> None:
    cells = {"a": ["x", None, " ", None], "b": ["y", "z", None, None]}
    found = fill("k", "{a}+{b}", cells.__getitem__, 4)
    assert found == ["x+y", "+z", None, None]
    assert fill("k", "plain {{}}", cells.__getitem__, 2) == ["plain {}", "plain {}"]


@pytest.mark.parametrize(
    ("template", "names", "end"),
    [
        ("{a} and {b}: {a}?", ["a", "b"], "?"),
        ("none", [], ""),
        ("{a}", ["a"], ""),
        ("{a}{{x}}", ["a"], "{x}"),
    ],
)
def test_columns_and_the_end_of_a_template(template: str, names: list[str], end: str) -> None:
    assert template_fields("k", template) == names
    assert template_end(template) == end
