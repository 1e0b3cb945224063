"""The grid of runs: expand, launch, follow."""
