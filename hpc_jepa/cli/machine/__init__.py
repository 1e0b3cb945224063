"""Checks of ``hpc-jepa doctor``, one module per part of the machine."""
