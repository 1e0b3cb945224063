"""Checkpoints: atomic commits, verification, retention, export, and pretrained encoders."""
