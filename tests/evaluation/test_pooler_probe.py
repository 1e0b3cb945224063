"""V-JEPA 2's frozen evaluation: training, selection, views of a test, restart and several processes."""

import math
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.config.pooler_probe import PoolerProbeConfig
from hpc_jepa.data.probe_clips import LabelledViews, ProbeClips
from hpc_jepa.distributed import GlooGroup
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation import record
from hpc_jepa.evaluation.context import EvaluationContext
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.evaluation.probes import pooler_trainer
from hpc_jepa.evaluation.probes.attentive_pooler import PoolerClassifier
from hpc_jepa.evaluation.probes.fit import validation_rows
from hpc_jepa.evaluation.probes.pooler_trainer import Poolers, PoolerSource, learning_rate, train_poolers
from hpc_jepa.evaluation.progress import no_progress
from hpc_jepa.evaluation.split_clips import COLLECTIVE_TIMEOUT, SplitClips
from hpc_jepa.evaluation.tasks import pooler_probe
from hpc_jepa.runs.run_dir import RunDir

WORKER = Path(__file__).parent / "workers" / "evaluate_poolers.py"
CPU = torch.device("cpu")
PROBE = {
    "kind": "attentive", "blocks": 2, "heads": 4, "lr": [1e-3, 1e-2], "weight_decay": [0.1, 0.8], "epochs": 2,
    "batch_size": 20, "augmentation": {"policy": "rand_augment", "area": [0.5, 1.0], "erase": 0.5},
}  # fmt: skip
CLIP = {"frames": 4, "sampling": "segments", "stride": 1, "clips": 2, "crops": 3, "size": 24}


def with_poolers(benchmark: BenchmarkConfig, clip=CLIP, **changes) -> BenchmarkConfig:
    values = benchmark.model_dump()
    protocol = values["protocols"].pop("standard")
    changed = {"clip": clip, "probes": {"pooler": PROBE | changes}, "validation": 0.4}
    return BenchmarkConfig.model_validate({**values, "protocols": {"vjepa": protocol | changed}})


class TaughtClips:
    """Clips whose label is the channel that is bright, with noise that changes from epoch to epoch."""

    def augmented(self, sample: int, epoch: int) -> LabelledViews:
        return self.make(sample, epoch, 1)

    def views(self, sample: int) -> LabelledViews:
        return self.make(sample, 999, 3)

    def make(self, sample: int, epoch: int, views: int) -> LabelledViews:
        noise = np.random.default_rng((sample, epoch)).normal(size=(views, 2, 3, 4, 8, 8))
        noise[:, :, sample % 3, :, 2:4] += 1
        return LabelledViews(torch.from_numpy(noise).float(), sample % 3)


def patches(pixels: torch.Tensor) -> torch.Tensor:
    """[B, C, F, 8, 8] -> tokens [B, 16, 16]: a fixed random projection of 2 x 2 pixels of the mean over frames."""
    unfolded = torch.nn.functional.unfold(pixels.mean(2), 2, stride=2).transpose(1, 2)
    return unfolded @ torch.randn(12, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def source():
    return PoolerSource(TaughtClips(), patches, limit=8, threads=1)


@pytest.fixture
def keep_poolers():
    """A context in which the classifiers of every training are kept in a list."""

    @contextmanager
    def keep():
        kept, original = [], pooler_trainer.train_poolers

        def train(poolers, *rest):
            kept.append(poolers)
            original(poolers, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pooler_probe, "train_poolers", train)
            yield kept

    return keep


@pytest.fixture
def requested(monkeypatch):
    """What the evaluation asks of ProbeClips: (split, sample, epoch) of training clips, (split, sample) of views."""
    seen = {"augmented": [], "views": []}
    augmented, views = ProbeClips.augmented, ProbeClips.views

    def note_augmented(self, sample, epoch):
        seen["augmented"].append((self._shards.path.name, sample, epoch))
        return augmented(self, sample, epoch)

    def note_views(self, sample):
        seen["views"].append((self._shards.path.name, sample))
        return views(self, sample)

    monkeypatch.setattr(ProbeClips, "augmented", note_augmented)
    monkeypatch.setattr(ProbeClips, "views", note_views)
    return seen


def config_of(**changes) -> PoolerProbeConfig:
    settings = {"kind": "attentive", "blocks": 2, "heads": 4, "lr": 3e-3, "weight_decay": 0.1, "epochs": 4}
    return PoolerProbeConfig.model_validate({**settings, "batch_size": 12, **changes})


def trained(source, config, samples, seeds=(0,)):
    poolers = Poolers(config, 16, 3, seeds, CPU, COLLECTIVE_TIMEOUT)
    train_poolers(poolers, source, np.asarray(samples), 2, 0, 0, lambda: None, lambda epochs: None)
    return poolers


def test_a_planted_signal_is_learned(source):
    poolers = trained(source, config_of(lr=[3e-3, 1e-6]), range(96))
    test = np.arange(200, 260)
    predicted = pooler_trainer.predict_poolers(poolers, poolers.heads, source, test, 6, GlooGroup(), lambda: None)
    accuracies = (predicted == test % 3).mean(1)
    assert accuracies[0] > 0.95 and accuracies[1] < 0.7


def test_training_is_adamw_on_the_mean_over_the_batch(source):
    """Two epochs written out: whole batches at once, torch's AdamW, the schedule of V-JEPA 2."""
    config = config_of(epochs=2, lr=2e-3, weight_decay=0.4, start_lr=1e-3, warmup=1)
    samples = np.arange(30)
    found = trained(source, config, samples).heads[0].state_dict()
    torch.manual_seed(0)
    probe = PoolerClassifier(16, 3, 2, 4)
    optimizer, number = torch.optim.AdamW(probe.parameters(), lr=0.1, weight_decay=0.4), 0
    rates = [1e-3 + 1 / 3 * 1e-3, 1e-3 + 2 / 3 * 1e-3, 2e-3, 2e-3 * 0.75, 2e-3 * 0.25, 0.0]
    for epoch in range(2):
        order = np.random.default_rng((0, epoch)).permutation(samples)
        for start in range(0, 30, 12):
            batch = order[start : start + 12].tolist()
            pixels = torch.cat([source.clips.augmented(sample, epoch).pixels for sample in batch])
            tokens = torch.cat([patches(pixels[:, 0]), patches(pixels[:, 1])], dim=1)
            torch.nn.functional.cross_entropy(probe(tokens), torch.tensor(batch) % 3).backward()
            optimizer.param_groups[0]["lr"] = rates[number]
            optimizer.step()
            optimizer.zero_grad()
            number += 1
    for name, weight in probe.state_dict().items():
        torch.testing.assert_close(found[name], weight, atol=2e-5, rtol=1e-4)


def test_the_schedule_is_that_of_the_original():
    config = config_of(epochs=5, warmup=1, start_lr=2e-4)
    rates = [learning_rate(config, 1e-3, step, 10) for step in range(1, 51)]
    for step, found in enumerate(rates, start=1):
        cosine = 1e-3 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 40))
        assert found == pytest.approx(2e-4 + step / 10 * 8e-4 if step < 10 else cosine)
    assert rates[-1] == 0 and config_of().start_lr is None
    assert learning_rate(config_of(), 1e-3, 1, 10) == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi / 40)))


def test_candidates_do_not_influence_each_other(source):
    together = trained(source, config_of(lr=[3e-3, 1e-3], weight_decay=[0.1, 0.8]), range(24), seeds=(0, 1))
    settings = [(s.lr, s.weight_decay, s.seed) for s in together.settings]
    assert len(settings) == 8 and settings[:3] == [(3e-3, 0.1, 0), (3e-3, 0.1, 1), (1e-3, 0.1, 0)]
    alone = trained(source, config_of(lr=1e-3, weight_decay=0.8), range(24), seeds=(1,))
    for name, weight in alone.heads[0].state_dict().items():
        torch.testing.assert_close(together.heads[settings.index((1e-3, 0.8, 1))].state_dict()[name], weight)


@pytest.mark.parametrize("select", ["validation", "test"])
def test_the_record_names_the_clips_of_the_selection(run_folder, benchmark, select):
    config = with_poolers(benchmark, select=select)
    written = evaluate(run_folder, config, "vjepa", ["target"])
    (result,) = written.results
    assert result.selected_on == select and len(result.candidates) == 4 and len(result.per_seed) == 2
    assert result.probe == "pooler" and result.n == 16
    scores = [getattr(candidate, select) for candidate in result.candidates]
    assert result.setting == result.candidates[int(np.argmax(scores))].setting
    if select == "test":
        assert result.value == max(scores)
    assert not list(run_folder.glob(".probes-*")) and not list(run_folder.glob(".features-*"))
    stored = record.read_record(record.ProbeRecord, RunDir(run_folder).record_file("tiny8", "vjepa"))
    assert stored == written
    assert evaluate(run_folder, config, "vjepa", ["target"]) == written


def test_predictions_are_the_mean_over_crops_of_joined_segments(run_folder, benchmark, keep_poolers):
    """Recomputed from the trained weights: one row of tokens per crop, softmax, mean, argmax."""
    config = with_poolers(benchmark, lr=1e-2, weight_decay=0.1)
    with keep_poolers() as kept:
        written = evaluate(run_folder, config, "vjepa", ["target"])
    predictions = record.read_predictions(RunDir(run_folder).record_file("tiny8", "vjepa"), written)
    clips = SplitClips.open(config, "vjepa", no_progress, GlooGroup())
    context = EvaluationContext.open(run_folder, clips)
    encode = context.encoders(["target"])["target"].encode
    protocol = config.protocols["vjepa"]
    probe_clips = ProbeClips(protocol.test, protocol.clip, protocol.probes["pooler"].augmentation, 0)
    with torch.no_grad():
        for row, sample in enumerate(predictions["samples"].tolist()):
            pixels, label = probe_clips.views(sample)
            assert label == predictions["labels"][row]
            for seed, head in enumerate(kept[0].heads):
                mean = sum(head(torch.cat([encode(view[:1]), encode(view[1:])], dim=1)).softmax(-1) for view in pixels)
                assert int(mean.argmax()) == predictions["target.pooler"][seed, row]


def test_training_leaves_out_the_clips_of_the_selection(run_folder, benchmark, requested):
    evaluate(run_folder, with_poolers(benchmark), "vjepa", ["target"])
    rows, held_out = validation_rows(np.arange(48) % 8, None, 0.4)
    assert sorted(requested["augmented"]) == [("train", int(row), epoch) for row in rows for epoch in (0, 1)]
    first, *others = requested["views"]  # the first shows the width of the tokens
    assert first == ("train", int(rows[0]))
    assert sorted(others) == [("test", row) for row in range(16)] + [("train", int(row)) for row in held_out]


def test_an_interrupted_training_continues_with_the_same_bits(
    run_folder, benchmark, monkeypatch, tmp_path, requested, keep_poolers
):
    config = with_poolers(benchmark)
    shutil.copytree(run_folder, tmp_path / "undisturbed")
    with keep_poolers() as kept:
        expected = evaluate(tmp_path / "undisturbed", config, "vjepa", ["target"])
    original = ProbeClips.augmented

    def fail_in_the_second_epoch(self, sample, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        return original(self, sample, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(ProbeClips, "augmented", fail_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(run_folder, config, "vjepa", ["target"])
    (state,) = run_folder.glob(".probes-*/*")
    shutil.copytree(run_folder, tmp_path / "other")
    requested["augmented"].clear()
    with keep_poolers() as continued:
        found = evaluate(run_folder, config, "vjepa", ["target"])
    assert {epoch for _, _, epoch in requested["augmented"]} == {1} and not state.exists()
    assert found.results == expected.results
    for head, other in zip(kept[0].heads, continued[0].heads, strict=True):
        for name, weight in head.state_dict().items():
            assert torch.equal(other.state_dict()[name], weight)
    requested["augmented"].clear()
    evaluate(tmp_path / "other", with_poolers(benchmark, lr=[1e-3, 2e-3]), "vjepa", ["target"])
    assert {epoch for _, _, epoch in requested["augmented"]} == {0, 1}, "the state of other settings was used"


def test_a_damaged_state_is_not_used(source, tmp_path):
    poolers = trained(source, config_of(epochs=1), range(12))
    path = tmp_path / "states" / "probe.pt"
    poolers.save(path, "key", 1)
    assert poolers.load(path, "key", GlooGroup()) == 1
    assert poolers.load(path, "another key", GlooGroup()) == 0
    path.write_bytes(path.read_bytes()[:1000])
    assert poolers.load(path, "key", GlooGroup()) == 0
    assert poolers.load(tmp_path / "missing.pt", "key", GlooGroup()) == 0


def test_three_processes_are_one(run_folder, benchmark, cut_shards, launch, tmp_path, keep_poolers):
    """Their sums of gradients differ in rounding; 29 training clips do not divide by three."""
    values = with_poolers(benchmark, lr=[1e-3, 3e-3], weight_decay=0.1).model_dump()
    values["protocols"]["vjepa"] |= {"train": cut_shards / "True" / "train", "test": cut_shards / "True" / "test"}
    wanted = BenchmarkConfig.model_validate(values)
    (tmp_path / "tiny8.yaml").write_text(loading.dump_config(wanted))
    shared = tmp_path / "shared"
    shutil.copytree(run_folder, shared)
    launch(WORKER, shared, tmp_path / "tiny8.yaml", tmp_path / "weights.pt", processes=3)
    with keep_poolers() as kept:
        alone = evaluate(run_folder, wanted, "vjepa", ["target"])
    together = record.read_record(record.ProbeRecord, RunDir(shared).record_file("tiny8", "vjepa"))
    for heads, path in ((kept[0].heads, tmp_path / f"weights.pt.{rank}") for rank in range(3)):
        for head, weights in zip(heads, torch.load(path), strict=True):
            for name, weight in head.state_dict().items():
                torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=1e-3)
    assert together.results == alone.results and together.clusters == alone.clusters == 8


BAD = {
    "a negative rate": ({"lr": [1e-3, -1e-3]}, CLIP),
    "a negative decay": ({"weight_decay": -0.1}, CLIP),
    "no rate": ({"lr": []}, CLIP),
    "no block": ({"blocks": 0}, CLIP),
    "a pooled input": ({"pooling": "mean"}, CLIP),
    "an option of another kind": ({"updates": 5}, CLIP),
    "no crop": ({}, CLIP | {"size": None, "crops": 1}),
    "crops of whole frames": ({}, CLIP | {"size": None}),
    "a resize below the crop": ({}, CLIP | {"resize": 20}),
    "warm-up as long as training": ({"warmup": 2}, CLIP),
    "an area above one": ({"augmentation": {"area": [0.5, 1.5]}}, CLIP),
}


@pytest.mark.parametrize(("probe", "clip"), BAD.values(), ids=BAD)
def test_contradictions_are_refused(benchmark, probe, clip):
    with pytest.raises(ValidationError):
        with_poolers(benchmark, clip, **probe)


def test_a_key_of_another_kind_is_not_suggested():
    key = "protocols.vjepa.probes.attentive.updates"
    with pytest.raises(InputError, match=key) as error:
        loading.read_config(BenchmarkConfig, [loading.find_config("ssv2", "benchmark")], [f"{key}=5"])
    assert "did you mean" not in str(error.value)


def test_candidates_need_a_validation_split_or_the_test_clips(benchmark):
    values = with_poolers(benchmark).model_dump()
    values["protocols"]["vjepa"]["validation"] = 0.0
    with pytest.raises(ValidationError, match=r"pooler.*4.*validation"):
        BenchmarkConfig.model_validate(values)
    values["protocols"]["vjepa"]["probes"]["pooler"]["select"] = "test"
    BenchmarkConfig.model_validate(values)


def test_heads_must_divide_the_width(run_folder, benchmark):
    with pytest.raises(InputError, match=r"3.*32"):
        evaluate(run_folder, with_poolers(benchmark, heads=3), "vjepa", ["target"])


def test_robustness_of_a_pooler_is_refused(run_folder, benchmark):
    with pytest.raises(InputError, match="blocks"):
        evaluate(run_folder, with_poolers(benchmark), "vjepa", ["target"], task="robustness")


def test_probes_on_features_see_the_same_views(run_folder, benchmark):
    values = with_poolers(benchmark).model_dump()
    values["protocols"]["vjepa"]["probes"] = {"linear": {"kind": "logistic", "l2": [1e-2]}, "pooler": PROBE}
    config = BenchmarkConfig.model_validate(values)
    written = evaluate(run_folder, config, "vjepa", ["target"])
    assert [result.probe for result in written.results] == ["linear", "pooler"]
    assert all(result.n == 16 for result in written.results)


@pytest.mark.parametrize("name", ["ssv2", "kinetics400", "diving48", "imagenet100"])
def test_the_shipped_protocols_are_those_of_the_original(name):
    config = loading.read_config(BenchmarkConfig, [loading.find_config(name, "benchmark")]).protocols["vjepa"]
    (probe,) = config.probes.values()
    expected = {
        "ssv2": (16, 4, 2, 3, 20, 256, 20), "kinetics400": (16, 4, 8, 3, 20, 256, 20),
        "diving48": (32, 2, 4, 3, 100, 128, 3), "imagenet100": (16, 1, 1, 1, 20, 1024, 20),
    }[name]  # fmt: skip
    clip = config.clip
    found = (clip.frames, clip.stride, clip.clips, clip.crops, probe.epochs, probe.batch_size, len(probe.settings))
    assert found == expected and (probe.blocks, probe.heads, clip.size) == (4, 16, 256)


def test_the_command_line_says_that_the_test_clips_selected(run_folder, benchmark, tmp_path):
    shown = {}
    for select in ("validation", "test"):
        config = with_poolers(benchmark, select=select, epochs=1, blocks=1)
        (tmp_path / "tiny8.yaml").write_text(loading.dump_config(config))
        arguments = ["evaluate", str(run_folder), "--benchmark", str(tmp_path / "tiny8.yaml"), "--protocol", "vjepa"]
        result = CliRunner().invoke(app, [*arguments, "--weights", "target"])
        assert result.exit_code == 0 and "pooler" in result.stdout
        shown[select] = "too high" in result.stdout
    assert shown == {"validation": False, "test": True}
