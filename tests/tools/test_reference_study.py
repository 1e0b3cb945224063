"""The page of the reference study, recomputed from its shipped records with NumPy and SciPy alone; and the tool."""

import csv
import json
import math
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
import pytest
import yaml
from reference_figure import DIGEST, digest
from reference_study import FIGURE, PAGE, RECORDS, collect_records
from reference_tables import BLOCK, blocks, correlation_of_seeds, fill, read_study
from scipy import optimize, special, stats
from statsmodels.stats.multitest import multipletests
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.errors import InputError
from hpc_jepa.report.report_data import collect_run_data
from hpc_jepa.report.run_report import find_runs
from hpc_jepa.runs.run_dir import RunDir
from tests.study.planted import PlantedStudy

BENCHMARKS = {"motion8_linear": "target.linear_tubelets", "digits_linear": "target.linear"}
"""The predictions that decide."""
BASELINE = "baseline"


@pytest.fixture(scope="module")
def study():
    return read_study(RECORDS)


@pytest.fixture(scope="module")
def printed():
    """Cells of each computed table of the page, without its header."""
    return {match["name"]: table(match[0]) for match in BLOCK.finditer(PAGE.read_text())}


def table(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


class Recomputed:
    """Differences on one benchmark, from the predictions of all runs."""

    def __init__(self, benchmark: str) -> None:
        self.scores: dict[tuple[str, str], dict[int, np.ndarray]] = {}
        for path in RECORDS.glob(f"reference/*/*/*/eval/{benchmark}.standard.npz"):
            run = json.loads(path.with_suffix(".json").read_text())["run"]
            with np.load(path) as arrays:
                right = (arrays[BENCHMARKS[benchmark]] == arrays["labels"]).mean(axis=0)
                self.videos = np.unique(arrays["clusters"], return_inverse=True)[1]
            self.scores.setdefault((run["variant"], run["semantics"]), {})[run["seed"]] = right
        self.seeds = sorted(self.scores[BASELINE, "corrected"])

    def gains(self, first, second) -> np.ndarray:
        """[S, n]."""
        return np.stack([self.scores[first][seed] - self.scores[second][seed] for seed in self.seeds])

    def parts(self, gain):
        """Mean, differences of the seeds, and the variances over seeds, videos and their interaction."""
        seeds, n = gain.shape
        groups = self.videos.max() + 1
        sizes = np.bincount(self.videos)

        def by_video(values):
            return np.bincount(self.videos, values)

        means, value = gain.mean(axis=1), gain.mean()
        over_seeds = by_video(gain.mean(axis=0)) - value * sizes
        between = max(np.sum(over_seeds**2) * groups / (groups - 1) / n**2, 2 / (n + 2) ** 2)
        if seeds == 1:
            return value, means, 0.0, between, 0.0
        residual = [by_video(gain[s]) - by_video(gain.mean(axis=0)) - (means[s] - value) * sizes for s in range(seeds)]
        both = np.sum(np.square(residual)) * groups / (groups - 1) / (seeds - 1) / seeds / n**2
        spread, least = means.var(ddof=1), 1 / 12 / n**2
        if spread < least:  # equal to the last clip by chance
            spread = max(both * seeds, least)
        return value, means, spread / seeds, between, both

    def interval(self, parts, seed_variance, seed_df):
        """Value, standard error and degrees of freedom (Satterthwaite)."""
        value, means, _, between, both = parts
        video_df = self.videos.max()
        clip = max(between - both, 0.0)
        spread = seed_variance**2 / seed_df
        if clip > 0:
            spread += between**2 / video_df + both**2 / max((len(means) - 1) * video_df, 1)
        return value, math.sqrt(seed_variance + clip), max(1.0, (seed_variance + clip) ** 2 / spread)

    def family(self, semantics: str):
        """Value, error and df of every row against the baseline, and correlation and df that all share."""
        rows = [row for row in self.scores if row[1] == semantics and row[0] != BASELINE]
        parts = {row: self.parts(self.gains(row, (BASELINE, semantics))) for row in rows}
        if len(self.seeds) == 1:
            return {row: self.interval(found, 0.0, 1.0) for row, found in parts.items()}, 0.0, math.inf
        means = np.stack([found[1] for found in parts.values()])
        count, df = len(rows), len(self.seeds) - 1
        covariance = np.atleast_2d(np.cov(means))
        share = (covariance.sum() - np.trace(covariance)) / (count - 1) / np.trace(covariance)
        share = min(1.0, max(0.0, share))
        own = np.array([found[2] for found in parts.values()]) * len(self.seeds)
        variance, prior_df = prior(own, df)
        floor = 0.5 - 0.2 / df**2 * max(0.0, 1 - 5 / count)
        shared = min(1.0, max(floor, 1.2 * (df * share + 0.5) / (df + 1))) ** 2
        pooled_df = df / (shared + (1 - shared) / count)
        known = pooled_df - df
        added = known if math.isinf(prior_df) else prior_df * known / (prior_df + known)
        found = {}
        for row, each in zip(rows, own, strict=True):
            if stats.f.sf(each / variance, df, min(prior_df, 1e8)) < 0.01:
                moderated, moderated_df = each, df
            else:
                moderated = variance if math.isinf(prior_df) else (prior_df * variance + df * each) / (prior_df + df)
                moderated_df = df + added
            found[row] = self.interval(parts[row], moderated / len(self.seeds), moderated_df)
        return found, min(0.5, share), pooled_df if math.isinf(prior_df) else math.inf

    def contrast(self, weights):
        """Value, error and df of a weighted sum of corrected rows; the prior is that of the residuals of all rows."""
        sides = [weight * np.stack([self.scores[row, "corrected"][seed] for seed in self.seeds])
                 for row, weight in weights.items()]  # fmt: skip
        parts = self.parts(np.sum(sides, axis=0))
        if len(self.seeds) == 1:
            return self.interval(parts, 0.0, 1.0)
        means = np.array([[scores[seed].mean() for seed in self.seeds] for scores in self.scores.values()])
        count, df = len(means), len(self.seeds) - 1
        residual = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
        own = np.square(residual).sum(axis=1) / df * count / (count - 1)
        each = np.array(list(weights.values()))
        squares = np.square(each).sum()
        variance = own.mean() * squares
        prior_df = prior(np.maximum(own, 1 / 12 / len(self.videos) ** 2), df)[1] * squares**2 / (each**4).sum()
        found = parts[2] * len(self.seeds)
        if stats.f.sf(found / variance, df, min(prior_df, 1e8)) < 0.01:
            return self.interval(parts, parts[2], df)
        known = (count - 2) * df
        if math.isinf(prior_df):
            return self.interval(parts, variance / len(self.seeds), df + known)
        moderated = (prior_df * variance + df * found) / (prior_df + df)
        return self.interval(parts, moderated / len(self.seeds), df + prior_df * known / (prior_df + known))


def prior(variances, df):
    """Smyth (2004), section 6.2."""
    logs = np.log(np.maximum(variances, 1e-5 * np.median(variances))) - special.digamma(df / 2) + math.log(df / 2)
    excess = logs.var(ddof=1) - special.polygamma(1, df / 2)
    if excess <= 0:
        return variances.mean(), math.inf
    half = optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-8, 1e12, rtol=1e-14)
    return math.exp(logs.mean() + special.digamma(half) - math.log(half)), 2 * half


def dunnett_level(count: int, correlation: float, df: float) -> float:
    """Error of each of ``count`` two-sided comparisons that share a reference; the arguments rounded as documented."""
    rho, df = math.floor(correlation * 20) / 20, math.exp(math.ceil(math.log(min(max(df, 1), 1e4)) / 0.05) * 0.05)
    z, weights = np.polynomial.hermite_e.hermegauss(80)
    u, steps = np.polynomial.legendre.leggauss(400)
    scales = stats.chi.ppf((u + 1) / 2, df) / math.sqrt(df)
    centre, width = math.sqrt(rho) * z, math.sqrt(1 - rho)

    def coverage(quantile):
        ends = quantile * scales[:, None]
        each = stats.norm.cdf((ends + centre) / width) - stats.norm.cdf((-ends + centre) / width)
        return steps / 2 @ (each**count @ weights / math.sqrt(2 * math.pi))

    highest = stats.t.isf(0.025 / count, df) * 1.01
    quantile = optimize.brentq(lambda q: coverage(q) - 0.95, stats.t.isf(0.025, df) * 0.99, highest, xtol=1e-5)
    return 2 * stats.t.sf(quantile, df)


def label(row) -> str:
    return row[0] if row[1] == "corrected" else f"{row[0]} ({row[1]})"


def percent(value: float) -> Decimal:
    """One digit, halves away from zero."""
    return Decimal(repr(round(100 * float(value), 9))).quantize(Decimal("0.1"), ROUND_HALF_UP)


def signed(value: float) -> str:
    return f"{percent(value) + 0:+}"


def p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


@pytest.fixture(scope="module")
def recomputed():
    return {name: Recomputed(name) for name in BENCHMARKS}


def test_the_tables_of_differences_to_the_digit(printed, recomputed):
    expected, p_values = {}, {}
    for name, data in recomputed.items():
        for semantics in ("corrected", "published"):
            found, correlation, pooled_df = data.family(semantics)
            several = len(data.seeds) > 1
            level = dunnett_level(len(found), correlation, pooled_df) if several else math.nan
            for row, (value, error, df) in found.items():
                margin = stats.t.isf(0.025, df) * error
                wide = stats.t.isf(level / 2, df) * error
                expected[name, label(row)] = (value, margin, wide)
                p_values[name, label(row)] = 2 * stats.t.sf(abs(value) / error, df) if value else 1.0
    adjusted = dict(zip(p_values, multipletests(list(p_values.values()), method="holm")[1], strict=True))
    for name, data in recomputed.items():
        rows = {row[0]: row[1:] for row in printed[f"differences-{name}"] if row[0] != "random_init"}
        assert rows.keys() == {label(row) for row in data.scores}
        for row, scores in data.scores.items():
            accuracy, difference, interval, together, p_value, verdict = rows[label(row)]
            assert accuracy == str(percent(np.mean(list(scores.values()))))
            if row[0] == BASELINE:
                assert (difference, interval, together, p_value, verdict) == ("", "", "", "", "baseline")
                continue
            value, margin, wide = expected[name, label(row)]
            assert difference == signed(value)
            assert interval == f"{signed(value - margin)} to {signed(value + margin)}"
            if len(data.seeds) == 1:
                assert (together, p_value, verdict) == ("", "", "one seed")
                continue
            low, high = map(float, together.split(" to "))
            assert (low, high) == pytest.approx((100 * (value - wide), 100 * (value + wide)), abs=0.05 + 0.2 * wide)
            p = adjusted[name, label(row)]
            assert p_value == p_text(p)
            assert verdict == (("gain" if value > 0 else "loss") if p < 0.05 else "")


def test_the_table_of_semantics_to_the_digit(printed, recomputed):
    expected, p_values = {}, {}
    for name, data in recomputed.items():
        for variant in [row[0] for row in data.scores if row[1] == "published"]:
            parts = data.parts(data.gains((variant, "published"), (variant, "corrected")))
            value, error, df = data.interval(parts, parts[2], max(len(data.seeds) - 1, 1))
            margin = stats.t.isf(0.025, df) * error
            expected[variant, name] = [signed(value), f"{signed(value - margin)} to {signed(value + margin)}"]
            p_values[variant, name] = 2 * stats.t.sf(abs(value) / error, df) if value else 1.0
    assert {(row[0], row[1]): row[2:4] for row in printed["semantics"]} == expected
    adjusted = dict(zip(p_values, multipletests(list(p_values.values()), method="holm")[1], strict=True))
    for variant, name, *_, p_value, verdict in printed["semantics"]:
        several = len(recomputed[name].seeds) > 1
        assert p_value == (p_text(adjusted[variant, name]) if several else "")
        assert (verdict in ("gain", "loss")) == (several and adjusted[variant, name] < 0.05)


CUBES = {
    "ac x fwm": ("baseline", "ac", "fwm", "fac"),
    "ac x hw": ("baseline", "ac", "hw", "ac_hw"),
    "fwm x ld": ("baseline", "fwm", "ld", "fwm_ld"),
    "fwm x hw, all with ld": ("ld", "fwm_ld", "hw_ld", "fwm_hw_ld"),
}
"""Cells with neither factor, the first, the second and both."""
EFFECTS = (-0.5, 0.5, -0.5, 0.5), (-0.5, -0.5, 0.5, 0.5), (1, -1, -1, 1)
"""Weights of the cells in both main effects and the interaction."""


def test_the_factorial_effects_to_the_digit(printed, recomputed):
    expected, p_values = {}, {}
    for name, data in recomputed.items():
        for design, cells in CUBES.items():
            factors = design.partition(",")[0]
            for effect, weights in zip((*factors.split(" x "), factors), EFFECTS, strict=True):
                key = (design, effect, name)
                value, error, df = data.contrast(dict(zip(cells, weights, strict=True)))
                margin = stats.t.isf(0.025, df) * error
                expected[key] = [signed(value), f"{signed(value - margin)} to {signed(value + margin)}"]
                p_values[key] = 2 * stats.t.sf(abs(value) / error, df) if value else 1.0
    assert {tuple(row[:3]): row[3:5] for row in printed["factorial"]} == expected
    adjusted = dict(zip(p_values, multipletests(list(p_values.values()), method="holm")[1], strict=True))
    for *key, _, _, _, p_value, _ in printed["factorial"]:
        several = len(recomputed[key[2]].seeds) > 1
        assert p_value == (p_text(adjusted[tuple(key)]) if several else "")


def test_the_correlation_between_rows_of_one_seed(printed, recomputed):
    for name, data in recomputed.items():
        (row,) = [cells[1:] for cells in printed["correlation"] if cells[0] == name]
        corrected = [scores for row, scores in data.scores.items() if row[1] == "corrected"]
        if len(data.seeds) == 1:
            assert row == ["unknown: one seed", "", ""]
            continue
        covariance = np.cov([[scores[seed].mean() for seed in data.seeds] for scores in corrected])
        count = len(corrected)
        mean = (covariance.sum() - np.trace(covariance)) / count / (count - 1)
        variance = np.trace(covariance) / count
        assert (row[0], row[2]) == (f"{mean / variance:.2f}", f"{100 * math.sqrt(variance):.2f}")


def test_the_half_widths_beside_release_0_1(printed, recomputed):
    """The intervals of 0.1 have a random part, so its half-width is compared with a normal approximation."""
    for name, data in recomputed.items():
        (row,) = [cells[1:] for cells in printed["former"] if cells[0] == name]
        widths, former = [], []
        for semantics in ("corrected", "published"):
            found, *_ = data.family(semantics)
            widths += [stats.t.isf(0.025, df) * error for _, error, df in found.values()]
            former += [
                1.96 * data.gains(each, (BASELINE, semantics)).mean(axis=0).std() / math.sqrt(len(data.videos))
                for each in found
            ]
        assert row[1] == f"{100 * np.mean(widths):.2f}"
        if len(data.seeds) == 1:
            assert float(row[0]) == pytest.approx(100 * np.mean(former), rel=0.02)
        else:
            assert float(row[0]) > 100 * np.mean(former)
        assert float(row[2]) == pytest.approx(float(row[1]) / float(row[0]), abs=0.006)
        gains = [cells for cells in printed[f"differences-{name}"] if cells[-1] in ("gain", "loss")]
        assert int(row[4]) == len(gains)


def test_the_page_and_the_figure_are_up_to_date(study):
    assert fill(PAGE.read_text(), blocks(study)) == PAGE.read_text(), "run: python tools/reference_study.py page"
    assert DIGEST.search(FIGURE.read_text())[1] == digest(study), "run: python tools/reference_study.py page"


@pytest.mark.slow
def test_the_command_of_the_page_reports_the_same_numbers(printed, tmp_path):
    result = CliRunner().invoke(app, ["report", str(RECORDS), "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    with (tmp_path / "grid.csv").open(newline="") as file:
        rows = {(row["benchmark"].partition(",")[0], row["variant"]): row for row in csv.DictReader(file)}
    for name in BENCHMARKS:
        for row, accuracy, difference, *_ in printed[f"differences-{name}"]:
            found = rows[name, row]
            assert float(accuracy) == pytest.approx(float(found["value"]), abs=0.056)
            assert not difference or float(difference) == pytest.approx(float(found["difference"]), abs=0.056)


def test_all_seeds_are_complete_blocks_of_all_rows(study):
    config = yaml.safe_load((RECORDS / "reference" / "study.yaml").read_text())
    runs = {(run.config.variant, run.config.semantics_name, run.config.seed) for run in study.data.runs}
    assert len(runs) == len(config["variants"]) * len(config["seeds"]) == len(study.data.runs)
    assert study.seeds == config["seeds"]
    assert all(line.startswith("random_init: not evaluated") for line in study.data.gaps)
    benchmarks = {record.benchmark for run in study.data.runs for record in run.records.values()}
    assert benchmarks == BENCHMARKS.keys() and all(len(run.records) == 2 for run in study.data.runs)


def test_nothing_in_the_records_identifies_a_machine():
    texts = [path for path in RECORDS.rglob("*") if path.suffix in (".yaml", ".json")]
    assert texts and sum(path.stat().st_size for path in RECORDS.rglob("*")) < 3e6
    assert {path.suffix for path in RECORDS.rglob("*") if path.is_file()} == {".yaml", ".json", ".npz"}
    for path in texts:
        text = path.read_text()
        assert not re.search(r"""(?:^|[\s"'])/\w""", text), f"{path}: an absolute path"
        assert not re.search(r"host|user|pid\b|[\"']?time[\"']?:|@", text), path


def test_seeds_that_are_not_complete_are_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planted = PlantedStudy(tmp_path, ("baseline", "hw", "ld"), range(4))
    cells = planted.cells
    planted.plant(cells)
    (planted.runs / "demo" / "study.yaml").write_text(planted.path.read_text())
    by_name = {(cell.config.variant, cell.config.seed): cell for cell in cells}
    by_name["hw", 1].run.state_file.write_text('{"state": "running", "step": 1, "steps": 2}')
    by_name["ld", 2].run.record_file("motion", "standard").with_suffix(".npz").unlink()
    (by_name["ld", 0].folder / "metrics.jsonl").write_text("")
    state = {"state": "done", "step": 2, "steps": 2, "time": 1.0, "pid": 7}
    by_name["ld", 0].run.state_file.write_text(json.dumps(state))
    out = tmp_path / "records"
    assert collect_records(planted.runs / "demo", out) == ([0, 3], 6)
    data = collect_run_data(find_runs([out]), [out])
    assert {run.config.seed for run in data.runs} == {0, 3}
    assert all(line.startswith("random_init: not evaluated") for line in data.gaps)
    copied = RunDir(out / "demo" / "tiny" / "ld" / "seed-0")
    assert not copied.metrics_file.exists()
    assert copied.state.time is None and copied.state.pid is None and copied.config.runs == Path("runs")
    assert copied.config.fingerprint() == by_name["ld", 0].config.fingerprint()
    for cell in cells:
        cell.run.state_file.unlink(missing_ok=True)
    with pytest.raises(InputError, match="no seed"):
        collect_records(planted.runs / "demo", out)
    assert collect_run_data(find_runs([out]), [out]).runs  # a refused command removes nothing


def test_the_correlation_is_the_intraclass_correlation():
    """The example of Shrout & Fleiss (1979), table 2: six targets, four judges, ICC(3,1) 0.71, F 11.02."""
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    found = correlation_of_seeds([{seed: np.array([value]) for seed, value in enumerate(judge)} for judge in ratings.T])
    assert found.value == pytest.approx(0.715, abs=0.001)
    assert found.low == pytest.approx(0.342, abs=0.005) and found.high == pytest.approx(0.946, abs=0.005)
