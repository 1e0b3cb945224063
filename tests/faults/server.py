"""Imports hpc_jepa once and runs each requested command in a forked child, with faults. Requests are JSON lines.

The shim is preloaded into this process; a rule is added in the child alone.
"""

import ctypes
import gc
import importlib
import itertools
import json
import os
import signal
import sys
import traceback
from pathlib import Path

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWPID = 0x20000, 0x4000000, 0x20000000
MS_PRIVATE_RECURSIVE = 0x44000
PR_SET_PDEATHSIG = 1
CAPABILITY_VERSION_3 = 0x20080522
PRELOADED = ("hpc_jepa.cli.app", "hpc_jepa.training.loop", "hpc_jepa.evaluation.evaluator")


def mount(libc, kind, place, options=""):
    if libc.mount(kind.encode(), place.encode(), kind.encode(), 0, options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {place}")


def enter_namespaces(libc, request):
    """Another machine, as far as a process can see, or other mounts; returns in a child of a new PID namespace."""
    flags = CLONE_NEWNS | (CLONE_NEWUTS | CLONE_NEWPID if request["host"] else 0)
    if libc.unshare(flags) or libc.mount(b"none", b"/", None, MS_PRIVATE_RECURSIVE, None):
        raise OSError(ctypes.get_errno(), "no namespaces")
    if request["host"]:
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            os._exit(os.waitstatus_to_exitcode(status) % 256)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.sethostname(request["host"].encode(), len(request["host"]))
        mount(libc, "proc", "/proc")
    for place, size in request["disks"].items():
        mount(libc, "tmpfs", place, f"size={size}")


def raise_in(place, after):
    """Replace a function or method: it raises RuntimeError after so many calls."""
    module, _, name = place.partition(":")
    *outer, name = name.split(".")
    owner = importlib.import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    real, calls = getattr(owner, name), itertools.count()

    def unlucky(*arguments, **keywords):
        if next(calls) >= after:
            raise RuntimeError("planted")
        return real(*arguments, **keywords)

    setattr(owner, name, unlucky)


def prepare(request):
    libc = ctypes.CDLL(None, use_errno=True)
    if request["host"] or request["disks"]:
        enter_namespaces(libc, request)
    if request["without_privileges"] and os.geteuid() == 0:  # file modes count for root, too
        libc.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())
    for place, value in request["values"].items():
        module, _, name = place.partition(":")
        setattr(importlib.import_module(module), name, value)
    if request["raises"]:
        place, after = request["raises"]
        raise_in(place, after)
    for call, path, number, skip, count in request["faults"]:
        libc.fault_add(call.encode(), path.encode(), number, skip, count)
    if request["clock"]:
        libc.fault_clock(ctypes.c_long(request["clock"]))


def run(request):
    """The exit code of the command."""
    os.setsid()
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from hpc_jepa.cli import main

    try:
        prepare(request)
        sys.argv = ["hpc-jepa", *request["arguments"]]
        main()
    except SystemExit as end:
        return end.code or 0
    finally:
        hits = ctypes.CDLL(None).fault_hits
        Path(request["output"]).with_suffix(".hits").write_text(json.dumps([*map(hits, range(len(request["faults"])))]))
    return 0


def main():
    for name in PRELOADED:
        importlib.import_module(name)
    from hpc_jepa.distributed import set_ds_accelerator

    set_ds_accelerator("cpu")
    from hpc_jepa.training.uncompiled import import_muon

    import_muon()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = run(request)
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(code)
        print(child, flush=True)


if __name__ == "__main__":
    main()
