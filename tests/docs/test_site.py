"""``make docs``: the site builds without warnings and loads nothing from the network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings")

ROOT = Path(__file__).parents[2]
LOADED = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(https?:)?//[^>]*>")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder of a site built with all links and anchors checked."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return folder


def test_nothing_is_loaded_from_the_network(site):
    for page in site.rglob("*.html"):
        loaded = [tag.group(0) for tag in LOADED.finditer(page.read_text()) if "rel=canonical" not in tag.group(0)]
        assert not loaded, f"{page.name}: {loaded}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import ['\"]?https?:", sheet.read_text()), sheet


@pytest.mark.parametrize(
    ("page", "content"),
    [
        ("reference/api.html", "load_encoder"),
        ("reference/configuration.html", "max_concurrent_jobs"),
        ("reference/cli.html", "hpc-jepa study submit"),
        ("contributing.html", "pre-commit"),
        ("changelog.html", "0.2.0"),
    ],
)
def test_generated_pages_have_their_content(site, page, content):
    assert content in (site / page).read_text()
