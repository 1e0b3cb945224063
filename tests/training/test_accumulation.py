"""A step of several micro-batches is the step of the whole batch, at every ZeRO stage and with several processes."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from hpc_jepa.checkpoint import reader
from hpc_jepa.checkpoint.layout import latest
from hpc_jepa.config.loading import dump_config
from hpc_jepa.errors import InputError
from hpc_jepa.training.loop import train
from hpc_jepa.training.step_runner import StepRunner

RUN = Path(__file__).parent / "workers" / "run.py"
OBJECTIVES = ["hw", {"spectral": {}}, {"kinematic": {"form": "acceleration"}}]


def silent(record):
    pass


def lines_of(config):
    return [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]


def engine(accumulation=1, stage=1, **others):
    return {"precision": "fp32", "batch_size": 8, "zero_stage": stage, "accumulation": accumulation, **others}


def gradients_of(config):
    """A tenth of the gradients: the first moments of Adam after one step."""
    weights = reader.open_tensors(latest(config.folder).path)
    return {name: weights[name] for name in weights if name.startswith("exp_avg.")}


def check_equal_gradients(one, other):
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(other[name], gradient, rtol=0, atol=1e-5 * gradient.abs().max().item(), msg=name)


@pytest.fixture
def whole(configure):
    """One step of the whole batch."""
    config = configure(study="whole", engine=engine(), schedule={"steps": 1}, objectives=OBJECTIVES)
    train(config, silent)
    return config


def check_equals_whole(whole, config):
    (one,), (parts,) = lines_of(whole), lines_of(config)
    assert parts["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert parts["terms"] == pytest.approx(one["terms"], rel=1e-5)
    assert parts["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-5)
    assert parts["passes"] == one["passes"]
    check_equal_gradients(gradients_of(whole), gradients_of(config))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_four_micro_batches_have_loss_and_gradient_of_the_whole_batch(stage, whole, configure):
    config = configure(study="parts", engine=engine(4, stage), schedule={"steps": 1}, objectives=OBJECTIVES)
    train(config, silent)
    check_equals_whole(whole, config)
    assert lines_of(config)[0]["health"] == pytest.approx(lines_of(whole)[0]["health"], rel=1e-4)


def test_two_processes_with_two_micro_batches_each_do_at_every_stage(whole, configure, launch, tmp_path):
    configs, paths = [], []
    for stage in (0, 1, 2, 3):
        options = {"schedule": {"steps": 1}, "objectives": OBJECTIVES}
        configs.append(configure(study=f"parts-{stage}", engine=engine(2, stage), **options))
        paths.append(tmp_path / f"{stage}.yaml")
        paths[-1].write_text(dump_config(configs[-1]))
    launch(RUN, *paths, processes=2)
    for config in configs:
        check_equals_whole(whole, config)


def test_clipping_and_overlap_see_the_whole_gradient(whole, configure):
    norm = lines_of(whole)[0]["gradient_norm"]
    for stage in (1, 2, 3):
        config = configure(
            study=f"clipped-{stage}",
            engine=engine(2, stage, overlap_communication=True),
            optimizer={"grad_clip": norm / 2},
            schedule={"steps": 1},
            objectives=OBJECTIVES,
        )
        train(config, silent)
        assert lines_of(config)[0]["gradient_norm"] == pytest.approx(norm, rel=1e-5)
        halved = {name: 2 * gradient for name, gradient in gradients_of(config).items()}
        check_equal_gradients(gradients_of(whole), halved)


@pytest.mark.parametrize("stage", [1, 3])
def test_an_interrupted_run_ends_as_an_undisturbed_one_bit_for_bit(stage, configure, metrics_of):
    options = {"engine": engine(2, stage), "schedule": {"steps": 5}, "objectives": ["hw"], "checkpoint": {"every": 100}}
    undisturbed = configure(study="undisturbed", **options)
    train(undisturbed, silent)

    def interrupt(record):
        if record.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    halves = configure(study="halves", **options)
    assert train(halves, interrupt) == "interrupted"
    assert train(halves, silent) == "done"
    assert metrics_of(halves.folder) == metrics_of(undisturbed.folder)
    ended = [reader.open_tensors(latest(config.folder).path) for config in (undisturbed, halves)]
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])
    assert ended[0]["updates"] == 5


def test_a_run_resumes_with_another_number_of_micro_batches(configure):
    changed = configure(engine=engine(1), schedule={"steps": 4}, objectives=["hw"])

    def interrupt(record):
        if record.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    assert train(changed, interrupt) == "interrupted"
    parts = configure(engine=engine(4), schedule={"steps": 4}, objectives=["hw"])
    assert parts.fingerprint() == changed.fingerprint()
    assert train(parts, silent) == "done"
    undisturbed = configure(study="undisturbed", engine=engine(1), schedule={"steps": 4}, objectives=["hw"])
    train(undisturbed, silent)
    for one, other in zip(lines_of(undisturbed), lines_of(parts), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_a_batch_that_micro_batches_do_not_divide_is_refused_before_anything_is_written(configure):
    config = configure(engine=engine(3), objectives=[])
    with pytest.raises(InputError, match=r"engine\.batch_size: 8 .*engine\.accumulation"):
        train(config, silent)
    assert not config.folder.exists()


def test_a_non_finite_micro_batch_skips_the_step(configure, monkeypatch):
    """One of four micro-batches of one step has an infinite pixel."""
    from hpc_jepa.training.batches import BatchPrefetcher

    get = BatchPrefetcher.get

    def spoilt(self, step):
        batch = get(self, step)
        if step == 1:
            batch.clips.pixels[5, 0, 0, 0, 0] = torch.inf
        return batch

    monkeypatch.setattr(BatchPrefetcher, "get", spoilt)
    config = configure(engine=engine(4), schedule={"steps": 4}, objectives=[])
    train(config, silent)
    assert [line["skipped_steps"] for line in lines_of(config)] == [0, 1, 0, 0]
    weights = reader.open_tensors(latest(config.folder).path)
    assert all(weights[name].isfinite().all() for name in weights if not name.startswith("random."))


def test_a_timed_step_does_not_accumulate(configure):
    with pytest.raises(InputError, match=r"engine\.accumulation"):
        StepRunner(configure(engine=engine(2), objectives=[]))
