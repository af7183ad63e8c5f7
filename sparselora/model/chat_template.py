"""Render a conversation as the text that a tokenizer's chat template makes of it."""

from collections.abc import Sequence
from typing import Any

from sparselora.errors import UserError, in_one_line

WITHOUT = "task.chat_template=false leaves the template out"


def render_chat(
    tokenizer: Any, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True
) -> str:
    """Return the text of a conversation by the tokenizer's own chat template.

    Raises:
        UserError: the template raises, or renders nothing.
    """
    try:
        chat: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except Exception as error:  # a template is a program, and raises anything
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise UserError(
            f"task.chat_template=true: the tokenizer's chat template fails on a conversation of the "
            f"roles {roles} ({in_one_line(error)}); {WITHOUT}"
        ) from error
    if not chat.strip():
        raise UserError(
            f"task.chat_template=true: the tokenizer's chat template renders nothing; {WITHOUT}"
        )
    return chat


def check_user_messages(tokenizer: Any) -> None:
    """Raise a `UserError` where the chat template fails on a user's message or leaves it out."""
    texts = {
        render_chat(tokenizer, [{"role": "user", "content": content}])
        for content in ("first words", "other words")
    }
    if len(texts) == 1:
        raise UserError(
            "task.chat_template=true: the tokenizer's chat template leaves out what the user says; "
            f"{WITHOUT}"
        )
