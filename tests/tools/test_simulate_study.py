import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "simulate_study.py"


def simulate(*arguments):
    finished = subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished


def test_quick_simulation_covers_and_never_decides_one_seed():
    designs = json.loads(simulate("--quick", "--json").stdout)["designs"]
    assert [(design["seeds"], design["spread"]) for design in designs] == [
        (1, "equal"),
        (3, "equal"),
        (1, "random"),
        (3, "random"),
    ]
    for design in designs:
        assert design["runs"] == 28 * design["seeds"] and design["grids"] == 20
        assert design["family_wise_error"] <= 25
        assert design["records_checked"] == 1 and design["records_agree"]
        if design["seeds"] == 1:
            assert design["methods"] == {"one_seed": 20 * 27} and design["family_wise_error"] == 0
        else:
            assert design["coverage"] > 92 and design["half_width_ratio"] < 0.8


def test_planted_gains_are_found_with_missing_runs_and_unbalanced_classes():
    options = ("--grids", 8, "--seeds", 5, "--rho", 0.5, "--spread", "equal", "--variants", 10, "--clips", 600)
    finished = simulate(
        *options, "--gain", 0.2, "--gain", -0.2, "--missing", 0.1, "--unbalanced", "--records", 1, "--json"
    )
    (design,) = json.loads(finished.stdout)["designs"]
    assert design["power"] > 80
    assert design["runs"] < 50 and design["records_agree"]
    assert "1/1" in finished.stderr


def test_the_default_rule_keeps_the_power_of_the_fixed_design_with_two_thirds_of_its_runs():
    looks = itertools.chain.from_iterable(("--looks", look) for look in (2, 3, 5, 8))
    options = ("--grids", 12, "--seeds", 8, "--rho", 0.5, "--spread", "equal", "--clips", 400)
    gains = ("--gain", 0.12, "--gain", -0.12, "--gain", 0.12)
    (design,) = json.loads(simulate(*options, *looks, *gains, "--json").stdout)["designs"]
    assert design["runs"] == 28 * 8 and design["sequential_runs"] < 2 / 3 * design["runs"]
    assert design["sequential_power"] > design["power"] - 9 and design["power"] > 80
    assert design["sequential_error"] <= 25


@pytest.mark.parametrize(
    "options",
    [
        ("--spread", "wide"),
        ("--videos", 9, 3),
        ("--gain", 0.1, "--gain", 0.1, "--variants", 2),
        ("--looks", 3, "--looks", 2),
    ],
)
def test_impossible_designs_are_refused(options):
    finished = subprocess.run([sys.executable, TOOL, "--quick", *map(str, options)], capture_output=True, text=True)
    assert finished.returncode == 2
    assert options[0] in finished.stderr
