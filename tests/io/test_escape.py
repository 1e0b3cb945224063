"""Texts that come from files and data sets, in each medium."""

import csv
import html
import io
import shlex
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown import markdown as to_html
from rich.table import Table

from hpc_jepa.io.escape import SafeConsole, csv_cell, markdown, shell_command, visible

HOSTILE = ["[v2]", "x[/y]", "[bold]b[/]", ":smile:", "\x1b[31mred\x1b[0m", "a\rb", "\u202egnp", "\x9b2J", "\udc80"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_shows_every_character(text):
    buffer = io.StringIO()
    console = SafeConsole(file=buffer, width=80, force_terminal=True, color_system=None, highlight=False)
    table = Table(text, title=text)
    table.add_row(text)
    console.print(text, table)
    shown = buffer.getvalue()
    assert shown.count(visible(text)) == 4
    assert shown.isprintable() or not set(shown) & set("\x1b\r\x9b\u202e\udc80")


@given(st.text())
def test_visible_text_encodes_and_has_no_control_characters(text):
    shown = visible(text)
    assert not {unicodedata.category(char) for char in shown.replace("\n", "").replace("\t", "")} & {"Cc", "Cf", "Cs"}
    shown.encode()


@given(st.text())
def test_a_shell_sees_one_word_for_each_word(text):
    assert shlex.split(shell_command("hpc-jepa", text, "x")) == ["hpc-jepa", text, "x"]


def test_no_path_is_an_option_of_a_command():
    assert shell_command("rm", Path("-rf"), "-v") == "rm ./-rf -v"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1"])
def test_a_spreadsheet_sees_no_formula(text):
    frame = pd.DataFrame({"x": [text, -1.5, "-1.5", "plain", "1e-3", None]}).map(csv_cell)
    rows = list(csv.DictReader(io.StringIO(frame.to_csv(index=False))))
    assert [row["x"] for row in rows] == [f"'{text}", "-1.5", "-1.5", "plain", "1e-3", ""]


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "<img src=x>", "a | b", "[x](http://y)", "**b**", "`c`", "# d", "&lt;", "e_f_g"],
)
def test_markdown_shows_the_text_itself(text):
    shown = to_html(f"- {markdown(text)}").removeprefix("<ul>\n<li>").removesuffix("</li>\n</ul>")
    assert "<" not in shown
    assert html.unescape(shown).replace("\\", "") == text
