"""Profiling of training steps (``hpc-jepa train --profile``) and model FLOP utilisation (MFU)."""
