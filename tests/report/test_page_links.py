"""Links from numbers to records, seeds in every cell, and seeds that would tell a difference apart."""

import json
import re
import shutil
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest

from hpc_jepa.config.study import StudyConfig
from hpc_jepa.evaluation.stats.planning import FamilyTest, Spread, power
from hpc_jepa.report.seeds_needed import count_seeds_needed
from hpc_jepa.report.write_report import write_report
from tests.report.asked_study import AskedStudy, asking
from tests.report.simulated_study import SimulatedStudy

SEEDS = (3, 5, 8)
GAINS = {"baseline": 0.0, "fwm": 0.4, "ld": 0.03, "hw": 0.02}


class Cells(HTMLParser):
    """Of the first grid: by row, the text and the addresses of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.inside, self.heading, self.done = {}, False, False, False
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "a":
            self.addresses.append(attrs["href"])
        if tag == "table" and attrs.get("class") == "grid" and not self.done:
            self.inside = True
        if self.inside and tag == "th" and attrs.get("scope") == "row":
            self.heading = True
        if self.inside and tag == "td":
            self.rows[self.row].append(["", []])
        if self.inside and tag == "a":
            self.rows[self.row][-1][1].append(attrs["href"])

    def handle_data(self, data):
        if self.heading:
            self.row, self.heading = data.strip(), False
            self.rows[self.row] = []
        elif self.inside and self.rows and self.rows[self.row]:
            self.rows[self.row][-1][0] += data

    def handle_endtag(self, tag):
        if tag == "table" and self.inside:
            self.inside, self.done = False, True


def cells_of(page) -> Cells:
    found = Cells()
    found.feed(page.read_text())
    return found


def target(page, address):
    assert not address.startswith(("/", "http", "file", "javascript")), address
    return (page.parent / unquote(address)).resolve()


@pytest.fixture
def simulated(tmp_path):
    study = StudyConfig.model_validate(
        {
            "study": "étude.1",
            "regimes": ["quickstart"],
            "variants": list(GAINS),
            "seeds": list(SEEDS),
            "evaluations": [{"benchmark": "motion8", "protocols": ["standard"]}],
        }
    )
    writer = SimulatedStudy(tmp_path / "runs 100% #1", lambda config, *_: 0.3 + GAINS[config.variant], clips=400)
    return writer.write(study)


def test_every_cell_counts_its_seeds_and_links_to_the_record_of_each(simulated):
    page = write_report([simulated]).folder / "index.html"
    found = cells_of(page)
    assert found.rows.keys() == {"random_init", *GAINS}
    for row, cells in found.rows.items():
        for text, addresses in cells:
            records = [json.loads(target(page, address).read_text()) for address in addresses]
            assert [record["run"]["seed"] for record in records] == list(SEEDS)
            assert row == "random_init" or {record["run"]["variant"] for record in records} == {row}
            assert f"{len(SEEDS)} seeds" in text
    assert all(target(page, address).is_file() for address in found.addresses)


def test_links_hold_after_the_study_was_moved(simulated, tmp_path):
    write_report([simulated])
    moved = shutil.move(simulated, tmp_path / "elsewhere")
    page = moved / "report" / "index.html"
    addresses = cells_of(page).addresses
    assert len(addresses) > 20
    assert all(target(page, address).is_relative_to(moved) and target(page, address).is_file() for address in addresses)


def test_a_page_outside_its_study_names_where_the_records_are(simulated, tmp_path):
    inside = write_report([simulated]).folder / "index.html"
    page = write_report([simulated], tmp_path / "beside").folder / "index.html"
    assert str(simulated) in page.read_text().split("<table", 1)[0]
    assert str(simulated) not in inside.read_text().split("<table", 1)[0]
    assert all(target(page, address).is_file() for address in cells_of(page).addresses)


def test_a_probe_that_was_chosen_on_test_clips_is_marked(study):
    (path,) = study.glob("quickstart/baseline/seed-0/eval/*.json")
    before = (write_report([study]).folder / "index.html").read_text()
    record = json.loads(path.read_text())
    record["results"][-1]["selected_on"] = "test"
    path.write_text(json.dumps(record))
    after = (write_report([study]).folder / "index.html").read_text()
    assert "‡" not in before
    assert re.search(r'<a class="value"[^>]*>[\d.]+‡</a>', after)


def test_seeds_are_named_where_a_difference_is_not_told_apart(simulated):
    report = write_report([simulated])
    (scores,), (grid,) = report.data.scores, report.data.grids
    needed = count_seeds_needed(scores, grid)
    (column,) = grid.columns
    open_rows = {row for row, contrast in grid.contrasts(column) if contrast.asked and not contrast.significant}
    assert grid.cell("fwm", column).contrast.significant and {row for row, _ in needed.cells} == open_rows
    assert open_rows and all(seeds is None or seeds > len(SEEDS) for seeds in needed.cells.values())
    page = report.folder / "index.html"
    for (row, _), seeds in needed.cells.items():
        assert f"≈ {seeds} seeds" in cells_of(page).rows[row][0][0] if seeds else True
    assert "≈" not in cells_of(page).rows["fwm"][0][0]


def test_seeds_needed_have_the_power_of_the_measured_spread(simulated):
    """The spread between seeds recomputed from the records: the number is the smallest with 80 % power."""
    report = write_report([simulated])
    (scores,), (grid,) = report.data.scores, report.data.grids
    found = count_seeds_needed(scores, grid).cells
    (column,) = scores.columns.values()
    rows = [name for name in column.scores if name[0] in GAINS and name[0] != "baseline"]
    own = {row: np.array([column.scores[row][seed].mean() for seed in SEEDS]) for row in column.scores}
    (baseline,) = (row for row in column.scores if row[0] == "baseline")
    between = np.mean([np.var(own[row] - own[baseline], ddof=1) for row in rows])
    (row, seeds), *_ = [(key[0], seeds) for key, seeds in found.items() if seeds and seeds > len(SEEDS) + 1]
    difference = abs(own[(row, "corrected")].mean() - own[baseline].mean())
    errors = [(one.high - one.low) / 2 / 4.3 for one in (c for _, _, c in grid.all_contrasts() if c.asked)]
    clip_error = np.sqrt(max(np.mean(np.square(np.array(errors) / 100)) - between / len(SEEDS), 0))
    spread = Spread(np.sqrt(between / 2), 0.0, 400, float(clip_error))
    reached = power(spread, "blocked", difference, seeds, FamilyTest(0.05, len(rows)))
    assert 0.65 < reached < 0.93


def test_one_seed_has_no_number_of_seeds(study):
    report = write_report([study])
    needed = [count_seeds_needed(report.data.scores[0], grid) for grid in report.data.grids]
    assert all(not each.cells for each in needed) and sum(each.lone for each in needed) > 0
    assert all(each.sentence for each in needed if each.lone)


@pytest.mark.parametrize("contrast", [{"baseline": True}, {"groups": {"with": ["fwm_ld"], "without": ["baseline"]}}])
def test_answers_link_to_the_records_of_all_their_rows_and_cells_have_their_seeds(contrast, tmp_path):
    def accuracy(config, _):
        return {"baseline": 0.3, "ld": 0.31, "fwm_ld": 0.33}[config.variant]

    folder = AskedStudy(tmp_path / "runs", accuracy).write(asking(contrast))
    report = write_report([folder])
    page = report.folder / "index.html"
    (answer,), (scores,) = report.data.answers, report.data.scores
    text = page.read_text()
    table = text[text.index("<details") : text.index("</details>\n</section>")]
    assert all(target(page, address).is_file() for address in cells_of(page).addresses)
    for asked in answer.contrasts:
        assert all(f"/{row}/seed-{seed}/eval/" in table for row in asked.weights for seed in (0, 1, 2))
        if asked.needed is not None and asked.needed.seeds is not None:
            (row,) = [name for name, weight in asked.weights.items() if weight > 0]
            assert f"≈ {asked.needed.seeds} seeds" in cells_of(page).rows[row][0][0]
    assert scores.study == answer.study


def test_sections_without_results_are_left_out(tmp_path):
    folder = AskedStudy(tmp_path / "runs", lambda *_: 0.4).write(asking({"baseline": True}, task="few_shot"))
    page = (write_report([folder]).folder / "index.html").read_text()
    sections = re.findall(r"<section>(.*?)</section>", page, re.DOTALL)
    assert len(sections) > 4
    for section in sections:
        without_notes = re.sub(r'<h2>.*?</h2>|<p class="note">.*?</p>', "", section, flags=re.DOTALL)
        assert re.search(r"\w", re.sub(r"<[^>]*>", "", without_notes)), section[:200]
