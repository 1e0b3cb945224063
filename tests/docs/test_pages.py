"""Diagrams, links and file names of the documentation."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.S | re.M)
PATH = re.compile(r"`((?:hpc_jepa|tests|tools|docs|configs|slurm)/[\w./-]+\.\w+)`")
WRITTEN_BY_THE_READER = re.compile(r"mysite|posterize|variance|frame_difference|sports")


@pytest.fixture(scope="module")
def diagrams():
    spec = importlib.util.spec_from_file_location("diagrams", ROOT / "docs" / "diagrams.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_name_in_a_diagram_is_in_its_file(diagrams):
    for stage in (stage for walk in diagrams.WALKS.values() for stage in walk):
        text = (ROOT / stage.path).read_text()
        definition = rf"\b{stage.name}\b" if stage.path.endswith(".sh") else rf"^(\s*(class|def) )?{stage.name}\b"
        assert re.search(definition, text, re.M), f"{stage.path} has no {stage.name}"


def test_drawings_are_up_to_date(diagrams):
    for name, drawing in diagrams.drawings().items():
        assert (diagrams.IMAGES / name).read_text() == drawing, "run: python docs/diagrams.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_named_files_exist(page):
    text = page.read_text()
    for target, _ in LINK.findall(FENCE.sub("", text)):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page}: broken link {target}"
    for path in PATH.findall(text):
        assert (ROOT / path).exists() or WRITTEN_BY_THE_READER.search(path), f"{page}: no file {path}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f"{page.relative_to(ROOT / 'docs')}" in navigation


def test_the_snippet_of_the_home_page(capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "index.md").read_text(), re.S)
    exec(snippet, {})
    assert "ld" in capsys.readouterr().out
