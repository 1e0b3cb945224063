"""The process of one part: ``python -m hpc_jepa.cli.gpu_check.worker TARGET FOLDER EVENTS MODE``."""

import json
import sys
from importlib import import_module
from pathlib import Path

from hpc_jepa.cli.gpu_check.part import Mode, PartContext, SkipPartError, Verdict
from hpc_jepa.io.imports import uncollected_imports

OPTIONAL = {
    "nvidia": "DALI (pip install 'hpc_jepa[cuda13]' or 'hpc_jepa[cuda12]')",
    "triton": "Triton, which comes with the CUDA builds of torch",
    "pytest": "pytest (pip install 'hpc_jepa[test]')",
}
"""Packages by their import name without which parts are skipped; any other missing package fails the part."""


def run_target(target: str, context: PartContext) -> Verdict:
    """The verdict of a part; skipped if it raises SkipPartError or needs an optional package that is not installed."""
    module, _, function = target.partition(":")
    try:
        with uncollected_imports():
            part = import_module(module)
        verdict: Verdict = getattr(part, function)(context)
        return verdict
    except SkipPartError as reason:
        return Verdict("skipped", str(reason))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OPTIONAL:
            raise
        return Verdict("skipped", f"not installed: {OPTIONAL[package]}")


def run_worker(target: str, folder: str, events: str, mode: str) -> None:
    """Run a part. Any other exception ends this process; the runner reads its last line from the log."""
    context = PartContext(Mode(**json.loads(mode)), Path(folder), Path(events))
    context.finish(run_target(target, context))


if __name__ == "__main__":
    run_worker(*sys.argv[1:])
