"""Memory that a process can still use: of the machine, and of its control groups (of Slurm, of a container)."""

from pathlib import Path

import psutil

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def free_memory() -> int:
    """Bytes that are free or can be reclaimed without swapping, within all limits on this process."""
    return min([psutil.virtual_memory().available, *_free_of_groups(MEMBERSHIP, CGROUPS)])


def _free_of_groups(membership: Path, root: Path) -> list[int]:
    """Free bytes of each limited memory group of a process, as ``/proc/<pid>/cgroup`` names it, and of those above."""
    if not membership.is_file():
        return []
    found = []
    for line in membership.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            home, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            home, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = home / path.strip("/")
        found += [_free(folder, *names) for folder in (group, *group.parents) if folder.is_relative_to(home)]
    return [free for free in found if free is not None]


def _free(group: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """Free bytes of one group; None if it has no limit, or cannot be seen from inside a container."""
    try:
        bound = (group / limit).read_text().strip()
        if bound == "max":
            return None
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(bound) - int((group / usage).read_text()) + int(counts.get(reclaimable, 0))
    except OSError:
        return None
