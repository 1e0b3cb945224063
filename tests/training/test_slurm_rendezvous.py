"""The ranks of a Slurm step meet at one address, named in a private file that no other start reads."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import namedtuple
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from hpc_jepa.errors import HpcJepaError, InputError
from hpc_jepa.training import slurm_rendezvous
from hpc_jepa.training.slurm_rendezvous import file_name, listen, node_addresses, read_address, slurm_store

WORKER = Path(__file__).parent / "workers" / "slurm_store.py"
STEP = {
    "SLURM_CLUSTER_NAME": "c-1",
    "SLURM_JOB_ID": "40",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURMD_NODENAME": "node07",
}
Address = namedtuple("Address", "family address")


def task(rank, folder, timeout=300, **step):
    """A process of the step."""
    environment = {**os.environ, **STEP, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), **step}
    command = [sys.executable, WORKER, folder, str(timeout)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(folder):
    return [path.name for path in folder.glob(".rendezvous-*")]


def test_two_tasks_meet_on_loopback_and_the_file_goes(tmp_path):
    folder = tmp_path / "runs" / "new"
    processes = [task(rank, folder) for rank in (1, 0)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [output.split() for output, _ in outputs] == [["met", "1"], ["met", "0", "127.0.0.1"]]
    assert files(folder) == []


def test_a_requeued_job_meets_beside_an_older_copy_that_waits(tmp_path):
    """Rank 0 of the older copy waits for a rank that died; its rank 1 must not find the newer copy, and vice versa."""
    older = task(0, tmp_path)
    try:
        while not (files(tmp_path) or older.poll() is not None):
            time.sleep(0.02)
        (name,) = files(tmp_path)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        newer = [task(rank, tmp_path, SLURM_RESTART_COUNT="1") for rank in (0, 1)]
        outputs = [process.communicate() for process in newer]
        assert [process.returncode for process in newer] == [0, 0], outputs
        assert older.poll() is None
        assert files(tmp_path) == []  # the file of the older start goes too
    finally:
        older.kill()
        older.communicate()


def test_files_that_are_old_go_and_those_of_other_starts_stay(tmp_path):
    kept = [".rendezvous-c_1-40-2-1-0", ".rendezvous-c_1-41-0-0-0", ".rendezvous-c_1-40-7-0-0", ".rendezvous-x"]
    gone = [".rendezvous-c_1-40-1-0-0", ".rendezvous-other-9-0-0-0"]
    for name in (*kept, *gone):
        (tmp_path / name).touch()
    (tmp_path / ".rendezvous-other-8-0-0-0").symlink_to(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").touch()
    long_ago = time.time() - 3600
    os.utime(tmp_path / ".rendezvous-other-9-0-0-0", (long_ago, long_ago))
    os.utime(tmp_path / ".rendezvous-other-8-0-0-0", (long_ago, long_ago), follow_symlinks=False)
    alone = {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_RESTART_COUNT": "2"}
    slurm_store(alone, tmp_path, timedelta(seconds=60))
    assert sorted(files(tmp_path)) == sorted(kept)
    assert (tmp_path / "config.yaml").exists()


def test_every_start_and_every_command_has_a_file_of_its_own():
    changes = [
        {},
        {"SLURM_RESTART_COUNT": "1"},
        {"SLURM_STEP_ID": "1"},
        {"SLURM_JOB_ID": "41"},
        {"HPC_JEPA_COMMAND_NUMBER": "1"},
        {"SLURM_CLUSTER_NAME": "../b"},
    ]
    names = {file_name({**STEP, **change}) for change in changes}
    assert len(names) == len(changes)
    assert not any("/" in name for name in names)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_file_that_was_there_before_is_neither_written_nor_followed(rank, tmp_path):
    target = tmp_path / "target"
    target.write_text("kept")
    (tmp_path / file_name(STEP)).symlink_to(target)
    with pytest.raises(HpcJepaError, match="rendezvous"):
        slurm_store({**STEP, "SLURM_PROCID": rank}, tmp_path, timedelta(seconds=60))
    assert target.read_text() == "kept"


def published(folder, content=None, mode=0o600):
    """The file of another process."""
    file = folder / file_name(STEP)
    file.write_text(json.dumps([file.name, "127.0.0.1", 4000]) + "\n" if content is None else content)
    file.chmod(mode)
    return file


def test_only_a_complete_file_is_read(tmp_path):
    assert read_address(tmp_path / file_name(STEP)) is None
    assert read_address(published(tmp_path, "")) is None
    assert read_address(published(tmp_path, '["x", "127')) is None
    assert read_address(published(tmp_path)) == ("127.0.0.1", 4000)


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (None, 0o620),
        (None, 0o602),
        ('[".rendezvous-c_1-39-0-0-0", "127.0.0.1", 4000]\n', 0o600),
        ("{}\n", 0o600),
        ("\0\n", 0o600),
    ],
)
def test_a_file_that_others_can_write_or_of_another_start_is_refused(content, mode, tmp_path):
    with pytest.raises(HpcJepaError, match=r"rendezvous-c_1-40-0-0-0"):
        read_address(published(tmp_path, content, mode))


def test_a_file_of_another_user_is_refused(tmp_path, monkeypatch):
    file = published(tmp_path)
    monkeypatch.setattr(slurm_rendezvous.os, "geteuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(HpcJepaError):
        read_address(file)


def test_a_pipe_in_place_of_the_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / file_name(STEP), 0o600)
    with pytest.raises(HpcJepaError):
        read_address(tmp_path / file_name(STEP))


def test_a_rank_that_waits_in_vain_names_the_file(tmp_path):
    with pytest.raises(HpcJepaError, match=file_name(STEP)) as caught:
        slurm_store({**STEP, "SLURM_PROCID": "1"}, tmp_path, timedelta(seconds=0.1))
    assert "\n" not in str(caught.value)


def test_a_rank_waits_for_the_last_line(tmp_path):
    """The file is written while the rank already looks at it."""
    found = []
    waits = threading.Thread(
        target=lambda: found.append(slurm_rendezvous._wait_for(file, timedelta(seconds=300), refresh=True))
    )
    file = published(tmp_path, "")
    waits.start()
    published(tmp_path)
    waits.join()
    assert found == [("127.0.0.1", 4000)]


INTERFACES = {
    "lo": [Address(socket.AF_INET, "127.0.0.1")],
    "ib0": [Address(socket.AF_INET6, "fe80::1%ib0"), Address(socket.AF_INET, "10.0.0.7")],
    "ib1": [Address(socket.AF_INET6, "fe80::2%ib1"), Address(socket.AF_INET6, "fd00::2")],
    "ib2": [Address(socket.AF_PACKET, "00:00")],
}
HOSTS = {"node07": ["127.0.1.1", "192.168.0.7"], "debian": ["127.0.1.1"], "127.0.0.2": ["127.0.0.2"]}


@pytest.fixture
def interfaces(monkeypatch):
    """The interfaces and names of a node with two networks."""

    def resolve(name, port, **options):
        if name not in HOSTS:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in HOSTS[name]]

    monkeypatch.setattr(slurm_rendezvous.psutil, "net_if_addrs", lambda: INTERFACES)
    monkeypatch.setattr(slurm_rendezvous.socket, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    ("step", "addresses"),
    [
        ({"SLURM_STEP_NUM_NODES": "1"}, ["127.0.0.1"]),
        ({"SLURM_STEP_NUM_NODES": "1", "GLOO_SOCKET_IFNAME": "ib0"}, ["127.0.0.1"]),
        ({}, ["192.168.0.7"]),
        ({"SLURMD_NODENAME": "127.0.0.2"}, ["127.0.0.2"]),
        ({"GLOO_SOCKET_IFNAME": "ib0"}, ["10.0.0.7"]),
        ({"GLOO_SOCKET_IFNAME": "ib1", "NCCL_SOCKET_IFNAME": "ib0"}, ["fd00::2"]),
        ({"NCCL_SOCKET_IFNAME": "ib,eth"}, ["10.0.0.7"]),
        ({"NCCL_SOCKET_IFNAME": "=ib1"}, ["fd00::2"]),
        ({"NCCL_SOCKET_IFNAME": "^docker"}, ["192.168.0.7"]),
    ],
)
def test_the_address_is_that_of_the_interface_or_of_the_node(step, addresses, interfaces):
    assert node_addresses({**STEP, "SLURM_STEP_NUM_NODES": "2", **step}) == addresses


@pytest.mark.parametrize(
    ("step", "named"),
    [
        ({"SLURMD_NODENAME": "debian"}, r"debian.*127\.0\.1\.1"),
        ({"SLURMD_NODENAME": "nowhere"}, "nowhere"),
        ({"GLOO_SOCKET_IFNAME": "ib"}, "GLOO_SOCKET_IFNAME=ib"),
        ({"GLOO_SOCKET_IFNAME": "ib2"}, "GLOO_SOCKET_IFNAME=ib2"),
        ({"NCCL_SOCKET_IFNAME": "=ib"}, "NCCL_SOCKET_IFNAME==ib"),
    ],
)
def test_a_node_without_a_reachable_address_is_refused(step, named, interfaces):
    with pytest.raises(InputError, match=named):
        node_addresses({**STEP, "SLURM_STEP_NUM_NODES": "2", **step})


def test_without_the_names_of_slurm_the_host_name_counts(interfaces, monkeypatch):
    """A container may pass only some of Slurm's variables on."""
    monkeypatch.setattr(slurm_rendezvous.socket, "gethostname", lambda: "node07")
    step = {name: value for name, value in STEP.items() if name not in ("SLURMD_NODENAME", "SLURM_STEP_NUM_NODES")}
    assert node_addresses(step) == ["192.168.0.7"]


def test_an_address_of_another_machine_is_refused(monkeypatch):
    monkeypatch.setattr(slurm_rendezvous, "node_addresses", lambda step: ["192.0.2.1"])  # reserved for documentation
    with pytest.raises(InputError, match=r"192\.0\.2\.1"):
        listen(STEP)


def test_only_the_chosen_address_listens(tmp_path):
    """All sockets of this process before and after, with a store that uses another loopback address."""
    step = {**STEP, "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "1", "SLURMD_NODENAME": "127.0.0.3"}

    def listening():
        connections = psutil.Process().net_connections("all")
        return {each.laddr for each in connections if each.status == psutil.CONN_LISTEN}

    before = listening()
    store = slurm_store(step, tmp_path, timedelta(seconds=60))
    assert listening() - before == {("127.0.0.3", store.port)}
