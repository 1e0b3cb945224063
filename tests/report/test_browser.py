"""The page in a real browser: no console errors, and a correct layout on desktop and phone widths."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from hpc_jepa.report.published_results import PUBLISHED_RESULTS
from hpc_jepa.report.write_report import write_report
from tests.waiting import run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")

MEASURE = """<script>
const boxes = selector => [...document.querySelectorAll(selector)].map(e => e.getBoundingClientRect())
  .map(box => ({left: box.left, right: box.right, top: box.top, bottom: box.bottom}));
const found = {width: innerWidth, scroll: document.documentElement.scrollWidth, tables: boxes("table.grid"),
  cells: boxes("th, td").filter(box => box.bottom > box.top), headings: [...document.querySelectorAll("th")]
  .filter(e => e.getBoundingClientRect().height).map(e => e.firstChild ? e.firstChild.textContent.trim() : ""),
  frames: boxes(".scroll").filter(box => box.bottom > box.top), plots: boxes("figure.plot svg"),
  requests: performance.getEntriesByType("resource").length};
parent.postMessage(JSON.stringify(found), "*");
</script>"""

PRINTED_WIDTH = 688
"""A4 within the margins of the page, at 96 pixels per inch."""

SHOTS = (2, 3, 5, 10, 20, 50)

SHELL = """<body style="margin:0"><iframe src="measured.html" style="border:0;width:{width}px;height:900px"></iframe>
<script>addEventListener("message", event => document.body.textContent = event.data)</script></body>"""


def browse(page, *options) -> subprocess.CompletedProcess:
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *quiet, profile, "--hide-scrollbars", *options, page.as_uri()]
    finished = run(command)
    finished.check_returncode()
    return finished


def console_messages(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "CONSOLE" in line or "Uncaught" in line]


def layout(page, width: int) -> dict:
    """Bounding boxes of tables and plots in a window of ``width`` pixels."""
    (page.parent / "measured.html").write_text(page.read_text().replace("</body>", MEASURE + "</body>"))
    shell = page.parent / "shell.html"
    shell.write_text(SHELL.format(width=width))
    shown = browse(shell, "--dump-dom", f"--window-size={max(width, 500)},900", "--virtual-time-budget=5000")
    assert console_messages(shown.stderr) == []
    return json.loads(re.search(r"\{.*\}", shown.stdout, re.DOTALL)[0])


@pytest.fixture
def page(study):
    return write_report([study], published=PUBLISHED_RESULTS).folder / "index.html"


def test_console_errors_are_detected(tmp_path):
    faulty = tmp_path / "faulty.html"
    faulty.write_text("<script>console.error('boo')</script>")
    assert len(console_messages(browse(faulty, "--dump-dom").stderr)) == 1


def test_the_page_renders_without_console_errors(page, tmp_path):
    picture = tmp_path / "page.png"
    shown = browse(page, f"--screenshot={picture}", "--window-size=1280,2400")
    assert console_messages(shown.stderr) == []
    pixels = np.asarray(Image.open(picture).convert("L"))
    assert pixels.shape == (2400, 1280)
    inked = (pixels < 128).any(axis=1)
    assert all(part.any() for part in np.array_split(inked, 12))  # content in every 200 pixels


@pytest.mark.parametrize("width", [1280, 390])
def test_tables_and_plots_fit_the_window_without_overlap(page, width):
    found = layout(page, width)
    assert found["width"] == width and found["scroll"] <= width and found["requests"] == 0
    assert len(found["tables"]) == 4 and len(found["plots"]) > 20
    assert all(box["right"] - box["left"] > 150 and box["bottom"] > box["top"] for box in found["tables"])
    assert all(box["left"] >= 0 and box["right"] <= width for box in (*found["frames"], *found["plots"]))
    assert all(box["right"] - box["left"] > 200 and box["bottom"] - box["top"] > 40 for box in found["plots"])
    assert not any(overlap(a, b) for i, a in enumerate(found["plots"]) for b in found["plots"][i + 1 :])


@pytest.mark.parametrize("benchmarks", [3, 9])
@pytest.mark.parametrize("width", [PRINTED_WIDTH, 400])
def test_no_column_is_lost_in_print_or_in_a_narrow_window(write, benchmarks, width):
    """On paper all visible cells are on the page, and every column and row is named; in a window tables scroll."""
    names = [f"benchmark_{number}" for number in range(benchmarks)]
    for variant in ("baseline", "kinematic_split"):
        run = write.run(variant)
        for number, name in enumerate(names):
            write.evaluated(run, {"target": {"linear": 0.3 + 0.01 * number}}, salt=number, benchmark=name)
        write.few_shot(run, dict.fromkeys(SHOTS, 0.3))
    page = write_report([write.root / "demo"], published=PUBLISHED_RESULTS).folder / "index.html"
    printed = width == PRINTED_WIDTH
    if printed:
        page.write_text(page.read_text().replace("@media print", "@media all"))
    found = layout(page, width)
    assert found["scroll"] <= width
    if printed:
        assert all(box["left"] >= 0 and box["right"] <= width + 1 for box in found["cells"])
    shown = set(found["headings"])
    assert {f"{name}, standard, linear" for name in names} | {"kinematic_split"} <= shown
    assert {f"{shots} shots" for shots in SHOTS} <= shown
    assert all(sum(heading == f"{name}, standard, linear" for heading in found["headings"]) == 1 for name in names)


def overlap(a: dict, b: dict) -> bool:
    return a["left"] < b["right"] and b["left"] < a["right"] and a["top"] < b["bottom"] and b["top"] < a["bottom"]
