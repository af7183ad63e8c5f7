"""Chats as TRL writes them are prompts and answers; others are one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from sparselora.data.load import load_data
from sparselora.errors import UserError
from tests.data.files import MESSAGES, chats, config, examples, write


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_messages_are_prompts_and_answers(tmp_path: Path, ending: str) -> None:
    parts = ending == "jsonl"
    data = load_data(config(write(chats(parts=parts), tmp_path / f"chats.{ending}")), True)
    for split in data.splits.values():
        for example, chat, answer in zip(
            split.example_ids, split.chats, split.completions, strict=True
        ):
            number = example.split(":")[1]
            assert [message["role"] for message in chat] == ["system", "user"]
            assert chat[1]["content"] == f"question {number}"
            assert answer == f"answer {number}"


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("conversational", [True, False])
def test_prompts_with_completions_load_as_they_are(
    tmp_path: Path, ending: str, conversational: bool
) -> None:
    rows: list[dict[str, Any]] = []
    for n in range(60):
        question, answer = f"question {n}", f"answer {n}"
        rows.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            if conversational
            else {"prompt": question, "completion": answer}
        )
    data = load_data(config(write(rows, tmp_path / f"pairs.{ending}")), True)
    found = examples(data)
    assert {text for _, text, *_ in found.values()} == {f"question {n}" for n in range(60)}
    assert {values[4] for values in found.values()} == {f"answer {n}" for n in range(60)}
    assert (data.splits["train"].chats is not None) == conversational


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([MESSAGES[0]], "ends with a message of user"),
        ([{"from": "human", "value": "a"}], "role: user"),
        ("a text", "is a str"),
        ([{"role": "user", "content": None}], "role: user"),
        ([{"role": "user", "content": [{"type": "image"}]}], "role: user"),
    ],
)
def test_chats_of_another_shape_are_one_line(tmp_path: Path, bad: Any, reason: str) -> None:
    rows = chats()
    rows[5]["messages"] = bad
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="row 5: messages") as raised:
        load_data(config(tmp_path / "chats.jsonl"), True)
    assert reason in str(raised.value)


def test_without_templates_or_chats_the_columns_are_named(tmp_path: Path) -> None:
    path = write([{"question": "a", "answer": "b"}] * 5, tmp_path / "rows.jsonl")
    with pytest.raises(UserError, match=r"data.prompt_template=null: .*has question, answer"):
        load_data(config(path), True)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([MESSAGES[0], MESSAGES[1] | {"tool_calls": [{"id": "1"}]}], "tool_calls"),
        ([MESSAGES[0], {"role": "assistant", "content": None, "tool_calls": [1]}], "tool_calls"),
    ],
)
def test_tool_calls_are_refused_by_name(tmp_path: Path, messages: Any, reason: str) -> None:
    """They were left out of the prompt without a word."""
    rows = [*chats(20), {"messages": messages}]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=reason):
        load_data(config(tmp_path / "chats.jsonl"), True)


def test_a_completion_of_the_user_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": [MESSAGES[0]], "completion": [MESSAGES[0]]}] * 5
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match="completion holds messages of user"):
        load_data(config(tmp_path / "pairs.jsonl"), True)
