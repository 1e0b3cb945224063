"""``study cancel`` signals the processes of the study and no others."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import yaml

from hpc_jepa.config.loading import read_config
from hpc_jepa.config.study import StudyConfig
from hpc_jepa.runs.lease import LeaseHolder
from hpc_jepa.runs.process_identity import find_process
from hpc_jepa.runs.run_dir import StudyDir
from hpc_jepa.study.grid import expand_study
from hpc_jepa.study.submit import cancel_study


@pytest.fixture
def cells(tiny_regime, tmp_path):
    (tmp_path / "regime.yaml").write_text(yaml.safe_dump(tiny_regime(2)))
    study = {"study": "demo", "regimes": [str(tmp_path / "regime.yaml")], "variants": ["baseline"], "seeds": [0]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    cells = expand_study(read_config(StudyConfig, [tmp_path / "study.yaml"]), tmp_path / "runs")
    cells[0].folder.mkdir(parents=True)
    return cells


@pytest.fixture
def cancel(cells, tmp_path, monkeypatch):
    """``cancel(**lease)`` cancels a study whose run has this lease; the signals it would send, none of which is."""
    sent = []
    opened = {}
    open_process = os.pidfd_open

    def remember(pid):
        descriptor = open_process(pid)
        opened[descriptor] = pid
        return descriptor

    monkeypatch.setattr(os, "pidfd_open", remember)
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda process, number: sent.append((opened[process], number)))
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))

    def call(**lease):
        holder = {"token": "t", "host": os.uname().nodename, "job": None, "restart": 0, **lease}
        cells[0].run.lease_file.write_text(LeaseHolder.model_validate(holder).model_dump_json())
        assert cancel_study(cells, StudyDir(tmp_path / "runs/demo")).processes == len(sent)
        return sent

    return call


@pytest.fixture
def process():
    """A process that waits, and its identity."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        while (identity := find_process(child.pid)).command[-1:] != ("input()",):
            pass  # it has been forked, but not yet become the program
        yield identity


def test_the_holder_is_signalled(cancel, process):
    assert cancel(process=process.pid, identity=process) == [(process.pid, signal.SIGTERM)]


def test_the_holder_is_signalled_on_an_old_kernel(cancel, process, monkeypatch):
    def missing(pid):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", missing)
    assert cancel(process=process.pid, identity=process) == [(process.pid, signal.SIGTERM)]


def test_a_signal_reaches_the_process_itself(process):
    assert process.send_signal(signal.SIGTERM)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("change", [{"start": 1}, {"command": ("other",)}, {"machine": "another boot"}])
def test_another_process_with_its_id_is_not(cancel, process, change):
    assert cancel(process=process.pid, identity=process.model_copy(update=change)) == []


def test_a_lease_that_proves_nothing_signals_nobody(cancel, process):
    assert cancel(process=process.pid) == []


@pytest.mark.parametrize("pid", [-1, 0, 1])
def test_process_groups_and_init_are_never_signalled(cancel, process, pid):
    identity = find_process(1) or process
    assert cancel(process=pid, identity=identity.model_copy(update={"pid": pid})) == []
