"""A run on disk: its folder, state, metrics, lease and restarts."""
