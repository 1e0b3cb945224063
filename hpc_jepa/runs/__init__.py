"""A run on disk: its folder, state, metrics, records, lease and restarts. Only this package names the files."""

from hpc_jepa.runs.run_dir import RunDir, open_run

__all__ = ["RunDir", "open_run"]
