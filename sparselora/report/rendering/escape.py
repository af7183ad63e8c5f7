"""Names from configs → text that no document takes for its own markup."""

import html
import re


def one_line(text: str) -> str:
    """Without line ends, which would end a comment, a cell or a heading."""
    return " ".join(text.split())


def plain_markdown(text: str) -> str:
    """What Markdown shows as the characters themselves, HTML included."""
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", html.escape(one_line(text), quote=False))
