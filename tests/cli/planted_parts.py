"""Parts of a GPU check that go wrong in one way each, for ``test_gpu_check.py``."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hpc_jepa.cli.gpu_check.part import SkipPartError, Verdict

SLEEP = 3600


def fine(context):
    context.row("Figures", name="first", value=1.5)
    context.row("Figures", name="second", value=3)
    context.warn("a limitation")
    return Verdict("ok", "fine")


def reports_environment(context):
    return Verdict("ok", " ".join(sorted(name for name in os.environ if name.startswith(("SLURM_", "WORLD")))))


def hangs(context):
    """With a child in a session of its own, which ignores signals, and writes its process id."""
    child = [
        sys.executable,
        "-c",
        f"import signal, time; signal.signal(signal.SIGTERM, lambda *_: 0); time.sleep({SLEEP})",
    ]
    process = subprocess.Popen(child, start_new_session=True)
    context.row("Children", pid=process.pid)
    print("waiting for something", flush=True)
    time.sleep(SLEEP)


def crashes(context):
    context.row("Figures", name="before", value=1)
    raise ValueError("a planted error")


def dies(context):
    os.kill(os.getpid(), signal.SIGSEGV)


def lacks_dali(context):
    sys.modules["nvidia"] = None
    import nvidia.dali  # noqa: F401


def lacks_own_package(context):
    import a_package_that_does_not_exist  # noqa: F401


def skips(context):
    raise SkipPartError("no such device")


def interrupts_the_check(context):
    """As Ctrl-C: the runner is the parent."""
    context.row("Figures", name="before", value=1)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(SLEEP)


def leaves_files(context):
    Path(context.folder, "left").write_text("x")
    return Verdict("ok", str(context.folder))
