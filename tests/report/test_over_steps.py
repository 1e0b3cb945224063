"""The best checkpoint of a run: by validation clips where all records have them, else by the test split."""

import pytest

from hpc_jepa.report.over_steps import StepSeries, step_sentences
from hpc_jepa.report.results import ResultRow

COMMON = {"study": "s", "regime": "r", "variant": "v", "semantics": "corrected", "seed": 0, "weights": "target"}
PROBE = {"benchmark": "own", "protocol": "standard", "probe": "linear", "metric": "top1", "n": 100}


def series(*accuracies, validation=None):
    rows = [
        ResultRow(**COMMON, **PROBE, value=value, low=value - 1, high=value + 1, steps=500 * number)
        for number, value in enumerate(accuracies, start=1)
    ]
    return StepSeries("v, seed 0", tuple(rows), validation)


@pytest.mark.parametrize(
    ("found", "best", "says", "remark"),
    [
        (series(50.0, 60.0, 55.0), 1000, "on the test split at step 1,000", True),
        (series(50.0, 60.0, 60.0), 1500, "on the test split at the last of 3", False),
        (series(50.0, 60.0, 55.0, validation=(70.0, 40.0, 60.0)), 500, "on validation clips at step 500", False),
    ],
)
def test_the_best_checkpoint_and_what_it_was_chosen_by(found, best, says, remark):
    assert found.best.steps == best
    assert says in found.sentence and ("too high" in found.sentence) == remark


def test_runs_whose_last_checkpoint_is_the_best_are_counted():
    early, last = series(60.0, 50.0), series(50.0, 60.0)
    assert step_sentences([early, last]) == [early.sentence, last.sentence]
    named, counted = step_sentences([last, early, last])
    assert named == early.sentence and "2 of 3" in counted
