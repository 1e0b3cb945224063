"""A run on videos that end before their clips do: padding counts in nothing, for any number of processes."""

import json
from pathlib import Path

import pytest

from hpc_jepa.config.loading import dump_config
from hpc_jepa.training.loop import train

RUN = Path(__file__).parent / "workers" / "run.py"


def silent(record):
    pass


def lines_of(config):
    return [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def short(configure):
    """Runs of five steps, whose clips are longer than the videos by the given stride."""

    def make(study, stride, padding, **engine):
        config = configure(
            study=study,
            schedule={"steps": 5},
            engine={"precision": "fp32", "batch_size": 4, **engine},
            objectives=["hw", "delta", {"kinematic": {}}],
        )
        clip = config.data.clip.model_copy(update={"stride": stride})
        return config.model_copy(update={"data": config.data.model_copy(update={"clip": clip, "padding": padding})})

    return make


def test_padding_counts_unless_it_is_ignored(short):
    repeated, ignored = short("repeated", 8, "repeat"), short("ignored", 8, "ignore")
    for config in (repeated, ignored):
        assert train(config, silent) == "done"
    first = [lines_of(config)[0] for config in (repeated, ignored)]
    assert first[0]["terms"]["prediction"] != first[1]["terms"]["prediction"]
    # Repeated frames do not change, so their pairs make the average change smaller.
    assert first[0]["health"]["target_std"] != first[1]["health"]["target_std"]


def test_without_padding_both_settings_are_equal_to_the_bit(short, metrics_of):
    repeated, ignored = short("repeated", 1, "repeat"), short("ignored", 1, "ignore")
    for config in (repeated, ignored):
        train(config, silent)
    assert metrics_of(repeated.folder) == metrics_of(ignored.folder)
    assert repeated.fingerprint() != ignored.fingerprint()


def test_two_processes_and_micro_batches_count_alike(short, launch, tmp_path):
    alone = short("alone", 8, "ignore")
    train(alone, silent)
    others = [short("two", 8, "ignore"), short("four", 8, "ignore", accumulation=2)]
    paths = [tmp_path / f"{number}.yaml" for number in range(2)]
    for path, config in zip(paths, others, strict=True):
        path.write_text(dump_config(config))
    launch(RUN, *paths, processes=2)
    for config in others:
        for one, other in zip(lines_of(alone), lines_of(config), strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
            assert other["terms"] == pytest.approx(one["terms"], rel=1e-3)
