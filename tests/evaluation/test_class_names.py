"""Training and test splits of two data sets: classes are compared by name."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.data.shards.builder import build_shards, make_recipe
from hpc_jepa.data.sources.motion8 import Motion8
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation.class_names import training_numbers
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.evaluation.record import read_predictions
from hpc_jepa.runs.run_dir import RunDir


@dataclass(frozen=True)
class Renamed(Motion8):
    """The clips of Motion8 with classes of other names; ``numbers``: the label of each class."""

    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()

    @property
    def settings(self):
        return {"names": " ".join(self.names)}

    @property
    def classes(self):
        return self.names

    def load(self, index):
        sample = Motion8("test", self.first, self.count, self.size, self.frames).load(index)
        label = self.numbers[sample.label]
        return replace(sample, label=label, text=self.names[label])


NAMES = ("N", "NE", "E", "SE", "S", "SW", "W", "NW")
REVERSED = tuple(name.lower() for name in reversed(NAMES))


def build(folder, names, numbers):
    source = Renamed("test", 48, 16, 32, 8, names=names, numbers=numbers)
    build_shards(source, folder, make_recipe(source, 32), 0, lambda done: None)
    return folder


def with_test_split(benchmark, folder):
    values = benchmark.model_dump()
    values["protocols"]["standard"]["test"] = folder
    return BenchmarkConfig.model_validate(values)


@pytest.mark.parametrize("task", ["probe", "few_shot", "robustness"])
def test_classes_in_another_order_and_spelling_give_the_same_record(run_folder, benchmark, shards, tmp_path, task):
    values = benchmark.model_dump()
    protocol = values["protocols"]["standard"]
    protocol["few_shot"] |= {"shots": [1], "draws": 2, "ways": 2, "episodes": 5, "queries": 1, "episode_shots": [1]}
    protocol["robustness"] |= {"corruptions": ["reversal"], "probes": ["linear"]}
    benchmark = BenchmarkConfig.model_validate(values)
    other = with_test_split(benchmark, build(tmp_path / "reversed", REVERSED, tuple(range(7, -1, -1))))
    path = RunDir(run_folder).record_file("tiny8", "standard", task)
    first = evaluate(run_folder, benchmark, "standard", ["target"], task=task)
    expected = read_predictions(path, first)
    found = evaluate(run_folder, other, "standard", ["target"], task=task)
    predictions = read_predictions(path, found)
    assert found.data["test"] != first.data["test"]
    assert found.results == first.results
    assert predictions.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_array_equal(predictions[key], values)


def test_the_same_numbers_need_no_map(shards, tmp_path):
    assert training_numbers(shards / "train", shards / "test") is None
    assert training_numbers(shards / "train", shards / "unlabelled") is None
    assert training_numbers(shards / "train", build(tmp_path / "same", NAMES, tuple(range(8)))) is None
    found = training_numbers(shards / "train", build(tmp_path / "reversed", REVERSED, tuple(range(7, -1, -1))))
    assert found.tolist() == list(range(7, -1, -1))


@pytest.mark.parametrize("names", [("N", "NE", "archery", *NAMES[3:]), ("N", "NE", "n", *NAMES[3:])])
def test_a_class_that_the_training_split_lacks_is_refused_with_both_names(run_folder, benchmark, tmp_path, names):
    folder = build(tmp_path / "other", names, tuple(range(8)))
    with pytest.raises(InputError, match=rf"{folder}.*2, '{names[2]}'.*'N?E?'"):
        evaluate(run_folder, with_test_split(benchmark, folder), "standard", ["target"])
    assert not RunDir(run_folder).record_file("tiny8", "standard").exists()
