"""The page about faults has every row of the matrix, and every named test exists."""

import ast
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from rows import ROWS

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "faults.md"


def as_table(rows):
    """The rows in Markdown."""
    lines = ["| fault | promise | layer | test |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.promise} | {row.layer} | `tests/{row.test}` |" for row in rows]
    return "\n".join(lines)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_named_test_exists(row):
    path, _, name = row.test.partition("::")
    tree = ast.parse((TESTS / path).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_page_has_the_matrix():
    assert as_table(ROWS) in PAGE.read_text(), f"replace the table in {PAGE} by:\n{as_table(ROWS)}"


def test_every_fault_test_is_in_the_matrix():
    named = {row.test.rpartition("::")[2] for row in ROWS}
    for path in ("test_file_system.py", "test_processes.py", "test_signals.py"):
        defined = set(re.findall(r"^def (test_\w+)", (Path(__file__).parent / path).read_text(), re.M))
        assert defined <= named, path
