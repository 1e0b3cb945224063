"""Checkpoints that are committed, not written."""
