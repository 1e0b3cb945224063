"""Holds the lease of a folder until its heartbeat has been renewed."""

import sys

from hpc_jepa.runs import lease
from hpc_jepa.runs.run_dir import RunDir

lease.HEARTBEAT_INTERVAL = 0.01
run = RunDir(sys.argv[1])
with lease.hold_lease(run) as held:
    written = run.lease_file.stat().st_mtime_ns
    while run.lease_file.stat().st_mtime_ns == written:
        held.check()
