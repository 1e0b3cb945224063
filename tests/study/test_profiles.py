"""Profiles of clusters, and what submitit makes of them."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from hpc_jepa.config.cluster import PROFILES, find_profile
from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import list_resources
from hpc_jepa.study.slurm_submitter import SlurmSubmitter
from hpc_jepa.study.task import StudyTask

SMALL = {
    "partition": "gpu",
    "train": {"gpus_per_node": 4, "cpus_per_node": 32, "memory_gib": 120, "time": "1-02:30:00"},
    "evaluate": {"cpus_per_node": 8, "time": 30},
}


@pytest.fixture
def profile(tmp_path):
    """``profile(key=value)`` writes a profile and reads it."""

    def write(**changes):
        path = tmp_path / "site.yaml"
        path.write_text(yaml.safe_dump(SMALL | changes, sort_keys=False))
        return find_profile(str(path))

    return write


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """``sbatch(text)``: a command of that text takes the place of sbatch, beside a silent srun."""

    def put(text):
        for name, content in (("sbatch", text), ("srun", "true")):
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{content}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    return put


@pytest.mark.parametrize("name", sorted(list_resources(PROFILES)))
def test_every_profile_that_comes_with_the_project_is_valid(name):
    assert find_profile(name).cluster.about


def test_times_are_minutes_however_they_are_written(profile):
    assert profile().cluster.train.time == 26 * 60 + 30
    assert profile(evaluate={"cpus_per_node": 1, "time": "00:00:30"}).cluster.evaluate.time == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partitions": "gpu"}, r"site.yaml:\d+: partitions: unknown key \(did you mean 'partition'\?\)"),
        ({"evaluate": {"cpus_per_node": 1, "time": "soon"}}, r"site.yaml:\d+: evaluate.time: 'soon' is not a time"),
        ({"evaluate": {"cpus_per_node": 1, "gpus_per_node": 2, "time": 1}}, "2 processes need a core each"),
        ({"evaluate": {"cpus_per_node": 9, "gpus_per_node": 2, "tasks_per_node": 4, "time": 1}}, "one for each GPU"),
        ({"sbatch": {"time": 5}}, "the submission sets --time itself; use the keys of the profile"),
    ],
)
def test_a_profile_that_cannot_work_is_refused_with_its_line(profile, changes, words):
    with pytest.raises(InputError, match=words):
        profile(**changes)


def test_an_unknown_profile_is_named_with_the_nearest_one():
    with pytest.raises(InputError, match=r"--cluster smal: no such profile \(did you mean 'small'\?\)"):
        find_profile("smal")


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("sbatch: error: invalid partition specified: gpu", r"site.yaml:1: partition"),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination",
            r"site.yaml: account \(not set\)",
        ),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid", r"site.yaml:6: train.time"),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            r"train.gpus_per_node",
        ),
        ("sbatch: error: Memory specification can not be satisfied", r"site.yaml:5: train.memory_gib"),
    ],
)
def test_what_sbatch_refuses_is_said_in_its_words_with_the_key_it_is_about(profile, sbatch, tmp_path, words, key):
    sbatch(f"echo '{words}' >&2; exit 1")
    submission = SlurmSubmitter(profile(), tmp_path / "jobs", "demo")
    with pytest.raises(InputError, match=key) as raised:
        submission.array([StudyTask("train", tmp_path, (("train",),))])
    assert words in str(raised.value)


def test_a_batch_script_holds_what_the_profile_says(profile, sbatch, tmp_path):
    sbatch('cp "$1" script; echo "Submitted batch job 12"')
    site = profile(
        account="mine", reservation="tuesday", exclude=["bad1", "bad2"], sbatch={"nice": 100}, at_once=3, warning=77,
        setup=["module load cuda"], environment={"A": "b c"}, nccl={"interface": "ib0", "infiniband": False},
        shared_memory_gib=2, python="apptainer exec image.sif python3",
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        tasks = [StudyTask("train", tmp_path / str(n), (("train",),)) for n in range(5)]
        jobs = SlurmSubmitter(site, tmp_path / "jobs", "demo").array(tasks, "afterok:9")
    script = (tmp_path / "script").read_text()
    assert [job.job for job in jobs] == [f"12_{n}" for n in range(5)]
    for option in (
        "partition=gpu", "account=mine", "reservation=tuesday", "exclude=bad1,bad2", "nice=100", "array=0-4%3",
        "time=1590", "gpus-per-node=4", "ntasks-per-node=4", "cpus-per-task=8", "mem=122880M", "signal=USR2@77",
        "dependency=afterok:9", "requeue", "kill-on-invalid-dep=yes", "job-name=demo-train",
    ):  # fmt: skip
        assert f"#SBATCH --{option}\n" in script, option
    for line in ("module load cuda", "export A='b c'", "export NCCL_SOCKET_IFNAME=ib0", "export NCCL_IB_DISABLE=1"):
        assert f"\n{line}\n" in script
    assert "/dev/shm" in script and "apptainer exec image.sif python3" in script
    assert script.index("module load") < script.index("srun") < script.index("after_srun.sh")


@pytest.mark.parametrize(
    ("state", "code", "requeued"), [("RUNNING", 130, True), ("RUNNING", 1, False), ("CANCELLED", 130, False)]
)
def test_a_job_is_queued_again_only_where_it_saved_and_nobody_cancelled_it(tmp_path, sbatch, state, code, requeued):
    sbatch("true")
    for name, content in (("squeue", f"echo {state}"), ("scontrol", f"echo $* > {tmp_path}/asked"), ("sleep", "true")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{content}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    script = Path(__file__).parents[2] / "slurm" / "after_srun.sh"
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SLURM_JOB_ID": "5"}
    done = subprocess.run([shutil.which("bash"), script, str(code)], env=environment)
    assert done.returncode == code
    assert (tmp_path / "asked").exists() == requeued
