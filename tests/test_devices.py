"""Device choice as a table: environments as Slurm 22.05, torchrun and deepspeed set them, and what torch sees there."""

import ast
import threading
from pathlib import Path

import pytest
import torch

import hpc_jepa
from hpc_jepa.checkpoint.writer import CheckpointWriter
from hpc_jepa.config.training import CheckpointConfig
from hpc_jepa.data.prefetch import Prefetcher
from hpc_jepa.devices import Gpus, choose_device, gpu_names, thread_pool, visible_names
from hpc_jepa.errors import InputError

DRIVER = {"driver": "535.104.05", "build": "2.13.0+cu130", "cuda": "13.0"}


def srun(rank, tasks, visible, step=None, on_node=2, node=0, **more):
    """The variables of a job step."""
    gpus = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible, "SLURM_STEP_GPUS": step or visible}
    return {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "0",
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": str(node),
        "SLURM_STEP_NUM_TASKS": {"2(x2)": "4", "2,1": "3"}.get(tasks, tasks),
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        **gpus,
        **({"SLURM_GPUS_ON_NODE": str(on_node)} if on_node else {}),
        **more,
    }


def torchrun(rank, processes, **more):
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(processes),
        **more,
    }


def deepspeed(rank, processes, **more):
    environment = torchrun(rank, processes, **more)
    environment["LOCAL_SIZE"] = environment.pop("LOCAL_WORLD_SIZE")
    return environment


MIGS = "MIG-1,MIG-2"

CHOSEN = {
    "no launcher, no GPU": ({}, 0, "cpu"),
    "no launcher, two GPUs": ({}, 2, "cuda:0"),
    "no launcher, GPUs hidden": ({"CUDA_VISIBLE_DEVICES": ""}, 0, "cpu"),
    "GPUs hidden by an index": ({"CUDA_VISIBLE_DEVICES": "-1"}, 0, "cpu"),
    "GPUs hidden by Slurm": ({"CUDA_VISIBLE_DEVICES": "NoDevFiles", "SLURM_JOB_ID": "7"}, 0, "cpu"),
    "GPUs hidden in a job with GPUs": (srun(0, "1", "", step="0"), 0, "cpu"),
    "a step without GPUs in a job with GPUs": (srun(0, "2", None, on_node=0, SLURM_JOB_GPUS="0,1"), 0, "cpu"),
    "torchrun, one GPU per process": (torchrun(3, 4), 4, "cuda:3"),
    "torchrun, more GPUs than processes": (torchrun(1, 2, CUDA_VISIBLE_DEVICES="GPU-a,GPU-b,GPU-c"), 3, "cuda:1"),
    "torchrun on the CPU": (torchrun(1, 2), 0, "cpu"),
    "torchrun in a job step": ({**srun(0, "1", "0,1,2,3", on_node=4), **torchrun(3, 4)}, 4, "cuda:3"),
    "deepspeed": (deepspeed(2, 4), 4, "cuda:2"),
    "srun --gpus-per-node=2, first": (srun(0, "2", "0,1"), 2, "cuda:0"),
    "srun --gpus-per-node=2, second": (srun(1, "2", "0,1"), 2, "cuda:1"),
    "srun --gpus-per-task=1, first": (srun(0, "2", "0"), 1, "cuda:0"),
    "srun --gpus-per-task=1, second": (srun(1, "2", "1"), 1, "cuda:0"),
    "the same with cgroups": (srun(1, "2", "0", step="1"), 1, "cuda:0"),
    "the same on the second node": (srun(1, "2(x2)", "1", node=1), 1, "cuda:0"),
    "the same after the ranks were set": (
        srun(1, "2", "1", RANK="1", WORLD_SIZE="2", LOCAL_RANK="1"), 1, "cuda:0",
    ),
    "the same with LOCAL_RANK set to the index": (
        srun(1, "2", "1", RANK="1", WORLD_SIZE="2", LOCAL_RANK="0"), 1, "cuda:0",
    ),
    "srun --gpus-per-task=1 with UUIDs": (srun(1, "2", "GPU-b5c3", step="1"), 1, "cuda:0"),
    "srun --gpus-per-task=1 with MIG instances": (srun(3, "4", "MIG-4", on_node=4), 1, "cuda:0"),
    "srun --gpus-per-task=2": (srun(1, "2", "2,3", on_node=4), 2, "cuda:1"),
    "srun --gpu-bind=closest, two sockets": (srun(6, "8", "4,5,6,7", on_node=8), 4, "cuda:2"),
    "fewer tasks on the second node": (srun(0, "2,1", "0,1", node=1), 2, "cuda:0"),
    "a wrapper of mpirun that binds": ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, 1, "cuda:0"),
}  # fmt: skip

REFUSED = {
    "torchrun, one GPU for two processes": (torchrun(0, 2), 1, "2 processes"),
    "torchrun, one visible GPU for two": (torchrun(1, 2, CUDA_VISIBLE_DEVICES="1"), 1, "CUDA_VISIBLE_DEVICES=1"),
    "torchrun in a job step, GPUs narrowed by hand": (
        {**srun(0, "1", "0", on_node=4), **torchrun(3, 4)}, 1, "4 processes",
    ),
    "deepspeed, three GPUs for four": (deepspeed(0, 4), 3, "4 processes"),
    "srun, one GPU for two tasks": (srun(0, "2", "0", on_node=1), 1, "2 processes"),
    "srun --ntasks-per-gpu=2, second": (srun(1, "2", "0", on_node=1), 1, "2 processes"),
    "srun, several MIG instances for all": (srun(1, "2", MIGS), 1, MIGS),
    "torchrun, several MIG instances": (torchrun(1, 2, CUDA_VISIBLE_DEVICES=MIGS), 1, "MIG"),
    "a rank without GPU": ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 1, "2 processes"),
}  # fmt: skip

PROMISED = {
    "indices": ({"CUDA_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES=0,1"),
    "an index that does not exist": ({"CUDA_VISIBLE_DEVICES": "7"}, "CUDA_VISIBLE_DEVICES=7"),
    "a UUID": ({"CUDA_VISIBLE_DEVICES": "GPU-b5c3"}, "GPU-b5c3"),
    "a MIG instance": ({"CUDA_VISIBLE_DEVICES": "MIG-1"}, "MIG-1"),
    "a word of container runtimes": ({"CUDA_VISIBLE_DEVICES": "all"}, "CUDA_VISIBLE_DEVICES=all"),
    "a name that CUDA does not know": ({"CUDA_VISIBLE_DEVICES": "cuda:0"}, "CUDA_VISIBLE_DEVICES=cuda:0"),
    "a step": (srun(0, "1", "0"), "CUDA_VISIBLE_DEVICES=0"),
    "a step that lost the variable": (
        {"SLURM_STEP_ID": "0", "SLURM_STEP_GPUS": "0", "SLURM_JOB_GPUS": "0,1"}, "SLURM_STEP_GPUS=0",
    ),
    "a batch script": ({"SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "0,1"}, "SLURM_JOB_GPUS=0,1"),
    "a count": ({"SLURM_JOB_ID": "7", "SLURM_GPUS_ON_NODE": "2"}, "SLURM_GPUS_ON_NODE=2"),
}  # fmt: skip


@pytest.mark.parametrize(("environment", "count", "expected"), CHOSEN.values(), ids=CHOSEN)
def test_the_device_follows_the_launcher(environment, count, expected):
    assert choose_device("auto", environment, Gpus(count)) == torch.device(expected)
    assert choose_device("cpu", environment, Gpus(count)) == torch.device("cpu")


@pytest.mark.parametrize(("environment", "count", "part"), REFUSED.values(), ids=REFUSED)
def test_fewer_gpus_than_processes_are_refused(environment, count, part):
    with pytest.raises(InputError, match=part):
        choose_device("auto", environment, Gpus(count))


@pytest.mark.parametrize(("environment", "part"), PROMISED.values(), ids=PROMISED)
def test_a_promised_gpu_that_torch_does_not_see_is_refused(environment, part):
    with pytest.raises(InputError) as error:
        choose_device("auto", environment, Gpus(0, **DRIVER))
    for named in (part, "535.104.05", "2.13.0+cu130", "engine.device=cpu"):
        assert named in str(error.value)
    assert choose_device("cpu", environment, Gpus(0, **DRIVER)) == torch.device("cpu")


@pytest.mark.parametrize(
    ("gpus", "part"),
    [
        (Gpus(0, ("/dev/nvidia0",), None, "2.13.0+cpu", None), "without CUDA"),
        (Gpus(0, ("/dev/nvidia0",), "580.1", "2.13.0+cpu", None), "580.1"),
        (Gpus(0, ("/dev/nvidia0",), None, "2.13.0+cu130", "13.0"), "no NVIDIA driver"),
    ],
)
def test_device_files_promise_a_gpu_unless_it_is_hidden(gpus, part):
    with pytest.raises(InputError, match=part) as error:
        choose_device("auto", {}, gpus)
    assert "/dev/nvidia0" in str(error.value)
    assert gpus.build in str(error.value)
    for hidden in ("", " ", "-1", "-1,0", "NoDevFiles", "none", "void"):
        assert choose_device("auto", {"CUDA_VISIBLE_DEVICES": hidden}, gpus).type == "cpu"


def test_cuda_on_purpose_is_never_the_cpu():
    with pytest.raises(InputError, match=r"engine\.device=cuda"):
        choose_device("cuda", {"CUDA_VISIBLE_DEVICES": ""}, Gpus(0))
    assert choose_device("cuda", {}, Gpus(1)) == torch.device("cuda:0")


def test_a_local_rank_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="LOCAL_RANK=first"):
        choose_device("auto", {"RANK": "0", "LOCAL_RANK": "first"}, Gpus(1))


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("0, 2", ["0", "2"]),
        ("GPU-a,MIG-b", ["GPU-a", "MIG-b"]),
        ("1,-1,2", ["1"]),
        ("", []),
        ("NoDevFiles", []),
        ("none", []),
    ],
)
def test_names_up_to_the_first_invalid_entry(value, names):
    assert visible_names(value) == names


@pytest.mark.parametrize(
    ("environment", "count", "names"),
    [
        ({}, 2, ["0", "1"]),
        ({}, 0, []),
        ({"CUDA_VISIBLE_DEVICES": "3,1"}, 2, ["3", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}, 2, ["GPU-a", "GPU-b"]),
        ({"CUDA_VISIBLE_DEVICES": "0,9"}, 1, ["0"]),
        ({"CUDA_VISIBLE_DEVICES": MIGS}, 1, ["MIG-1", "MIG-2"]),
        ({"CUDA_VISIBLE_DEVICES": MIGS}, 0, []),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, []),
    ],
)
def test_gpus_for_child_processes(environment, count, names):
    assert gpu_names(environment, count) == names


@pytest.fixture
def set_devices(monkeypatch):
    """Stands in for CUDA on device 3; records the device that each thread set."""
    devices = {}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: devices.update({threading.get_ident(): device}))
    return devices


def test_threads_use_the_device_of_their_creator(set_devices, tmp_path):
    seen = []

    def make(item):
        seen.append((threading.current_thread().name, set_devices.get(threading.get_ident())))
        return item

    prefetcher = Prefetcher(make, ahead=2, name="batches")
    prefetcher.get(0)
    prefetcher.close()
    with CheckpointWriter(tmp_path, CheckpointConfig(), check_lease=lambda: make(0)) as writer:
        writer._worker.submit(make, 0).result()
    assert {name.split("_")[0] for name, _ in seen} == {"batches", "checkpoint-writer"}
    assert {device for _, device in seen} == {3}


def test_threads_of_a_process_without_cuda_set_no_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: pytest.fail("set_device was called"))
    with thread_pool(1, "test") as pool:
        assert pool.submit(lambda: 1).result() == 1


HOST_ONLY = {
    "devices.py",  # thread_pool itself
    "checkpoint/integrity.py",  # hashes files
    "data/shards/verify.py",  # hashes and decodes on the CPU, in a process without CUDA
    "study/slots.py",  # waits for child processes
    "cli/gpu_check/processes.py",  # the same
}


def test_every_other_pool_of_threads_sets_its_device():
    package = Path(hpc_jepa.__file__).parent
    direct = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ThreadPoolExecutor"
    }
    assert direct <= HOST_ONLY
