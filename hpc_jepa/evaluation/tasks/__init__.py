"""Evaluation tasks: probes, few-shot, robustness and text alignment."""
