"""Weights & Biases, MLflow and Trackio: each in a process of its own, which follows ``metrics.jsonl``."""
