"""Lines stay distinct for any number of variants, and every name of a plot has a line."""

import itertools
import re
from importlib.resources import files

import numpy as np
import pytest

from hpc_jepa.report.line_plots import MOST_LABELLED, PANELS, Line, draw_lines, line_styles, spread_out
from hpc_jepa.report.write_report import write_report

VISION = {
    "full": np.eye(3),
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
"""Linear RGB as seen, Machado, Oliveira & Fernandes (2009), severity 1."""


def lines_of(names):
    return [Line(name, (0, 1, 2), (0.1 * number, 0.2, 0.3 + 0.01 * number)) for number, name in enumerate(names)]


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg)


@pytest.mark.parametrize("count", [1, MOST_LABELLED, MOST_LABELLED + 1, 28, 40])
def test_every_name_is_written_once_at_its_lines(count):
    names = [f"variant_{number}" for number in range(count)]
    drawings = draw_lines(lines_of(names), "step", "loss", {name: number for number, name in enumerate(names)}, True)
    written = [text for drawing in drawings for text in texts(drawing) if text.startswith("variant_")]
    assert sorted(written) == sorted(names)
    assert len(drawings) == (1 if count <= MOST_LABELLED else -(-count // PANELS))


@pytest.mark.parametrize("places", [{}, {f"v{n}": n for n in range(40)}, {f"v{n}": 8 * n for n in range(40)}])
def test_styles_of_one_plot_are_all_different(places):
    names = [f"v{number}" for number in range(MOST_LABELLED - 1)] + ["random_init"]
    styles = line_styles(names, places)
    assert styles.keys() == set(names)
    assert len(set(styles.values())) == len({style.marker for style in styles.values()}) == len(names)
    placed = {styles[name].colour for name in names if name in places}
    assert len(placed) == sum(name in places for name in names)


def test_a_variant_keeps_its_colour_where_no_other_has_it():
    places = {"a": 0, "b": 5, "c": 8}
    assert line_styles(["b"], places)["b"] == line_styles(["a", "b"], places)["b"]


def test_labels_are_apart_and_inside():
    found = spread_out([0.0, 0.0, 0.01, 0.98, 1.0], 0.15, 0.0, 1.0)
    assert np.diff(found).min() >= 0.15 - 1e-9 and found[0] >= 0 and found[-1] <= 1
    assert spread_out([0.2, 0.6], 0.1, 0.0, 1.0) == pytest.approx([0.2, 0.6])
    assert spread_out([0.5, 0.5, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.4, 0.5, 0.6])


def test_only_variants_with_data_are_named_in_a_plot(write):
    for variant in ("baseline", "ld", "fwm"):
        run = write.run(variant)
        write.evaluated(run, {"target": {"linear": 0.5}})
        if variant == "fwm":
            (run / "metrics.jsonl").unlink()
    write.few_shot(write.root / "demo/quickstart/ld/seed-0", {1: 0.3, 5: 0.4})
    page = (write_report([write.root / "demo"]).folder / "index.html").read_text()
    plots = dict(
        re.findall(r'<figure class="plot[^"]*">\s*<figcaption>(.*?)</figcaption>(.*?)</figure>', page, re.DOTALL)
    )
    variants = {"baseline", "ld", "fwm"}
    assert variants & set(texts(plots["Total loss"])) == {"baseline", "ld"}
    assert variants & set(texts(plots["motion8, standard, quickstart"])) == {"ld"}
    assert 'class="legend"' not in page


def test_regimes_have_plots_of_their_own(write):
    for regime in ("quickstart", "mixed"):
        write.evaluated(write.run(regime=regime), {"target": {"linear": 0.5}})
    page = (write_report([write.root / "demo"]).folder / "index.html").read_text()
    titles = re.findall(r"<figcaption>(Total loss[^<]*)</figcaption>", page)
    assert len(titles) == 2 and {"quickstart", "mixed"} == {title.split(", ")[1] for title in titles}


def test_seeds_of_a_variant_share_its_label(write):
    for seed in range(3):
        write.evaluated(write.run("ld", seed=seed), {"target": {"linear": 0.5}})
    page = (write_report([write.root / "demo"]).folder / "index.html").read_text()
    (drawing,) = re.findall(r"<figcaption>Total loss</figcaption>(.*?)</figure>", page, re.DOTALL)
    assert texts(drawing).count("ld") == 1


def palettes():
    style = (files("hpc_jepa.report") / "style.css").read_text()
    found = re.findall(r"--series-(\d): (#[0-9a-f]{6})", style)
    return [dict(found[start : start + 8]) for start in range(0, len(found), 8)]


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_for_colour_blind_readers(vision):
    """Euclidean distance in CIELAB; 2.3 is just noticeable side by side."""
    assert len(palettes()) == 3  # light, dark, print
    for palette in palettes():
        seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in palette.values()]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 11


def linear(colour):
    shares = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(matrix) @ np.clip(rgb, 1e-3, 1) / [0.9505, 1, 1.0888])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
