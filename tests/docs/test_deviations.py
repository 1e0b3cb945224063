"""The register of deviations: complete, each entry attributed, and inherited ones with their place upstream."""

import re
from pathlib import Path

import pytest

from hpc_jepa.config.semantics import SWITCHES

ROOT = Path(__file__).parents[2]
MENTION = re.compile(r"\bB\d{1,2}\b(?!\w)")
KINDS = {"inherited", "own", "own, on inherited code"}


@pytest.fixture(scope="module")
def entries() -> dict[str, list[str]]:
    """Cells of each entry."""
    lines = (ROOT / "docs/deviations.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| B\d+ \|", line)]
    return {row[0]: row[1:] for row in cells}


def test_the_register_is_complete_and_each_entry_is_attributed(entries):
    assert list(entries) == [f"B{number}" for number in range(1, 25)]
    for entry, (behaviour, whose, upstream, _) in entries.items():
        assert behaviour and whose in KINDS, entry
        assert whose == "own" or re.search(r"`[\w/]+\.py`", upstream), f"{entry}: no place in V-JEPA 2.1"


def test_every_entry_that_code_and_pages_mention_is_in_the_register(entries):
    files = [*ROOT.glob("docs/*.md"), *ROOT.glob("hpc_jepa/**/*.py"), *ROOT.glob("hpc_jepa/**/*.yaml")]
    named = {name: path for path in files for name in MENTION.findall(path.read_text())}
    assert set(named) <= set(entries), {name: path for name, path in named.items() if name not in entries}


def test_the_register_names_switches_that_exist_and_semantics_says_whose_each_is(entries):
    switches = {name for *_, switch in entries.values() for name in re.findall(r"`(\w+)`", switch)}
    known = {*SWITCHES, "hw", "ld_forecast", "ac_forecast"}
    assert switches <= known, switches - known
    page = (ROOT / "docs/semantics.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", page, flags=re.M))
    assert set(rows) == set(SWITCHES)
    for name, line in rows.items():
        whose, why = (cell.strip() for cell in line.rstrip("|").split("|")[2:4])
        mentioned = [entries[entry][1] for entry in MENTION.findall(why)]
        assert ("V-JEPA 2.1" in whose) == ("inherited" in mentioned), name
