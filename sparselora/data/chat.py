"""Read chat data: messages of role and content, as a prompt and the answer that completes it.

Two of TRL's formats are read as they are: a column of `messages`, whose last one is the assistant's, and
`prompt` with `completion`, each a text or a list of messages.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sparselora.data.splits import Message
from sparselora.errors import UserError

MESSAGES = "messages"
PROMPT, COMPLETION = "prompt", "completion"
FORMAT = "[{role: user, content: …}, …, {role: assistant, content: …}]"


def holds_messages(values: "pd.Series[Any]") -> bool:
    """Return whether the first cell that is there is a list."""
    return any(isinstance(value, list | np.ndarray) for value in _first(values))


def _first(values: "pd.Series[Any]") -> Sequence[Any]:
    for value in values.astype(object):
        if isinstance(value, list | tuple | np.ndarray | dict | str):
            return [value]
    return []


def of_messages(values: "pd.Series[Any]", name: str, source: str) -> pd.DataFrame:
    """Return `chat`, the messages before the assistant's last one, its `text`, and `completion`.

    Raises:
        UserError: a cell that is no list of messages, or whose last one is not the assistant's.
    """
    rows = []
    for index, value in enumerate(values.astype(object)):
        where = f"{source}, row {index}: {name}"
        messages = _messages(value, where)
        if messages and messages[-1]["role"] != "assistant":
            raise UserError(
                f"{where}: ends with a message of {messages[-1]['role']}; the last one has to be the "
                "assistant's, which is what is learnt"
            )
        rows.append((messages[:-1] or None, messages[-1]["content"]) if messages else (None, None))
    return _rows(rows, values.index)


def of_prompts(
    prompts: "pd.Series[Any]", completions: "pd.Series[Any]", source: str
) -> pd.DataFrame:
    """Return `chat`, its `text` and `completion`, of prompts that are lists of messages.

    Each completion is one message, or a text.

    Raises:
        UserError: a cell that is no list of messages, or a completion of several.
    """
    rows = []
    pairs = zip(prompts.astype(object), completions.astype(object), strict=True)
    for index, (prompt, completion) in enumerate(pairs):
        where = f"{source}, row {index}"
        before = _messages(prompt, f"{where}: {PROMPT}")
        answer = _messages(completion, f"{where}: {COMPLETION}")
        if len(answer) > 1 or any(message["role"] != "assistant" for message in answer):
            raise UserError(
                f"{where}: {COMPLETION} holds messages of {', '.join(m['role'] for m in answer)}; one of "
                "the assistant is allowed"
            )
        rows.append((before or None, answer[0]["content"] if answer else None))
    return _rows(rows, prompts.index)


def _rows(rows: Sequence[tuple[list[Message] | None, str | None]], index: pd.Index) -> pd.DataFrame:
    text = ["\n".join(message["content"] for message in chat) if chat else None for chat, _ in rows]
    chats = pd.Series([chat for chat, _ in rows], index=index, dtype=object)
    answers = pd.Series([answer for _, answer in rows], index=index, dtype=object)
    return pd.DataFrame({"text": pd.Series(text, index=index, dtype=object), "chat": chats}).assign(
        completion=answers
    )


def _messages(value: Any, where: str) -> list[Message]:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return []
    if not isinstance(value, list | tuple | np.ndarray):
        raise UserError(f"{where}: is a {type(value).__name__}; {FORMAT} is allowed")
    messages: list[Message] = []
    for message in value:
        if isinstance(message, Mapping) and _is_there(message.get("tool_calls")):
            raise UserError(
                f"{where}: holds tool_calls, which no prompt or completion of this task can hold; rows "
                "without tool calls are allowed"
            )
        role = message.get("role") if isinstance(message, Mapping) else None
        content = _content(message.get("content")) if isinstance(message, Mapping) else None
        if not isinstance(role, str) or content is None:
            raise UserError(f"{where}: holds {str(message)[:60]!r}; {FORMAT} is allowed")
        messages.append({"role": role, "content": content})
    return messages


def _is_there(value: Any) -> bool:
    return (
        value is not None
        and value is not pd.NA
        and (not hasattr(value, "__len__") or len(value) > 0)
    )


def _content(content: Any) -> str | None:
    """Return a text, whole or in parts; None where it is anything else."""
    if isinstance(content, list | np.ndarray):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts and len(texts) == len(parts) else None
    return content if isinstance(content, str) else None
