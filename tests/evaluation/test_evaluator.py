import json
import shutil

import numpy as np
import pytest
import torch

from hpc_jepa.checkpoint import reader
from hpc_jepa.checkpoint.layout import READ_ATTEMPTS, RemovedCheckpointError, resolve_checkpoint
from hpc_jepa.checkpoint.pretrained import load_encoder
from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data.shards.duplicates import shared_videos
from hpc_jepa.data.shards.shard_folder import ShardFolder
from hpc_jepa.errors import CheckpointError, DataError, InputError
from hpc_jepa.evaluation import record
from hpc_jepa.evaluation.evaluator import evaluate
from hpc_jepa.evaluation.progress import no_progress
from hpc_jepa.evaluation.record import ProbeRecord
from hpc_jepa.evaluation.run_encoders import load_run_encoders
from hpc_jepa.evaluation.stats.accuracy import accuracy
from hpc_jepa.models.video_jepa import VideoJEPA
from hpc_jepa.runs.process_identity import USER_FILE, current_process
from hpc_jepa.runs.run_dir import RunDir


def changed(benchmark, **protocol):
    standard = benchmark.protocols["standard"].model_copy(update=protocol)
    return benchmark.model_copy(update={"protocols": {"standard": standard}})


def test_encoders_have_the_weights_of_the_checkpoint_or_the_initialisation(run_folder):
    run = RunDir(run_folder)
    checkpoint = resolve_checkpoint(run.path)
    found = load_run_encoders(run.config, checkpoint, ["target", "student", "random_init"], torch.device("cpu"))
    torch.manual_seed(3)
    start = VideoJEPA(run.config.model, run.config.engine.precision).student.state_dict()
    for name, expected in {
        **{n: reader.read_part(checkpoint, n) for n in ("target", "student")},
        "random_init": start,
    }.items():
        state = found[name].state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert not any(encoder.training for encoder in found.values())


def test_the_random_encoder_does_not_change_the_global_random_state(run_folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run = RunDir(run_folder)
    load_run_encoders(run.config, resolve_checkpoint(run.path), ["random_init"], torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


def test_a_record_has_every_result_and_its_predictions(run_folder, benchmark):
    written = evaluate(run_folder, benchmark, "standard", ["target", "student", "random_init"])
    path = RunDir(run_folder).record_file("tiny8", "standard")
    assert record.read_record(ProbeRecord, path) == written
    assert [(r.weights, r.probe) for r in written.results] == [
        (weights, probe) for weights in ("target", "student", "random_init") for probe in ("linear", "attentive")
    ]
    predictions = record.read_predictions(path, written)
    np.testing.assert_array_equal(predictions["labels"], np.arange(48, 64) % 8)
    for result in written.results:
        right = predictions[result.key] == predictions["labels"]
        assert right.shape == (1 if result.probe == "linear" else 2, 16)
        assert result.value == pytest.approx(right.mean())
        assert (result.low, result.high) == (accuracy(right).low, accuracy(right).high)
        assert result.probe_seeds == (() if result.probe == "linear" else (0, 1))
    assert (written.run.step, written.run.steps, written.run.seed) == (20, 20, 3)


@pytest.fixture
def remove_while_read(run_folder, save, monkeypatch):
    """``remove_while_read(times)``: a training run saves the next checkpoint whenever the newest one is opened."""
    config = loading.read_config(RunConfig, [run_folder / "config.yaml"])
    verify = reader.verify_files
    opened = []

    def patch(times):
        def save_and_verify(checkpoint, prefix=""):
            opened.append(checkpoint.step)
            if len(opened) <= times:
                save(config, checkpoint.step + 1)  # keeps only this one
            return verify(checkpoint, prefix)

        monkeypatch.setattr(reader, "verify_files", save_and_verify)
        return opened

    return patch


def test_a_checkpoint_that_is_removed_while_it_is_read_is_replaced_by_the_newest(
    run_folder, benchmark, remove_while_read
):
    opened = remove_while_read(2)
    written = evaluate(run_folder, benchmark, "standard", ["target", "student"])
    assert written.run.step == 22 and opened == [20, 21, 22, 22]
    assert {result.weights for result in written.results} == {"target", "student"}


def test_checkpoints_that_are_always_removed_end_the_evaluation(run_folder, benchmark, remove_while_read):
    opened = remove_while_read(1000)
    with pytest.raises(RemovedCheckpointError, match="removed"):
        evaluate(run_folder, benchmark, "standard", ["target"])
    assert len(opened) == READ_ATTEMPTS
    with pytest.raises(RemovedCheckpointError, match="removed"):
        load_encoder(run_folder)


def test_other_readers_open_the_newest_checkpoint_too(run_folder, remove_while_read):
    remove_while_read(1)
    assert load_encoder(run_folder).width == 32
    with pytest.raises(InputError):
        load_encoder(run_folder / "checkpoints/step-00000020")


def test_only_missing_weights_are_evaluated(run_folder, benchmark):
    works = []

    def progress(title, total):
        works.append(title)
        return _nothing()

    first = evaluate(run_folder, benchmark, "standard", ["target"], progress=progress)
    works.clear()
    assert evaluate(run_folder, benchmark, "standard", ["target"], progress=progress) == first
    assert works == []
    both = evaluate(run_folder, benchmark, "standard", ["student", "target"], progress=progress)
    assert not any("target" in title for title in works)
    assert both.results[:2] == first.results and {r.weights for r in both.results} == {"target", "student"}
    again = evaluate(run_folder, benchmark, "standard", ["student", "target"], force=True)
    assert sorted(again.results, key=lambda r: r.key) == sorted(both.results, key=lambda r: r.key)


def test_a_record_with_the_fingerprints_of_release_0_1_is_current(run_folder, benchmark):
    first = evaluate(run_folder, benchmark, "standard", ["target"])
    config = loading.read_config(RunConfig, [run_folder / "config.yaml"])
    path = RunDir(run_folder).record_file(benchmark.name, "standard")
    content = json.loads(path.read_text())
    content["run"]["fingerprint"] = min(config.known_fingerprints() - {config.fingerprint()})
    protocol = benchmark.protocols["standard"]
    content["protocol_fingerprint"] = min(protocol.known_fingerprints() - {protocol.fingerprint()})
    path.write_text(json.dumps(content))
    written = path.stat().st_mtime_ns
    assert evaluate(run_folder, benchmark, "standard", ["target"]).results == first.results
    assert path.stat().st_mtime_ns == written, "evaluated again"


def test_the_protocol_name_of_release_0_1_still_works(run_folder, benchmark, tmp_path):
    written = evaluate(run_folder, benchmark, "standard", ["target"])
    new = RunDir(run_folder).record_file("tiny8", "standard")
    old = new.with_name("tiny8.careful.json")
    content = json.loads(new.read_text()) | {"protocol": "careful"}
    old.write_text(json.dumps(content))
    new.with_suffix(".npz").rename(old.with_suffix(".npz"))
    new.unlink()
    assert RunDir(run_folder).record_file("tiny8", "standard") == old
    assert record.read_record(ProbeRecord, old) == written
    values = json.loads(benchmark.model_dump_json())
    values["protocols"] = {"careful": values["protocols"]["standard"]}
    (tmp_path / "tiny8.yaml").write_text(json.dumps(values))
    overrides = ["protocols.careful.batch_size=5"]
    config = loading.read_config(BenchmarkConfig, [tmp_path / "tiny8.yaml"], overrides)
    assert config.protocols["standard"].batch_size == 5
    assert evaluate(run_folder, config, "careful", ["target"]) == written
    assert not new.exists()


def test_a_newer_checkpoint_or_a_changed_protocol_is_evaluated_again(run_folder, benchmark, save):
    evaluate(run_folder, benchmark, "standard", ["target"])
    save(loading.read_config(RunConfig, [run_folder / "config.yaml"]), step=30)
    newer = evaluate(run_folder, benchmark, "standard", ["student"])
    assert newer.run.step == 30 and {r.weights for r in newer.results} == {"student"}
    other = evaluate(run_folder, changed(benchmark, probe_seeds=(4,)), "standard", ["student"])
    assert other.results[1].probe_seeds == (4,)
    bigger_batches = evaluate(run_folder, changed(benchmark, probe_seeds=(4,), batch_size=16), "standard", ["student"])
    assert bigger_batches == other


def test_a_folder_without_run_or_checkpoint_is_refused(tmp_path, run_folder, benchmark):
    with pytest.raises(InputError, match=r"config\.yaml"):
        evaluate(tmp_path, benchmark, "standard", ["target"])
    (run_folder / "checkpoints/step-00000020/manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        evaluate(run_folder, benchmark, "standard", ["target"])


@pytest.mark.parametrize("command", ["", "hpc-jepa shards build tiny"])
def test_missing_shards_are_named_with_their_build_command(run_folder, benchmark, tmp_path, command):
    wanted = changed(benchmark, train=tmp_path / "no-such/train").model_copy(update={"build": command})
    with pytest.raises(DataError, match=rf"no-such/train.*{command or 'hpc-jepa shards build'}"):
        evaluate(run_folder, wanted, "standard", ["target"])
    assert not (run_folder / "eval").exists()


def test_another_number_of_classes_is_refused(run_folder, benchmark, shards):
    with pytest.raises(DataError, match=r"0-7 \(8\).*0-9 \(10\)"):
        evaluate(run_folder, benchmark.model_copy(update={"classes": 10}), "standard", ["target"])
    with pytest.raises(DataError, match=r"unlabelled.*-1--1 \(1\)"):
        evaluate(run_folder, changed(benchmark, test=shards / "unlabelled"), "standard", ["target"])


def test_an_unknown_protocol_or_benchmark_is_refused(run_folder, benchmark):
    with pytest.raises(InputError, match=r"tiny8.*published.*standard"):
        evaluate(run_folder, benchmark, "published", ["target"])
    with pytest.raises(InputError, match="motion8"):
        loading.find_config("motion9", "benchmark")


def test_a_damaged_record_is_refused_with_its_path(run_folder, benchmark):
    evaluate(run_folder, benchmark, "standard", ["target"])
    path = RunDir(run_folder).record_file("tiny8", "standard")
    content = path.read_text()
    path.write_text(content[:-40])
    with pytest.raises(DataError, match=r"tiny8.standard.json.*--force"):
        evaluate(run_folder, benchmark, "standard", ["target"])
    values = json.loads(content)
    values["results"][0]["value"] = 1.5
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=r"results\.0: .*value is 1\.5"):
        record.read_record(ProbeRecord, path)
    assert evaluate(run_folder, benchmark, "standard", ["target"], force=True)


def test_predictions_of_another_record_are_refused(run_folder, benchmark):
    written = evaluate(run_folder, benchmark, "standard", ["target"])
    path = RunDir(run_folder).record_file("tiny8", "standard")
    path.with_suffix(".npz").write_bytes(b"other")
    with pytest.raises(DataError, match=r"npz.*tiny8.standard.json"):
        record.read_predictions(path, written)
    path.with_suffix(".npz").unlink()
    with pytest.raises(DataError, match=r"tiny8.standard.npz"):
        record.read_predictions(path, written)


class _nothing:
    def __enter__(self):
        return lambda: None

    def __exit__(self, *error):
        return None


@pytest.mark.parametrize(("setting", "clip"), [({"size": 30}, "8x30x30"), ({"frames": 7}, "7x32x32")])
def test_clips_that_do_not_divide_into_tokens_are_refused(run_folder, benchmark, setting, clip):
    values = benchmark.model_dump()
    values["protocols"]["standard"]["clip"] |= setting
    unfit = BenchmarkConfig.model_validate(values)
    with pytest.raises(InputError, match=rf"standard\.clip.*{clip}.*2x8x8"):
        evaluate(run_folder, unfit, "standard", ["target"])
    assert not (run_folder / "eval").exists()


def test_results_of_two_commands_at_the_same_time_are_all_kept(run_folder, benchmark):
    alone = evaluate(run_folder, benchmark, "standard", ["student", "target"], force=True)
    RunDir(run_folder).record_file(benchmark.name, "standard").unlink()
    waiting = [True]

    def progress(title, total):
        if waiting and waiting.pop():
            evaluate(run_folder, benchmark, "standard", ["student"])
        return no_progress(title, total)

    both = evaluate(run_folder, benchmark, "standard", ["target"], progress=progress)
    assert sorted(both.results, key=lambda r: r.key) == sorted(alone.results, key=lambda r: r.key)
    path = RunDir(run_folder).record_file(benchmark.name, "standard")
    assert record.read_record(ProbeRecord, path) == both
    assert {result.key for result in both.results} <= record.read_predictions(path, both).keys()


@pytest.mark.parametrize("alive", [False, True])
def test_features_of_a_killed_command_are_deleted(run_folder, benchmark, alive):
    left = run_folder / ".features-left"
    left.mkdir()
    me = current_process()
    user = me if alive else me.model_copy(update={"start": 1})
    (left / USER_FILE).write_text(user.model_dump_json())
    evaluate(run_folder, benchmark, "standard", ["target"], force=True)
    assert [path.name for path in run_folder.glob(".features-*")] == ([left.name] if alive else [])
    shutil.rmtree(left, ignore_errors=True)


def test_test_shards_that_are_the_training_shards_are_refused(run_folder, benchmark, tmp_path):
    same = changed(benchmark, test=benchmark.protocols["standard"].train)
    with pytest.raises(InputError, match="all test videos"):
        evaluate(run_folder, same, "standard", ["target"], force=True)
    copied = tmp_path / "copied"
    shutil.copytree(benchmark.protocols["standard"].train, copied)
    with pytest.raises(InputError, match="copied"):
        evaluate(run_folder, changed(benchmark, test=copied), "standard", ["target"], force=True)


def test_single_shared_videos_are_found(benchmark, tmp_path):
    train, test = benchmark.protocols["standard"].train, benchmark.protocols["standard"].test
    assert shared_videos(train, test) == []
    folder = ShardFolder(train)
    assert shared_videos(train, train) == [(folder.key(i), folder.key(i)) for i in range(len(folder))]
