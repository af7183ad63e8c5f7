"""Escape names from configs, so that no document takes them for its own markup."""

import html
import re


def one_line(text: str) -> str:
    """Join the lines of a text, since a line end would end a comment, a cell or a heading."""
    return " ".join(text.split())


def plain_markdown(text: str) -> str:
    """Escape a text, so that Markdown shows its characters themselves, HTML included."""
    return re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", html.escape(one_line(text), quote=False))
