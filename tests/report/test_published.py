import csv
import json
from decimal import Decimal

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.errors import DataError, InputError
from hpc_jepa.report.audit import audit_claims
from hpc_jepa.report.claims import PUBLISHED_CLAIMS, read_claims
from hpc_jepa.report.published_results import PUBLISHED_RESULTS, read_published
from hpc_jepa.report.write_report import write_report

CLAIM_COLUMNS = ["id", "statement", "published", "computed", "low", "high", "verdict", "caveats", "notes"]
REFERENCES = {"mixed": "baseline_seed42", "ucf101": "baseline"}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_report([], tmp_path_factory.mktemp("published"), published=PUBLISHED_RESULTS).folder


@pytest.fixture(scope="module")
def printed():
    """Percent as printed by regime, variant and benchmark."""
    lines = [row for row in rows(PUBLISHED_RESULTS) if row["metric"] == "top1_percent"]
    return {(row["regime"], row["variant"], row["benchmark"]): Decimal(row["value"]) for row in lines}


@pytest.fixture
def planted(tmp_path):
    """The published numbers with some of them changed; None drops the cell."""

    def plant(changes):
        lines = []
        for row in rows(PUBLISHED_RESULTS):
            key = (row["regime"], row["variant"], row["benchmark"])
            if row["metric"] == "top1_percent" and key in changes:
                row["value"] = changes[key]
            if row["value"] is not None:
                lines.append(row)
        path = tmp_path / "planted.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader()
            writer.writerows(lines)
        return path

    return plant


def verdicts(path, tmp_path):
    folder = write_report([], tmp_path / "out", published=path).folder
    return {row["id"]: row["verdict"] for row in rows(folder / "claims.csv")}


def test_differences_are_those_of_the_printed_values(folder, printed):
    seen = 0
    for row in rows(folder / "grid.csv"):
        value = printed.get((row["regime"], row["variant"], row["benchmark"]))
        if value is None:
            assert row["value"] == "missing" and row["difference"] == row["low"] == ""
            continue
        assert Decimal(row["value"]) == value
        reference = printed.get((row["regime"], REFERENCES[row["regime"]], row["benchmark"]))
        if row["variant"] != REFERENCES[row["regime"]]:
            assert Decimal(row["difference"]) == value - reference
            assert float(row["difference_low"]) < float(row["difference"]) < float(row["difference_high"])
            seen += 1
    assert seen == 72


def test_all_48_claims_have_the_verdict_and_number_of_the_reanalysis(folder):
    expected = yaml.safe_load(PUBLISHED_CLAIMS.read_text())["claims"]
    found = rows(folder / "claims.csv")
    assert list(found[0]) == CLAIM_COLUMNS
    assert len(found) == 48 and [row["id"] for row in found] == [claim["id"] for claim in expected]
    for row, claim in zip(found, expected, strict=True):
        expected_verdict = {True: "supported", False: "contradicted", None: "undecided"}[claim["supported"]]
        assert row["verdict"] == expected_verdict, row
        for number in numbers(claim["computed"]):
            assert number in row["computed"], row


def numbers(computed) -> list[str]:
    """Numbers that a computed value must contain."""
    if isinstance(computed, list):
        return computed
    if computed is None:
        return []
    if not isinstance(computed, dict):
        return [f"{computed:.2f}" if isinstance(computed, float) else str(computed)]
    if "count" in computed:
        return [f"{computed['count']} of {computed['out_of']}"]
    if "spread" in computed:
        return [f"{computed['spread']:.2f}"]
    if "result" in computed:
        return [f"{computed['result']} ({computed['value']:.2f})"]
    return [f"{value:.2f}" for value in computed.values()]


def test_planted_changes_flip_exactly_the_verdicts_that_use_them(planted, tmp_path):
    before = verdicts(PUBLISHED_RESULTS, tmp_path)
    changes = {
        ("ucf101", "motion_guided", "diving48"): "8.88",  # raises by 0.50
        ("ucf101", "kinematic_huber", "diving48"): "5.80",  # -2.58: now in range
        ("mixed", "hw_ld", "imagenet100"): "19.90",  # -4.96: one less beyond five points
        ("ucf101", "kinematic_split", "imagenet100"): "13.40",  # +1.38, and 0.34 below the highest
        ("mixed", "hw", "diving48"): "9.44",  # beats ac_hw
    }
    after = verdicts(planted(changes), tmp_path)
    turned = {claim for claim in before if before[claim] != after[claim]}
    assert turned == {
        *("ucf_mg_d48", "kin_d48_all6", "mix_10_of_14", "mix_11_of_15", "kin_in100", "re_random_in100"),
        "mix_best_d48",
    }
    assert after["kin_d48_all6"] == "supported" and after["mix_best_d48"] == "contradicted"


def test_a_dropped_cell_is_missing_and_its_claims_undecided(planted, tmp_path):
    path = planted({("mixed", "fwm_hw_ld", "imagenet100"): None})
    missing = {"re_ld_d48_239", "re_fwm_d48_239"}
    assert {claim for claim, found in verdicts(PUBLISHED_RESULTS, tmp_path).items() if found == "undecided"} == missing
    found = verdicts(path, tmp_path)
    assert {claim for claim, verdict in found.items() if verdict == "undecided"} - missing == {
        *("mix_fhl_in100", "mix_10_of_14", "mix_11_of_15", "mix_best_in100", "re_10of14_seed239", "re_fhl_in100_239"),
        *("mix_fhl_sum", "mix_fhl_balanced", "mix_fhl_pareto", "mix_tradeoff", "mix_tradeoff_d48"),
        *("re_fhl_sum_239", "re_fhl_balanced_239", "re_below_random_in100"),
    }
    line = next(
        line for line in (tmp_path / "out/tables.md").read_text().splitlines() if line.startswith("| fwm_hw_ld ")
    )
    assert line.split(" | ")[1] == "missing"


def test_uncertainty_leaves_small_differences_undecided():
    judged = audit_claims(read_claims(), read_published(), as_printed=True).results
    found = {one.claim.id: one.outcome.with_uncertainty for one in judged}
    assert found["ucf_mg_d48"] == found["ucf_mg_in100"] == found["mix_10_of_14"] == "undecided"
    assert found["mix_fhl_in100"] == found["ucf_mg_ssv2"] == "undecided: one seed"  # the clips alone would decide
    assert found["re_seed_in100"] == "supported"  # a claim about two runs, not about variants


def test_more_test_clips_decide_claims_but_for_the_seeds_that_fewer_leave_undecided(tmp_path):
    lines = rows(PUBLISHED_RESULTS)
    for row in lines:
        row["value"] = str(100 * int(row["value"])) if row["metric"] == "n_val" else row["value"]
    path = tmp_path / "larger.csv"
    path.write_text("\n".join([",".join(lines[0]), *(",".join(row.values()) for row in lines)]))
    judged = audit_claims(read_claims(), read_published(path), as_printed=True).results
    found = {one.claim.id: one.outcome.with_uncertainty for one in judged}
    assert found["ucf_mg_d48"] == found["mix_best_d48"] == "undecided: one seed"


def test_differences_between_single_runs_are_never_coloured(folder):
    """Not even the seed of the baseline that is 3.6 points below the other one."""
    page, lines = (folder / "index.html").read_text(), rows(folder / "grid.csv")
    assert {row["significant"] for row in lines if row["p"]} == {"False"} and {row["p_holm"] for row in lines} == {""}
    assert any(float(row["p"]) < 1e-5 for row in lines if row["p"])
    assert page.count('class="change up"') == page.count('class="change down"') == 1  # the key
    assert "*" not in (folder / "tables.md").read_text().partition("## Claims")[0].replace("\\*", "")
    assert "score test of two unpaired proportions" in page and "Minimum detectable gain" in page


def test_the_page_lists_the_limitations_of_the_published_numbers(folder):
    page = (folder / "index.html").read_text()
    for part in ("(B1)", "(B21)", "(B22)", "3.60 points"):
        assert part in page


def test_own_claims_are_evaluated_and_an_invalid_file_is_named(tmp_path):
    claim = {"id": "own", "statement": "LTC is worst", "predicate": {"type": "argmin", "regime": "mixed"}}
    claim["predicate"] |= {"benchmark": "imagenet100", "variants": ["ltc", "ld", "hw"], "expected": "ltc"}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"claims": [claim]}))
    (row,) = rows(write_report([], tmp_path / "out", claims=path, published=PUBLISHED_RESULTS).folder / "claims.csv")
    assert (row["computed"], row["verdict"]) == ("ltc (11.34)", "supported")
    claim["predicate"]["expected"] = "fac"
    path.write_text(yaml.safe_dump({"claims": [claim]}))
    with pytest.raises(InputError, match=r"own\.yaml.*'fac'"):
        read_claims(path)


@pytest.mark.parametrize(
    "line, place",
    [
        ("x,ac,mixed,diving48,top1_percent,8.38,", ":266: "),
        ("x,new,mixed,diving48,top1_percent,8.38,", "n_val"),
        ("x,new,mixed,diving48,top1_percent,many,", r":266: .*value"),
        ("x,new,mixed,diving48,top1_percent,108.38,", "108.38"),
        ("x,new,mixed", ":266: "),
    ],
)
def test_an_invalid_results_file_is_refused_with_its_line(tmp_path, line, place):
    path = tmp_path / "damaged.csv"
    path.write_text(PUBLISHED_RESULTS.read_text().rstrip("\n") + f"\n{line}\n")
    with pytest.raises(DataError, match=place):
        read_published(path)
    with pytest.raises(InputError, match=r"none\.csv"):
        read_published(tmp_path / "none.csv")


def test_the_command_works_without_runs_and_prints_json(tmp_path):
    result = CliRunner().invoke(app, ["report", "--published", "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert len(facts["claims"]["published numbers"]) == 48
    assert facts["grids"][0]["cells"]["baseline"]["diving48"] is None
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        *("index.html", "results.txt", "grid.csv", "claims.csv", "tables.md", "tables.tex", "report.json"),
    }


def test_a_report_without_input_or_output_folder_is_refused():
    assert CliRunner().invoke(app, ["report"]).exit_code == 2
    with pytest.raises(InputError, match="--out"):
        write_report([], published=PUBLISHED_RESULTS)


def test_latex_is_escaped_and_each_row_has_all_columns(folder):
    text = (folder / "tables.tex").read_text()
    body = [line for line in text.splitlines() if line.endswith(r" \\") and not line.startswith("\\")]
    assert r"fwm\_hw\_ld & 30.78 [29.52, 32.07] +5.92 & 11.60" in text
    assert all(line.count(" & ") in (3, 5) for line in body)
