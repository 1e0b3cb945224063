"""Free memory within the limits of control groups, of version 1 and 2."""

import psutil
import pytest

from hpc_jepa.io import free_memory as module

V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


def group(folder, names, limit, used, reclaimable):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=False):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {reclaimable}\n")


@pytest.fixture
def free(tmp_path, monkeypatch):
    """Free memory of a process of these groups."""
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(module, "MEMBERSHIP", tmp_path / "cgroup")

    def measure(*membership):
        (tmp_path / "cgroup").write_text("\n".join(membership) + "\n")
        return module.free_memory()

    return measure


@pytest.mark.parametrize(
    ("names", "line", "home"),
    [
        (V1, "4:memory:/slurm/job/step", "memory"),
        (V1, "4:cpu,memory:/slurm/job/step", "memory"),
        (V2, "0::/slurm/job/step", ""),
    ],
)
def test_the_tightest_of_all_groups_counts(free, tmp_path, names, line, home):
    job = tmp_path / "groups" / home / "slurm" / "job"
    group(job, names, 1000, 300, 50)
    group(job / "step", names, 900, 100, 0)
    assert free("1:cpuset:/elsewhere", line) == 750
    group(job / "step", names, 900, 800, 1)
    assert free(line) == 101


def test_without_limits_the_memory_of_the_machine_counts(free, tmp_path, monkeypatch):
    available = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    group(tmp_path / "groups" / "job", V2, "max", 100, 0)
    assert free("0::/job") == available.available
    assert free("0::/outside/of/the/container") == available.available
    (tmp_path / "cgroup").unlink()
    assert module.free_memory() == available.available
