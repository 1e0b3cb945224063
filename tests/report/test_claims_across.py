"""Claims across benchmarks: recomputed from the published CSV, judged as the grid judges, with their caveats."""

import csv
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter
from scipy.stats import spearmanr

from hpc_jepa.config.loading import find_config, read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.errors import InputError
from hpc_jepa.report.audit import audit_claims
from hpc_jepa.report.claims import Claim, read_claims
from hpc_jepa.report.comparisons import ColumnScores, StudyScores
from hpc_jepa.report.published_results import PUBLISHED_RESULTS, read_published
from hpc_jepa.report.results import ResultColumn
from hpc_jepa.report.study_evidence import StudyEvidence
from hpc_jepa.report.study_grid import study_grids
from hpc_jepa.report.verdicts import evaluate_claim
from hpc_jepa.report.write_report import write_report
from hpc_jepa.study.grid import expand_study
from tests.report.simulated_study import SimulatedStudy

BENCHMARKS = ("imagenet100", "ssv2")
VARIANTS = ("hw", "ld", "fwm", "amg", "ltc")


@pytest.fixture(scope="module")
def printed():
    """Percent of the mixed regime: variants by benchmarks."""
    table = pd.read_csv(PUBLISHED_RESULTS)
    table = table[(table.metric == "top1_percent") & (table.regime == "mixed")]
    return table.pivot(index="variant", columns="benchmark", values="value")


@pytest.fixture(scope="module")
def judged():
    return {one.claim.id: one for one in audit_claims(read_claims(), read_published(), as_printed=True).results}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def a_claim(**predicate) -> Claim:
    return TypeAdapter(Claim).validate_python({"id": "own", "statement": "", "predicate": predicate})


def test_signs_of_ld_and_fwm_change_with_the_seed_of_the_baseline(printed, judged):
    change = printed - printed.loc["baseline_seed42"]
    assert (change.loc["ld", ["imagenet100", "diving48"]] < 0).all() and (
        change.loc["fwm", ["ssv2", "diving48"]] < 0
    ).all()
    assert judged["mix_ld_hurts"].outcome.as_printed == judged["mix_fwm_hurts"].outcome.as_printed == "supported"
    matched = printed - printed.loc["baseline"]
    for name, variant, benchmark in (("re_ld_in100_239", "ld", "imagenet100"), ("re_fwm_ssv2_239", "fwm", "ssv2")):
        assert matched.loc[variant, benchmark] > 0 and judged[name].outcome.as_printed == "contradicted"
        assert f"{matched.loc[variant, benchmark]:+.2f}" in judged[name].outcome.computed
    assert pd.isna(matched.loc["ld", "diving48"]) and judged["re_ld_d48_239"].missing


def test_rank_correlations_are_those_of_scipy(printed, judged):
    for name, motion, count in (("mix_tradeoff", "ssv2", 17), ("mix_tradeoff_d48", "diving48", 15)):
        both = printed[["imagenet100", motion]].dropna()
        assert len(both) == count
        rho = spearmanr(both["imagenet100"], both[motion]).statistic
        assert f"{rho:.2f} over {count}" in judged[name].outcome.computed
        assert judged[name].outcome.low < rho < judged[name].outcome.high
    assert judged["mix_tradeoff"].outcome.as_printed == "contradicted"  # +0.83
    assert judged["mix_tradeoff"].outcome.with_uncertainty == "undecided: one seed"
    assert judged["mix_tradeoff_d48"].outcome.with_uncertainty == "undecided"


def test_balance_front_and_sum_are_recomputed_from_the_table(printed, judged):
    columns = ["imagenet100", "ssv2", "diving48"]
    complete = printed[columns].dropna()
    change = (complete - complete.loc["baseline_seed42"]).drop("baseline_seed42")
    assert change.min(axis=1).idxmax() == "fwm_hw_ld"
    assert judged["mix_fhl_balanced"].outcome.computed.startswith("fwm_hw_ld")
    values = complete.to_numpy()
    front = [
        name
        for name, own in zip(complete.index, values, strict=True)
        if not ((values >= own).all(axis=1) & (values > own).any(axis=1)).any()
    ]
    assert set(front) == {"fwm_hw_ld", "ld", "hw", "ac_hw", "baseline_seed42"}
    assert judged["mix_fhl_pareto"].outcome.as_printed == "supported"
    dominated = judged["mix_fhl_pareto"].claim.predicate.model_copy(update={"expected": "spectral"})
    found = evaluate_claim(Claim(id="own", statement="", predicate=dominated), read_published())
    assert found.outcome.as_printed == "contradicted" and "fwm_hw_ld" in found.outcome.computed
    terms = change.loc["fwm_hw_ld"].round(2)
    assert judged["mix_fhl_sum"].outcome.computed.startswith(
        "sum 8.83 = 5.92 + 3.21 - 0.30 (imagenet100, ssv2, diving48)"
    )
    assert terms.sum() == pytest.approx(8.83)


def test_caveats_of_the_published_numbers_are_those_of_the_csv(judged):
    table = pd.read_csv(PUBLISHED_RESULTS)
    table = table[table.metric == "top1_percent"]
    notes = {(row.regime, row.variant, row.benchmark): row.epochs_or_notes for row in table.itertuples()}
    for result in judged.values():
        if result.missing:
            continue
        cells = result.claim.predicate.cells()
        own = [notes[cell.regime, cell.variant, cell.benchmark] for cell in cells]
        text = "; ".join(result.caveats)
        assert ("(B1)" in text) == any("disable_ema" in note for note in own), result.claim.id
        epochs = [
            {
                note.partition("probe_epochs=")[2][:3]
                for cell, note in zip(cells, own, strict=True)
                if cell.benchmark == name
            }
            for name in {cell.benchmark for cell in cells}
        ]
        assert ("(B22)" in text) == any(len(found) > 1 for found in epochs), result.claim.id
        assert ("(B21)" in text) == (
            any("seed42" in other.variant for _, other in result.claim.predicate.pairs())
            and not result.claim.id.startswith("re_seed")
        )
        assert ("one seed" in text) != (result.claim.id in ("re_seed_in100", "re_seed_ssv2", "encoder_768"))


def random_study(rng, seeds) -> StudyScores:
    """A baseline and five variants on two benchmarks; some variants lack seeds."""
    columns, deciding = {}, {}
    for benchmark in BENCHMARKS:
        column = deciding[benchmark] = ResultColumn(benchmark, "standard", "linear")
        clips = rng.random(120)
        scores = {}
        for variant in ("baseline", *VARIANTS):
            share = 0.5 + (0 if variant == "baseline" else rng.choice([-0.2, -0.08, 0, 0.08, 0.2]))
            own = [s for s in seeds if variant == "baseline" or rng.random() < 0.85] or [seeds[0]]
            levels = share + rng.normal(0, rng.choice([0.005, 0.04]), size=len(own))
            mixed = np.where(rng.random((len(own), 120)) < 0.6, clips, rng.random((len(own), 120)))
            scores[variant, "corrected"] = {s: (mixed[i] < levels[i]).astype(float) for i, s in enumerate(own)}
        clusters = np.arange(120) // rng.choice([1, 4])
        columns["mixed", column] = ColumnScores(column, scores, clusters)
    return StudyScores("demo", columns, deciding, {}, {})


def evidence_of(scores, grids=None) -> StudyEvidence:
    grids = study_grids(scores, []) if grids is None else grids
    return StudyEvidence("corrected", scores, {grid.regime: grid for grid in grids}, {})


def verdict(evidence, **predicate) -> str:
    return evaluate_claim(a_claim(regime="mixed", **predicate), evidence).outcome.with_uncertainty


def check_signs(evidence, gain, loss, variant, benchmark) -> None:
    """Claims on the sign of one difference are decided as ``gain`` and ``loss`` say."""
    pair = {"variant": variant, "baseline": "baseline", "benchmarks": [benchmark]}
    both = {"benchmark": benchmark, "variants": [variant, "baseline"]}
    above = [
        verdict(evidence, type="all_above", **pair),
        verdict(evidence, type="argmax", expected=variant, **both),
        verdict(evidence, type="argmin", expected="baseline", **both),
        verdict(
            evidence, type="not_dominated", variants=[variant, "baseline"], expected=variant, benchmarks=[benchmark]
        ),
    ]
    below = [
        verdict(evidence, type="all_below", **pair),
        verdict(evidence, type="argmax", expected="baseline", **both),
    ]
    for found, supported, contradicted in ((above, gain, loss), (below, loss, gain)):
        for one in found:
            expected = "supported" if supported else "contradicted" if contradicted else "undecided"
            assert one.partition(":")[0] == expected


def difference(evidence, variant, benchmark, value, tolerance) -> str:
    cells = {
        side: {"regime": "mixed", "variant": name, "benchmark": benchmark}
        for side, name in (("minuend", variant), ("subtrahend", "baseline"))
    }
    claim = a_claim(type="difference_equals", value=value, tolerance=tolerance, **cells)
    return evaluate_claim(claim, evidence).outcome.with_uncertainty


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3, 4)])
def test_claims_never_disagree_with_the_grid_of_their_page(seeds):
    rng = np.random.default_rng(len(seeds))
    decided = 0
    for _ in range(12):
        scores = random_study(rng, seeds)
        (grid,) = study_grids(scores, [])
        evidence = evidence_of(scores, [grid])
        for benchmark in BENCHMARKS:
            contrasts = dict(grid.contrasts(f"{benchmark}, standard, linear"))
            gains = {row for row, found in contrasts.items() if found.significant and found.points > 0}
            losses = {row for row, found in contrasts.items() if found.significant and found.points < 0}
            decided += len(gains) + len(losses)
            for variant in VARIANTS:
                gain, loss = variant in gains, variant in losses
                check_signs(evidence, gain, loss, variant, benchmark)
                for value, tolerance in product((-12, -3, 3, 12), (1, 5)):
                    found = difference(evidence, variant, benchmark, value, tolerance)
                    if abs(value) > tolerance:
                        assert found != "supported" or (gain if value > 0 else loss)
                        assert found == "contradicted" or not (loss if value > 0 else gain)
                    else:
                        assert found != "contradicted" or gain or loss
            for operator, certain, impossible in (("<", losses, gains), (">", gains, losses)):
                for count in range(len(VARIANTS) + 1):
                    counted = {"operator": operator, "threshold": 0, "count": count, "out_of": len(VARIANTS)}
                    row = {"benchmark": benchmark, "variants": list(VARIANTS), "baseline": "baseline"}
                    found = verdict(evidence, type="count_of_differences", **counted, **row)
                    possible = len(certain) <= count <= len(VARIANTS) - len(impossible)
                    assert (found == "contradicted") == (not possible)
                    assert found != "supported" or len(certain | impossible) == len(VARIANTS)
    assert decided == 0 if len(seeds) == 1 else decided > 10 or len(seeds) == 2


def test_a_sequential_study_decides_what_its_looks_decide_and_nothing_else():
    rng = np.random.default_rng(6)
    scores = random_study(rng, (0, 1, 2))
    (grid,) = study_grids(scores, [])
    decisions = dict(zip(VARIANTS, ("gain", "loss", "equal", "hopeless", "open"), strict=True))
    cells = {
        (row, column): cell if cell.contrast is None else replace(cell, contrast=at_look(cell.contrast, decisions[row]))
        for (row, column), cell in grid.cells.items()
    }
    evidence = evidence_of(scores, [replace(grid, cells=cells, looks="look 1 of 2")])
    for variant, decision in decisions.items():
        check_signs(evidence, decision == "gain", decision == "loss", variant, "ssv2")
    assert difference(evidence, "hw", "ssv2", 9, 1) == "undecided: not decided by the looks"  # a size
    assert (
        difference(evidence, "hw", "ssv2", 4, 1) == "supported"
        and difference(evidence, "ld", "ssv2", 4, 1) == "contradicted"
    )
    between = {"benchmark": "ssv2", "variants": ["hw", "ld"]}
    assert verdict(evidence, type="argmax", expected="hw", **between).startswith("undecided")
    low = {"threshold": 1.0, "expected": [], **between}
    assert verdict(evidence, type="set_below_threshold", **low) == "undecided: not decided by the looks"
    ranks = {"type": "rank_correlation", "benchmarks": BENCHMARKS, "variants": ["baseline", *VARIANTS]}
    assert verdict(evidence, operator=">", threshold=-1.0, **ranks) == "undecided: not decided by the looks"


def at_look(contrast, decision):
    """As a look recorded it: 4 points, with an interval that is not adjusted."""
    value = -4.0 if decision == "loss" else 4.0
    plain = replace(contrast, adjusted=None, simultaneous_low=None, simultaneous_high=None, decision=decision)
    return replace(plain, points=value, low=value - 2, high=value + 2)


def test_several_seeds_decide_a_correlation_a_balance_and_a_sum():
    rng = np.random.default_rng(7)
    names = ("baseline", *(f"v{i}" for i in range(15)))
    columns, deciding = {}, {}
    for place, benchmark in enumerate(BENCHMARKS):
        column = deciding[benchmark] = ResultColumn(benchmark, "standard", "linear")
        shares = {name: 0.5 + 0.02 * i * (-1) ** place for i, name in enumerate(names)}  # the ranks are opposed
        shares["v7"] = shares["baseline"] + 0.15  # on no benchmark worse
        scores = {
            (name, "corrected"): {s: (rng.random(2000) < share).astype(float) for s in (42, 239, 5)}
            for name, share in shares.items()
        }
        columns["mixed", column] = ColumnScores(column, scores, None)
    evidence = evidence_of(StudyScores("demo", columns, deciding, {}, {}))
    ranks = {"type": "rank_correlation", "benchmarks": BENCHMARKS, "variants": [*names, "baseline_seed42"]}
    claim = a_claim(regime="mixed", operator="<", **ranks)
    found = evaluate_claim(claim, evidence)
    first, second = (
        [np.mean([*columns["mixed", deciding[one]].scores[name, "corrected"].values()]) for name in names]
        for one in BENCHMARKS
    )
    rho = spearmanr(first, second).statistic
    assert found.outcome.computed == f"rank correlation {rho:.2f} over 16 variants"  # all seeds of a variant are one
    assert found.outcome.with_uncertainty == "supported" and found.outcome.high < 0
    balanced = {"benchmarks": BENCHMARKS, "variants": list(names[1:]), "baseline": "baseline"}
    assert verdict(evidence, type="most_balanced", expected="v7", **balanced) == "supported"
    assert verdict(evidence, type="most_balanced", expected="v12", **balanced) == "contradicted"
    both = {"benchmarks": BENCHMARKS, "variant": "v7", "baseline": "baseline"}
    assert verdict(evidence, type="sum_of_differences", value=30, tolerance=2, **both) == "supported"
    assert verdict(evidence, type="sum_of_differences", value=10, tolerance=2, **both) == "contradicted"
    front = {"type": "not_dominated", "benchmarks": BENCHMARKS, "variants": list(names)}
    assert verdict(evidence, expected="baseline", **front) == "contradicted"  # by v7


@pytest.mark.parametrize("name", ["paper", "extended"])
def test_shipped_studies_leave_no_claim_missing_that_their_runs_could_decide(name, tmp_path):
    cells = expand_study(read_config(StudyConfig, [find_config(name, "study")]), tmp_path)
    columns, deciding = {}, {}
    published = ((cell, one) for cell in cells for one in cell.evaluations if one.protocol == "published")
    for cell, evaluation in published:
        column = deciding[evaluation.benchmark.name] = ResultColumn(evaluation.benchmark.name, "published", "linear")
        found = columns.setdefault((cell.config.regime, column), {})
        scores = np.random.default_rng(len(found)).integers(0, 2, 8).astype(float)
        found.setdefault((cell.config.variant, "corrected"), {})[cell.config.seed] = scores
    scores = {key: ColumnScores(key[1], by_row, None) for key, by_row in columns.items()}
    evidence = evidence_of(StudyScores(name, scores, deciding, {}, {}))
    evidence = replace(evidence, constants={"encoder_width": 768})
    trained = {cell.config.variant for cell in cells}
    for result in audit_claims(read_claims(), evidence, as_printed=False).results:
        lacking = {cell.unseeded for cell in result.claim.predicate.cells()} - trained
        assert bool(result.missing) == bool(lacking), (result.claim.id, result.missing)
        assert not lacking or name == "paper"


def test_caveats_stand_beside_the_verdicts_of_runs_and_notes_on_the_paper_do_not(tmp_path):
    facts = {
        "study": "demo",
        "regimes": ["ucf101"],
        "variants": [{"objective": name, "semantics": "published"} for name in ("baseline", "kinematic")],
        "seeds": [239],
        "evaluations": [{"benchmark": "imagenet100"}],
    }
    folder = SimulatedStudy(tmp_path, lambda *cell: 0.3).write(StudyConfig.model_validate(facts))
    (note,) = (claim.notes for claim in read_claims() if claim.id == "re_ucf_base_vs_random_in100")
    for published in (None, PUBLISHED_RESULTS):
        report = write_report([folder], tmp_path / f"out-{published is None}", published=published)
        (row,) = (row for row in rows(report.folder / "claims.csv") if row["id"] == "re_ucf_base_vs_random_in100")
        assert "one seed" in row["caveats"] and "kinematic" in row["caveats"] and row["notes"] == ""
        for file in ("tables.md", "report.json", "index.html"):
            assert "weights that no gradient reached: kinematic" in (report.folder / file).read_text(), file
        assert (report.folder / "index.html").read_text().count(note) == (published is not None)


@pytest.mark.parametrize(
    "predicate, part",
    [
        ({"type": "all_below", "benchmarks": ["ssv2", "ssv2"], "variant": "ld", "baseline": "baseline"}, "twice"),
        ({"type": "not_dominated", "benchmarks": ["ssv2"], "variants": ["ld", "hw"], "expected": "fwm"}, "fwm"),
        ({"type": "rank_correlation", "benchmarks": ["a", "b"], "variants": ["a", "b"], "operator": "<"}, "variants"),
        (
            {"type": "most_balanced", "benchmarks": ["a"], "variants": ["a", "b"], "expected": "a", "baseline": "b"},
            "baseline",
        ),
    ],
)
def test_claims_that_mean_nothing_are_refused_with_their_file(tmp_path, predicate, part):
    path = tmp_path / "own.yaml"
    path.write_text(f"claims: [{{id: own, statement: x, predicate: {{regime: mixed, {inline(predicate)}}}}}]")
    with pytest.raises(InputError, match=rf"own\.yaml.*{part}"):
        read_claims(path)


def test_a_difference_between_two_benchmarks_is_refused(tmp_path):
    path = tmp_path / "own.yaml"
    sides = ", ".join(
        f"{side}: {{regime: mixed, variant: ld, benchmark: {benchmark}}}"
        for side, benchmark in (("minuend", "ssv2"), ("subtrahend", "diving48"))
    )
    path.write_text(
        f"claims: [{{id: own, statement: x, predicate: {{type: difference_equals, {sides}, value: 1, tolerance: 0}}}}]"
    )
    with pytest.raises(InputError, match=r"own\.yaml.*ssv2 and diving48"):
        read_claims(path)


def inline(predicate) -> str:
    return ", ".join(f"{key}: {str(value).replace(chr(39), '')}" for key, value in predicate.items())
