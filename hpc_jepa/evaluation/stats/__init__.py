"""Intervals and comparisons: paired clips, unpaired counts, and several pretraining seeds."""
