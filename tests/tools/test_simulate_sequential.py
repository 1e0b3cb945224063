import json
import os
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "simulate_sequential.py"


def simulate(*arguments):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_quick_simulation_saves_runs_and_finds_planted_gains():
    finished = simulate("--quick", "--json", "--gain", 0.2, "--futility", 0, "--futility", 0.06)
    assert finished.returncode == 0, finished.stderr[-2000:]
    rules = json.loads(finished.stdout)["rules"]
    without, with_futility = rules["spending, futility 0"], rules["spending, futility 0.06"]
    assert without["grids"] == with_futility["grids"] == 10
    assert with_futility["runs"] < without["runs"] <= 64
    assert without["power"] > 90 and with_futility["power"] > 80
    assert without["family_wise_error"] <= 40


def test_looks_at_a_prefix_of_the_steps_save_most_runs_and_fresh_seeds_find_planted_gains():
    looks = ("--look", 2, "--look", 3, "--prefix", 0.25, "--confirm", 4, "--prefix-gain", 0.5)
    finished = simulate("--quick", "--json", *looks, "--gain", 0.2, "--futility", 0, "--futility", 0.15)
    assert finished.returncode == 0, finished.stderr[-2000:]
    found = json.loads(finished.stdout)
    without, with_futility = found["rules"]["spending, futility 0"], found["rules"]["spending, futility 0.15"]
    assert with_futility["runs"] < without["runs"] <= 0.25 * 8 * 3 + 8 * 4
    assert with_futility["runs"] < 8 * 4
    assert without["power"] > 90 and with_futility["power"] > 50
    assert set(found["fixed_power"]) == {"2", "3", "4"}


def test_an_unknown_rule_is_refused_with_one_line():
    finished = simulate("--quick", "--rule", "luck")
    assert finished.returncode == 2 and finished.stderr.count("\n") == 1 and "luck" in finished.stderr
