"""In a PID namespace of its own: the holder of a lease is killed, and a stranger gets its process id."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from hpc_jepa.runs.lease import hold_lease, read_holder
from hpc_jepa.runs.run_dir import RunDir

run = RunDir(sys.argv[1])
ready, done = os.pipe()
holder = os.fork()
if holder == 0:
    with hold_lease(run):
        os.write(done, b"x")
        signal.pause()
os.read(ready, 1)
os.kill(holder, signal.SIGKILL)
os.waitpid(holder, 0)
Path("/proc/sys/kernel/ns_last_pid").write_text(str(holder - 1))
stranger = subprocess.Popen(["sleep", "600"])
recorded = read_holder(run)
with hold_lease(run):
    seen = {
        "same id": stranger.pid == holder == recorded.process,
        "recognised": recorded.identity.is_running,
        "taken over": read_holder(run).process == os.getpid(),
        "alive": stranger.poll() is None,
    }
stranger.kill()
print(json.dumps(seen))
