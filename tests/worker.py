"""Run a script as ``python SCRIPT`` does, but import what it needs faster.  usage: worker.py SCRIPT ARGUMENTS"""

import runpy
import sys
from pathlib import Path

from hpc_jepa.io.imports import uncollected_imports

if __name__ == "__main__":
    with uncollected_imports():
        import hpc_jepa.training.loop  # noqa: F401
    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
