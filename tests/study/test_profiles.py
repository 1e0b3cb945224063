"""Cluster profiles, and the batch scripts that submitit writes from them."""

import pickle
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from hpc_jepa.config.cluster import PROFILES, find_profile
from hpc_jepa.errors import InputError
from hpc_jepa.io.resources import list_resources
from hpc_jepa.study.slurm_submitter import SlurmSubmitter
from hpc_jepa.study.task import StudyTask, run_in_job

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
    """``sbatch(text)`` puts a script of that text on the PATH as sbatch, and an srun that does nothing."""

    def install(text):
        for name, content in (("sbatch", text), ("srun", "true")):
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{content}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    return install


@pytest.mark.parametrize("name", sorted(list_resources(PROFILES)))
def test_every_profile_that_comes_with_the_project_is_valid(name):
    assert find_profile(name).cluster.about


def test_times_in_any_slurm_format_are_minutes(profile):
    assert profile().cluster.train.time == 26 * 60 + 30
    assert profile(evaluate={"cpus_per_node": 1, "time": "00:00:30"}).cluster.evaluate.time == 1


@pytest.mark.parametrize(
    ("changes", "location"),
    [
        ({"partitions": "gpu"}, r"site.yaml:\d+: partitions: .*'partition'"),
        ({"evaluate": {"cpus_per_node": 1, "time": "soon"}}, r"site.yaml:\d+: evaluate.time: "),
        ({"evaluate": {"cpus_per_node": 1, "gpus_per_node": 2, "time": 1}}, r"site.yaml:\d+: evaluate"),
        (
            {"evaluate": {"cpus_per_node": 9, "gpus_per_node": 2, "tasks_per_node": 4, "time": 1}},
            r"site.yaml:\d+: evaluate",
        ),
        ({"sbatch": {"time": 5}}, r"site.yaml.*sbatch.*time"),
        ({"srun": {"cpus_per_task": 5}}, r"site.yaml.*srun.*cpus-per-task"),
    ],
)
def test_an_invalid_profile_is_refused_with_line_and_key(profile, changes, location):
    with pytest.raises(InputError, match=location):
        profile(**changes)


def test_an_unknown_profile_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"smal: .*'small'"):
        find_profile("smal")


@pytest.mark.parametrize(
    ("message", "key"),
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
def test_an_sbatch_error_keeps_its_message_and_names_the_profile_key(profile, sbatch, tmp_path, message, key):
    sbatch(f"echo '{message}' >&2; exit 1")
    submitter = SlurmSubmitter(profile(), tmp_path / "jobs", "demo")
    with pytest.raises(InputError, match=key) as raised:
        submitter.submit_array([StudyTask("train", tmp_path, (("train",),))])
    assert message in str(raised.value)


def test_a_batch_script_holds_the_settings_of_the_profile(profile, sbatch, tmp_path):
    sbatch('cp "$1" script; echo "Submitted batch job 12"')
    site = profile(
        account="mine", reservation="tuesday", exclude=["bad1", "bad2"], sbatch={"nice": 100},
        max_concurrent_jobs=3, signal_seconds=77,
        setup=["module load cuda"], environment={"A": "b c"}, nccl={"interface": "ib0", "infiniband": False},
        shared_memory_gib=2, python="apptainer exec image.sif python3",
        srun={"container-image": "/a b.sqsh", "container-writable": True, "container-mount-home": False},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        tasks = [StudyTask("train", tmp_path / str(n), (("train",),)) for n in range(5)]
        jobs = SlurmSubmitter(site, tmp_path / "jobs", "demo").submit_array(tasks, "afterok:9")
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
    (srun,) = [shlex.split(line) for line in script.splitlines() if line.startswith("srun ")]
    assert {"--container-image=/a b.sqsh", "--container-writable", "--cpus-per-task=8"} <= set(srun)
    assert not any("home" in word for word in srun)
    assert script.index("module load") < script.index("srun") < script.index("after_srun.sh")


@pytest.mark.parametrize(
    ("state", "code", "requeued"),
    [
        ("RUNNING", 130, True),
        ("RUNNING", 128 + signal.SIGUSR1, True),
        ("RUNNING", 128 + signal.SIGUSR2, True),
        ("RUNNING", 128 + signal.SIGTERM, False),
        ("RUNNING", 1, False),
        ("CANCELLED", 130, False),
    ],
)
def test_a_job_is_requeued_only_if_it_saved_and_was_not_cancelled(tmp_path, sbatch, state, code, requeued):
    sbatch("true")
    for name, content in (
        ("squeue", f"echo {state}"),
        ("scontrol", f"echo $* > {tmp_path}/requeued"),
        ("sleep", "true"),
    ):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{content}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    script = Path(__file__).parents[2] / "slurm" / "after_srun.sh"
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "SLURM_JOB_ID": "5"}
    done = subprocess.run([shutil.which("bash"), script, str(code)], env=environment)
    assert done.returncode == code
    assert (tmp_path / "requeued").exists() == requeued


def test_jobs_in_the_queue_since_release_0_1_still_load():
    assert pickle.loads(b"chpc_jepa.study.task\nin_job\n.") is run_in_job
    assert pickle.loads(b"chpc_jepa.study.task\nTask\n.") is StudyTask
