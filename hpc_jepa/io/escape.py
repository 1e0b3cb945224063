"""Texts from files and data sets, made harmless for each medium: terminal, shell, CSV, Markdown.

HTML and LaTeX are escaped by jinja2 and in ``report/export_tables.py``.
"""

import html
import re
import shlex
import unicodedata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of control and invisible characters, halves of surrogate pairs, and line separators."""
FORMULA = re.compile(r"\s*[=+\-@]")
NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
MARKDOWN = re.compile(r"([\\`*\[\]|~#]|(?<![^\W_])_|_(?![^\W_]))")
"""An underscore inside a word has no meaning."""


class SafeConsole(Console):
    """Prints texts as they are: nothing in them is markup, and control characters are visible."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text without control characters; called for every string, also in tables."""
        return super().render_str(visible(text), **options)


def visible(text: str) -> str:
    """Control and invisible characters as ``\\x1b``: they could colour, hide or rewrite what a terminal shows."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in HIDDEN_CATEGORIES else ascii(char)[1:-1]
        for char in text
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none; at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def shell_command(*words: str | Path) -> str:
    """A command to copy into a shell, with quotes where a word needs them; no path of it is taken for an option."""
    paths = (f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words)
    return shlex.join(paths)


def csv_cell(value: Any) -> Any:
    """A visible text, with an apostrophe before it where a spreadsheet would take it for a formula.

    Numbers and other values are unchanged.
    """
    if not isinstance(value, str):
        return value
    formula = FORMULA.match(value) and not NUMBER.fullmatch(value)
    return f"'{visible(value)}" if formula else visible(value)


def markdown(text: str) -> str:
    """Text of one line, without the meaning that its characters have in Markdown and HTML."""
    return MARKDOWN.sub(r"\\\1", html.escape(visible(" ".join(text.split())), quote=False))
