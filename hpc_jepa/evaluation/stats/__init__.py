"""Confidence intervals and tests for accuracies: paired, unpaired, and over pretraining seeds."""
