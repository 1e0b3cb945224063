"""Evaluation tasks: each returns the results and predictions that become one record."""
