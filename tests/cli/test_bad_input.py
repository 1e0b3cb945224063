"""Every invalid input ends with one line and an exit code. Tests check the code and the key, path or number in it."""

import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app
from hpc_jepa.config.run import RunConfig
from hpc_jepa.runs import RunDir
from tests.waiting import run

INPUT, DATA, CHECKPOINT, OTHER = 2, 3, 4, 1


@pytest.fixture
def here(motion_shards, tmp_path, monkeypatch):
    """A folder with ``shards`` of its own and the ``run.yaml`` of a run of two steps."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(motion_shards / "unlabelled", tmp_path / "shards")
    settings = {
        "regime": "test",
        "model": {
            "encoder": {"width": 32, "depth": 2, "heads": 2, "patch": 8, "levels": [1, 2]},
            "predictor": {"width": 16, "depth": 1, "heads": 2},
        },
        "data": {"sources": {"motion8": {"shards": "shards"}}, "clip": {"frames": 8, "stride": 2, "size": 32}},
        "masking": {"groups": [{"blocks": 2, "spatial_scale": 0.2}]},
        "schedule": {"steps": 2},
        "engine": {"precision": "fp32", "batch_size": 4},
        "checkpoint": {"every": 1},
        "monitor": {"log_every": 1, "health_every": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def check(result, code, *names):
    """One line on stderr that holds every name: a key, a path, a number or a remedy. No empty line before it."""
    assert not result.stderr.startswith("\n"), result.stderr
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    assert len(lines_of(result.stderr)) == 1, result.stderr
    check_last_line(result.exit_code, result.stderr, code, *names)


def check_last_line(exit_code, stderr, code, *names):
    """The same for the last line of a run that has logged others before."""
    line = lines_of(stderr)[-1]
    assert exit_code == code and line.startswith("error: "), stderr
    assert all(re.search(name, line) for name in names), line


def lines_of(text):
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("engine.batch_sise=4", [r"engine\.batch_sise", "'batch_size'"]),
        ("engine.zero_stage=7", [r"engine\.zero_stage", "0, 1, 2 or 3"]),
        ("data.batch_size=4", [r"data\.batch_size", r"'engine\.batch_size'"]),
        ("optimizer.lr=1", [r"optimizer\.lr", r"'schedule\.lr'"]),
        ("model.encoder.heads=3", [r"^error: override model\.encoder\.heads=3: "]),
        (
            "data.clip.frames=7",
            [r"override data\.clip\.frames=7: ", r"model\.encoder\.tubelet \(2\)"],
        ),
        ("schedule.steps=-1", [r"schedule\.steps", "0"]),
        ("objectives=[fmw]", ["'fmw'", "'fwm'"]),
        ("objectives=[fwm, fwm]", ["objectives", "fwm"]),
        ("objectives=[{fwm: {static_wight: 1}}]", [r"objectives\.fwm\.static_wight", "'static_weight'"]),
        ("objectives=[{fwm: {appearance_ratio: 1.5}}]", [r"objectives\.fwm\.appearance_ratio", "1"]),
        ("masking.groups=[{blocks: 1, spatial_scale: 1.0}]", [r"masking\.groups", "spatial_scale", "temporal_keep"]),
        ("runs=run.yaml", [r"run\.yaml/", "Not a directory", "runs="]),
        ("=3", ["=3", r"key\.sub=value"]),
        ("nothing.like.it=1", [r"override nothing\.like\.it=1: nothing: "]),
        ("optimizer.betas=[0.9, 1.0]", [r"optimizer\.betas", "1"]),
        ("engine.batch_size=1000000000", [r"engine\.batch_size"]),
        ("data.clip.size=100000000", [r"data\.clip", "tokens"]),
        ("model.encoder.width=32000000000", [r"model\.encoder\.width"]),
    ],
)
def test_an_invalid_setting_is_named_and_nothing_is_written(here, setting, names):
    check(call("train", "run.yaml", setting), INPUT, *names)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("content", "location", "names"),
    [
        (b"", "run.yaml: ", ["regime"]),
        (b"regime: [", "run.yaml:1: ", ["YAML"]),
        (b"- regime", "run.yaml:1: ", ["list"]),
        (b"\xff\xfe\x00\x80", "run.yaml: ", ["UTF-8"]),
        (b"regime: a\0b", "run.yaml: ", ["UTF-8"]),
        (b"a: &a {b: *a}", "run.yaml: ", ["alias"]),
        (b"seed: 1\nregime: x\nseed: 2", "run.yaml:3: ", ["'seed'"]),
        (b"schedule: {lr: 1,\n lr: 2}", "run.yaml:2: ", ["'lr'"]),
        (b"extends: 3", "run.yaml:1: ", ["extends"]),
        (b"regime: x\nshedule: {}", "run.yaml:2: ", ["shedule", "'schedule'"]),
        (b"regime: x\nobjectives:\n  - fwm: {static_wight: 1}", "run.yaml: ", ["data"]),
    ],
)
def test_a_file_that_is_no_configuration_is_named_with_its_line(here, content, location, names):
    (here / "run.yaml").write_bytes(content)
    check(call("train", "run.yaml"), INPUT, f"^error: {re.escape(location)}", *names)


def test_a_missing_shipped_file_is_named_with_the_files_of_its_folder(here):
    check(call("train", "configs/regime/quikstart.yaml"), INPUT, r"'configs/regime/quickstart\.yaml'")
    check(call("train", "configs/regime/zz.yaml"), INPUT, r"configs/regime/zz\.yaml: ", "quickstart.*ucf101")


@pytest.mark.parametrize("kind", [("study", "plan"), ("study", "plan", "quickstart", "--cluster")])
def test_a_key_set_twice_in_a_study_or_a_profile_is_named(here, kind):
    (here / "twice.yaml").write_text("a: 1\nb: &b {c: 1}\nd: {<<: *b, c: 2}\na: 2\n")
    check(call(*kind, "twice.yaml"), INPUT, r"^error: twice\.yaml:4: .*'a'")


@pytest.mark.parametrize(("option", "known"), [("--task", "'probe'.*few_shot"), ("--protocol", "standard.*published")])
def test_an_unknown_choice_is_named_with_the_known_ones(here, option, known):
    check(call("evaluate", "RUN", "--benchmark", "motion8", option, "prob"), INPUT, f"{option} prob: ", known)


def test_the_folder_of_a_study_in_place_of_its_name_is_refused(here):
    (here / "runs/quickstart").mkdir(parents=True)
    check(call("study", "status", "runs/quickstart"), INPUT, r"^error: runs/quickstart: ", "quickstart --runs runs$")


def test_the_help_of_train_names_the_default_seed():
    assert str(RunConfig.model_fields["seed"].default) in call("train", "--help").stdout


def test_a_misspelt_option_of_an_objective_is_named_with_its_line(here):
    text = (here / "run.yaml").read_text()
    (here / "run.yaml").write_text(f"{text}objectives:\n- ld\n- fwm:\n    static_wight: 1\n")
    location = f"^error: run\\.yaml:{len(text.splitlines()) + 4}: "
    check(call("train", "run.yaml"), INPUT, location, r"objectives\.fwm\.static_wight", "'static_weight'")


def edit(name, change):
    """Rewrite a file of the shards."""

    def apply(shards):
        (shards / name).write_bytes(change((shards / name).read_bytes()))

    return apply


def empty(shards):
    shutil.rmtree(shards)
    shards.mkdir()


def spoil(shards, where):
    """Write over the chosen videos of every tar, ``where(number)``; sizes stay."""
    for tar in shards.glob("*.tar"):
        content = bytearray(tar.read_bytes())
        for number, line in enumerate(tar.with_suffix(".idx").read_text().splitlines()[1:]):
            offset, size = (int(word) for word in line.split()[5:7])
            if where(number):
                content[offset : offset + size] = bytes(size)
        tar.write_bytes(content)


def shrink_recorded_width(shards):
    for tar in shards.glob("*.tar"):
        edit(tar.name, lambda content: content.replace(b'"width":32', b'"width":96'))(shards)


def repeat_first_sample(text):
    return re.sub(rb"\n(.+)\n.+\n", rb"\n\1\n\1\n", text, count=1)


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (shutil.rmtree, ["shards: ", "hpc-jepa shards build"]),
        (empty, ["shards: ", r"manifest\.json"]),
        (edit("manifest.json", lambda text: text[:99]), [r"manifest\.json"]),
        (edit("000000.tar", lambda text: text[:5000]), [r"000000\.tar", "5000"]),
        (edit("000000.idx", lambda text: b"\xff\xfe"), [r"000000\.idx", "hpc-jepa shards index"]),
        (edit("000000.idx", lambda text: text.replace(b"mp4 ", b"mp4 9" + 30 * b"9", 1)), [r"000000\.idx", r"\btar\b"]),
        (
            edit("000000.idx", lambda text: re.sub(rb"mp4 \d+ \d+", b"mp4 %d %d" % (2**62, 2**62), text)),
            [r"000000\.idx", r"\btar\b"],
        ),
        (edit("000000.idx", repeat_first_sample), [r"000000\.idx", "hpc-jepa shards index"]),
        (lambda shards: spoil(shards, lambda number: True), [r"\b10\b", "decode"]),
        (shrink_recorded_width, ["32x32", "96x32"]),
    ],
)
def test_damaged_shards_are_named_and_nothing_is_written(here, damage, names):
    damage(here / "shards")
    check(call("train", "run.yaml"), DATA, *names)
    assert not (here / "runs").exists()


def test_videos_shorter_than_a_clip_are_refused(here):
    check(call("train", "run.yaml", "data.clip.frames=32"), DATA, r"\b16\b", r"\b32\b")


def test_an_undecodable_clip_is_logged_and_the_run_continues_below_the_limit(here):
    spoil(here / "shards", lambda number: number == 0)
    assert call("train", "run.yaml", "schedule.steps=4").exit_code == 0
    (log,) = (here / "runs/adhoc/test/baseline/seed-239/log").glob("*-0.jsonl")
    assert "decode" in log.read_text()
    failed = call("train", "run.yaml", "schedule.steps=4", "study=strict", "data.undecodable_rate=0")
    check_last_line(failed.exit_code, failed.stderr, DATA, r"data\.undecodable_rate.*\b0\b")


def test_brackets_in_a_message_are_printed_as_they_are(here):
    result = call("train", "run.yaml", "data.sources.motion8.shards=x[bold]y[/nope]")
    check(result, DATA, re.escape("x[bold]y[/nope]: "))


def test_a_promised_gpu_that_torch_does_not_see_is_refused_unless_the_cpu_is_chosen(here, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-00000000")  # no such GPU
    check(call("train", "run.yaml"), INPUT, "CUDA_VISIBLE_DEVICES=GPU-00000000", re.escape(torch.__version__))
    assert not (here / "runs").exists()
    assert call("train", "run.yaml", "engine.device=cpu").exit_code == 0


LAUNCHER = {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"}


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({"RANK": "0"}, "RANK.* WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE.* RANK"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK.* RANK"),
        (LAUNCHER, "RANK=2.* WORLD_SIZE=2"),
        (LAUNCHER | {"RANK": "x"}, "RANK=x"),
    ],
)
def test_incomplete_launcher_variables_are_refused(variables, names, monkeypatch):
    from hpc_jepa.errors import InputError
    from hpc_jepa.training.launch import check_launcher_variables, is_single_process

    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)
    assert is_single_process()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not is_single_process()
    with pytest.raises(InputError, match=names):
        check_launcher_variables()


def test_a_closed_pipe_causes_no_error_message():
    command = [sys.executable, "-m", "hpc_jepa", "objectives", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_batch_that_processes_cannot_share_is_refused(here):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "-m", "hpc_jepa"]
    command = [*torchrun, "train", "run.yaml"]
    finished = run(command)
    assert finished.returncode != 0
    # torchrun ends the other processes with the first, so not all of them may print the error.
    assert 1 <= finished.stderr.count("error: engine.batch_size: ") <= 3
    assert "exitcode  : 2" in finished.stderr
    assert not (here / "runs").exists()


def test_a_profile_of_more_steps_than_there_are_is_refused(here):
    check(call("train", "run.yaml", "--profile"), INPUT, r"\b2 steps\b", r"\b10\b")
    assert not (here / "runs").exists()


def test_a_non_finite_loss_ends_the_run_and_is_not_saved(here):
    settings = ["schedule.lr=1e30", "schedule.warmup=0", "schedule.steps=4"]
    command = [sys.executable, "-m", "hpc_jepa", "train", "run.yaml", *settings]
    finished = run(command)
    check_last_line(finished.returncode, finished.stderr, OTHER, r"step 4: .*\b3\b", r"schedule\.lr")
    assert not (here / "runs/adhoc/test/baseline/seed-239/checkpoints/step-00000004").exists()


@pytest.fixture
def trained(here):
    """The folder of a finished run of two steps."""
    assert call("train", "run.yaml").exit_code == 0
    return here / "runs/adhoc/test/baseline/seed-239"


def test_another_configuration_does_not_enter_a_folder(trained):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    result = call("train", "run.yaml", "schedule.steps=3")
    check_last_line(result.exit_code, result.stderr, INPUT, "seed-239: ", r"schedule\.steps 2 -> 3")
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_a_second_run_does_not_enter_a_folder_in_use(trained):
    from hpc_jepa.io.atomic import exclusive_lock

    with exclusive_lock(trained / ".lock"):
        check(call("train", "run.yaml"), INPUT, r"seed-239: process \d+ on ")
    assert call("train", "run.yaml").exit_code == 0


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x80", b"regime: ["])
def test_a_damaged_configuration_of_a_run_is_named(trained, content):
    (trained / "config.yaml").write_bytes(content)
    check(call("train", "run.yaml"), INPUT, r"seed-239/config\.yaml:")


def test_damaged_metrics_are_named_with_their_line(trained):
    with (trained / "metrics.jsonl").open("r+b") as file:
        file.write(b"x")
    check(call("train", "run.yaml"), DATA, r"metrics\.jsonl:1: ")


def test_a_removed_state_file_is_written_again(trained):
    (trained / "state.json").unlink()
    assert call("train", "run.yaml").exit_code == 0
    assert RunDir(trained).state.state == "done"


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:99])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights-0000.safetensors", flip),
        ("weights-0000.safetensors", cut),
        ("training-0000.safetensors", lambda path: path.unlink()),
        ("manifest.json", cut),
        ("manifest.json", lambda path: path.unlink()),
    ],
)
def test_a_run_continues_from_the_checkpoint_before_a_damaged_one_and_logs_it(trained, caplog, name, damage):
    newest, before = trained / "checkpoints/step-00000002", trained / "checkpoints/step-00000001"
    weights = (newest / "weights-0000.safetensors").read_bytes()
    damage(newest / name)
    evaluated = call("evaluate", trained, "--benchmark", "motion8")
    if name != "training-0000.safetensors":
        assert evaluated.exit_code in (DATA, CHECKPOINT)  # the benchmark's own shards are not here
    assert call("train", "run.yaml").exit_code == 0
    assert re.search(f"{name}.*damaged-00000002", caplog.text)
    assert (newest / "weights-0000.safetensors").read_bytes() == weights

    damage(newest / name)
    flip(before / "weights-0000.safetensors")
    check(call("train", "run.yaml"), CHECKPOINT, name, "study=")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["study", "plann"], "plan"),
        (["study", "plan", "--clutser", "x"], "--cluster"),
        (["--foo"], "--foo"),
        (["study", "plan"], "STUDY"),
        (["study", "submit", "x", "--jobs", "0"], "--jobs"),
        (["report"], "--published"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, named):
    result = call(*arguments)
    check(result, INPUT, named)


@pytest.mark.parametrize("name", ["[v2]", "x[/y]", "a b", "\x1b[31mred"])
def test_a_name_is_shown_as_it_is(tmp_path, name):
    result = call("checkpoint", "list", tmp_path / name)
    assert result.exit_code == INPUT and "\x1b[31m" not in result.stderr
    assert name.replace("\x1b", "\\x1b") in result.stderr
