"""The ``hpc-jepa`` command: argument parsing and printing only."""

from hpc_jepa.cli.app import main

__all__ = ["main"]
