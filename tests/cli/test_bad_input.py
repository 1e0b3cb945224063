"""What is wrong, where, and what to do: one line and an exit code for everything that can be put in wrongly."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from hpc_jepa.cli.app import app

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


def check(result, code, words):
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    check_words(result.exit_code, result.stderr, code, words)


def check_words(exit_code, stderr, code, words, told_before=0):
    """One line, after as many as a run that has begun has told."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    assert (exit_code, len(lines)) == (code, 1 + told_before), stderr
    assert lines[-1].startswith("error: ")
    assert re.search(words, lines[-1]), lines[-1]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("engine.batch_sise=4", r"engine\.batch_sise: unknown key \(did you mean 'batch_size'\?\)"),
        ("engine.zero_stage=7", r"engine\.zero_stage: Input should be 0, 1, 2 or 3"),
        ("data.clip.frames=7", r"run\.yaml: .*data\.clip\.frames \(7\) must be a multiple"),
        ("schedule.steps=-1", r"schedule\.steps: Input should be greater than or equal to 0"),
        ("objectives=[fmw]", r"unknown objective 'fmw' \(did you mean 'fwm'\?\)"),
        ("objectives=[fwm, fwm]", "twice"),
        ("objectives=[{fwm: {static_wight: 1}}]", r"static_wight: unknown option \(did you mean 'static_weight'\?\)"),
        ("objectives=[{fwm: {appearance_ratio: 1.5}}]", r"fwm\.appearance_ratio: Input should be less than 1"),
        ("masking.groups=[{blocks: 1, spatial_scale: 1.0}]", "hides the whole context"),
        ("runs=run.yaml", r"run\.yaml/.*cannot be made \(Not a directory\); choose another runs="),
        ("=3", "an override has the form key.sub=value"),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_written(here, setting, words):
    check(call("train", "run.yaml", setting), INPUT, words)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"run\.yaml: regime: required, but not set"),
        (b"regime: [", r"run\.yaml:1: not valid YAML"),
        (b"- regime", r"run\.yaml:1: a configuration is a mapping of keys, found list"),
        (b"\xff\xfe\x00\x80", r"run\.yaml: not a text file"),
        (b"regime: a\0b", r"run\.yaml: not a text file"),
        (b"a: &a {b: *a}", r"run\.yaml: an alias"),
        (b"extends: 3", r"run\.yaml:1: extends: one file name or a list"),
        (b"regime: x\nshedule: {}", r"run\.yaml:2: shedule: unknown key \(did you mean 'schedule'\?\)"),
    ],
)
def test_a_file_that_is_no_configuration_is_named_with_its_line(here, content, words):
    (here / "run.yaml").write_bytes(content)
    check(call("train", "run.yaml"), INPUT, words)


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


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, r"shards: no such folder; build it with: hpc-jepa shards build"),
        (empty, r"shards: not a shard folder, manifest\.json is missing"),
        (edit("manifest.json", lambda text: text[:99]), r"manifest\.json: damaged manifest"),
        (
            edit("000000.tar", lambda text: text[:5000]),
            r"000000\.tar: 5000 bytes, the manifest says \d+; copy or build",
        ),
        (
            edit("000000.idx", lambda text: b"\xff\xfe"),
            r"000000\.idx: damaged index, not text; run: hpc-jepa shards ind",
        ),
        (edit("000000.idx", lambda text: text.replace(b"mp4 ", b"mp4 9" + 30 * b"9", 1)), "points outside the tar"),
        (
            edit("000000.idx", lambda text: re.sub(rb"mp4 \d+ \d+", b"mp4 %d %d" % (2**62, 2**62), text)),
            "points outside",
        ),
        (
            edit("000000.idx", lambda text: re.sub(rb"\n(.+)\n.+\n", rb"\n\1\n\1\n", text, count=1)),
            r"000000\.idx: samples lie one in another; run: hpc-jepa shards index",
        ),
        (lambda shards: spoil(shards, lambda number: True), "10 samples in a row do not decode"),
        (
            lambda shards: [
                edit(tar.name, lambda t: t.replace(b'"width":32', b'"width":96'))(shards)
                for tar in shards.glob("*.tar")
            ],
            "is 32x32, not 96x32 as its description says",
        ),
    ],
)
def test_damaged_shards_are_named_and_nothing_is_written(here, damage, words):
    damage(here / "shards")
    check(call("train", "run.yaml"), DATA, words)
    assert not (here / "runs").exists()


def test_videos_shorter_than_a_clip_are_refused(here):
    check(call("train", "run.yaml", "data.clip.frames=32"), DATA, "longest video has 16 frames, a clip needs 32")


def test_a_clip_that_is_no_video_is_listed_and_the_run_goes_on_below_the_stated_rate(here):
    spoil(here / "shards", lambda number: number == 0)
    assert call("train", "run.yaml", "schedule.steps=4").exit_code == 0
    ledger = (here / "runs/adhoc/test/baseline/seed-239/log/dropped-0.jsonl").read_text()
    assert "does not decode" in ledger
    failed = call("train", "run.yaml", "schedule.steps=4", "study=strict", "data.undecodable_rate=0")
    words = r"\d samples did not decode.* data\.undecodable_rate = 0 allows"
    check_words(failed.exit_code, failed.stderr, DATA, words, told_before=1)  # how long the start took


def test_brackets_in_a_message_are_printed_as_they_are(here):
    result = call("train", "run.yaml", "data.sources.motion8.shards=x[bold]y[/nope]")
    check(result, DATA, re.escape("x[bold]y[/nope]: no such folder"))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "0"}, "RANK is set but WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set but RANK"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK is set but RANK"),
        (
            {"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"},
            "RANK=2: ranks of WORLD_SIZE=2 processes end at 1",
        ),
        (
            {"RANK": "x", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"},
            "RANK=x: not a number",
        ),
    ],
)
def test_half_a_launcher_is_no_launcher(variables, words, monkeypatch):
    from hpc_jepa.errors import InputError
    from hpc_jepa.training.launch import check_launcher_variables, is_single_process

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert is_single_process()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not is_single_process()
    with pytest.raises(InputError, match=words):
        check_launcher_variables()


def test_a_reader_that_has_seen_enough_hears_no_error():
    command = [sys.executable, "-m", "hpc_jepa", "objectives", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_processes_that_cannot_share_the_batch_say_so(here):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "-m", "hpc_jepa"]
    command = [*torchrun, "train", "run.yaml"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode != 0
    # The launcher ends the others with the first, so not all of them may get to say it.
    assert 1 <= finished.stderr.count("error: engine.batch_size: ") <= 3
    assert "exitcode  : 2" in finished.stderr
    assert not (here / "runs").exists()


def test_a_profile_of_more_steps_than_there_are_is_refused(here):
    check(call("train", "run.yaml", "--profile"), INPUT, "the run has 2 steps to go and a profile takes 10")
    assert not (here / "runs").exists()


def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(here):
    settings = ["schedule.lr=1e30", "schedule.warmup=0", "schedule.steps=4"]
    command = [sys.executable, "-m", "hpc_jepa", "train", "run.yaml", *settings]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    check_words(
        finished.returncode,
        finished.stderr,
        OTHER,
        r"step 4: 3 skipped, loss or gradient is not finite; lower schedule\.lr",
        told_before=6,  # how long the start took, and each step that was skipped and not saved
    )


@pytest.fixture
def trained(here):
    """The folder of a run of two steps that is done."""
    assert call("train", "run.yaml").exit_code == 0
    return here / "runs/adhoc/test/baseline/seed-239"


def test_another_configuration_does_not_enter_a_folder(trained):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    check(call("train", "run.yaml", "schedule.steps=3"), INPUT, r"another configuration \(schedule\.steps 2 -> 3\)")
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_a_second_run_does_not_enter_a_folder_in_use(trained):
    from hpc_jepa.io.atomic import exclusive_lock

    with exclusive_lock(trained / ".lock"):
        check(call("train", "run.yaml"), INPUT, r"seed-239: process \d+ on .* is writing here; wait for it, or stop it")
    assert call("train", "run.yaml").exit_code == 0


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x80", b"regime: ["])
def test_a_damaged_configuration_of_a_run_is_named(trained, content):
    (trained / "config.yaml").write_bytes(content)
    check(call("train", "run.yaml"), INPUT, r"seed-239/config\.yaml:")


def test_damaged_metrics_are_named_with_their_line(trained):
    with (trained / "metrics.jsonl").open("r+b") as file:
        file.write(b"x")
    check(call("train", "run.yaml"), DATA, r"metrics\.jsonl:1: ")


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:99])


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("weights-0000.safetensors", flip, "checksum differs"),
        ("weights-0000.safetensors", cut, "99 bytes instead of"),
        ("training-0000.safetensors", lambda path: path.unlink(), "missing"),
        ("manifest.json", cut, "missing or damaged"),
        ("manifest.json", lambda path: path.unlink(), "missing or damaged"),
    ],
)
def test_a_run_falls_back_aloud_from_a_damaged_checkpoint_and_ends_all_the_same(trained, caplog, name, damage, words):
    newest, before = trained / "checkpoints/step-00000002", trained / "checkpoints/step-00000001"
    weights = (newest / "weights-0000.safetensors").read_bytes()
    damage(newest / name)
    evaluated = call("evaluate", trained, "--benchmark", "motion8")
    if name != "training-0000.safetensors":
        assert evaluated.exit_code in (DATA, CHECKPOINT)  # the benchmark's own shards are not here
    assert call("train", "run.yaml").exit_code == 0
    assert re.search(f"{words}.*; set aside as damaged-00000002", caplog.text)
    assert (newest / "weights-0000.safetensors").read_bytes() == weights

    damage(newest / name)
    flip(before / "weights-0000.safetensors")
    check(
        call("train", "run.yaml"), CHECKPOINT, rf"{words}.*; no other checkpoint to go on from; remove .* to begin anew"
    )
